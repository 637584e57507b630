"""An error that nobody foresaw: a problem with an id and every header, counted, and not a word of what it was."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from prometheus_client import REGISTRY
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from deepergatgnn.service.http.access import Keys
from deepergatgnn.service.http.app import create_app
from deepergatgnn.service.http.dependencies import PARTS, State
from deepergatgnn.service.http.middleware import build_middleware
from deepergatgnn.service.scheduling.admission import Admission
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry.tracing import Tracing

SETTINGS = Settings()
CIF = "data_x"


def broken() -> State:
    """Parts of which the catalogue and the oracle are missing."""
    cluster = cast("Any", SimpleNamespace(ensure_available=lambda: None))
    missing = cast("Any", None)
    return State(SETTINGS, missing, missing, cluster, Admission(SETTINGS), missing, missing, Tracing(None))


def answer_to(method: str, path: str, **options: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        app = build_middleware(create_app(SETTINGS, "unix:///nowhere"), Keys.of(SETTINGS), SETTINGS)
        parts = broken()

        async def started(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope | {"state": {PARTS: parts}}, receive, send)

        transport = httpx.ASGITransport(started, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


@pytest.mark.parametrize(("method", "path"), [("POST", "/predict"), ("GET", "/models")])
def test_the_client_is_told_that_it_is_not_to_blame(method: str, path: str) -> None:
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
    [said] = [line for line in logs if line["event"] == "unexpected"]
    assert said["request_id"] == "mine"
