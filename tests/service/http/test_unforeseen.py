"""An unexpected error: a problem with an id and every header, counted, that does not show what it was."""

import asyncio
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from deepergatgnn.service.http.api_keys import ApiKeys
from deepergatgnn.service.http.app import create_app, create_dependencies
from deepergatgnn.service.settings import Settings

CIF = "data_x"


def answer_to(method: str, path: str, **options: Any) -> httpx.Response:
    """Response of an application without catalogue and pipeline, which accepts every request."""

    async def send() -> httpx.Response:
        settings, missing = Settings(), cast("Any", None)
        dependencies = create_dependencies(settings, "unix:///nowhere")
        dependencies.inference.check = lambda *_: None  # type: ignore[method-assign]
        app = create_app(replace(dependencies, catalogue=missing, pipeline=missing), ApiKeys.of(settings))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


@pytest.mark.parametrize(("method", "path"), [("POST", "/predict"), ("GET", "/models")])
def test_an_unexpected_error_is_a_500_problem(method: str, path: str) -> None:
    labels = {"route": path, "status": "500"}
    before = REGISTRY.get_sample_value("deepergatgnn_requests_total", labels) or 0
    with capture_logs() as logs:
        reply = answer_to(method, path, content=CIF, headers={"Content-Type": "text/plain", "X-Request-ID": "mine"})
    assert (reply.status_code, reply.headers["content-type"]) == (500, "application/problem+json")
    assert (reply.json()["code"], reply.json()["request_id"]) == ("internal", "mine")
    assert reply.headers["x-request-id"] == "mine"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "NoneType" not in reply.text
    assert REGISTRY.get_sample_value("deepergatgnn_requests_total", labels) == before + 1
    [line] = [each for each in logs if each["event"] == "unexpected"]
    assert line["request_id"] == "mine"
