"""An unexpected error: a problem with an id and every header, counted, that does not show what it was."""

import asyncio
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from deepergatgnn.service.http.api_keys import ApiKeys
from deepergatgnn.service.http.app import create_app, create_dependencies
from deepergatgnn.service.http.dependencies import Dependencies
from deepergatgnn.service.settings import Settings

CIF = "data_x"


class Broken(Dependencies):
    """Dependencies that accept every request and fail to serve it."""

    def check_early(self, *_: object) -> None:
        """Accept it."""


def answer_to(method: str, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        settings = Settings()
        parts = vars(create_dependencies(settings, "unix:///nowhere")) | {"catalogue": None, "pipeline": None}
        app = create_app(Broken(**parts), ApiKeys.of(settings))
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
