"""Early refusals: before key, body and routing, yet with every header, counted, and few lines in the log."""

import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.types import Message, Scope
from structlog.testing import capture_logs

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.api_keys import ApiKeys
from deepergatgnn.service.http.app import create_app, create_dependencies
from deepergatgnn.service.http.dependencies import Dependencies
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry.logs import LOGGED

ORIGIN = "https://lab.example.org"


class Overloaded(Dependencies):
    """Dependencies that refuse every request early."""

    def check_early(self, lane: object, connection: str) -> None:
        """Refuse it."""
        raise ServiceError("overloaded", f"{lane} {connection}", 3)


def refused(count: int, **headers: str) -> list[Message]:
    """The messages that a service with keys sends to requests without one while every request is refused early."""
    settings = Settings(api_keys=("k",), cors_origins=ORIGIN)
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body is read")

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        parts = vars(create_dependencies(settings, "unix:///nowhere"))
        app = create_app(Overloaded(**parts), ApiKeys.of(settings))
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        for _ in range(count):
            scope: Scope = {"type": "http", "method": "POST", "path": "/predict/batch", "headers": raw}
            await app(scope | {"client": ("127.0.0.1", 7)}, receive, send)

    asyncio.run(run())
    return sent


def figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_an_early_refusal_is_a_whole_problem_and_is_counted() -> None:
    figures: list[tuple[str, dict[str, str]]] = [
        ("deepergatgnn_requests_total", {"route": "/predict/batch", "status": "429"}),
        ("deepergatgnn_failures_total", {"reason": "overloaded"}),
    ]
    before = [figure(name, **labels) for name, labels in figures]
    start, body = refused(1, x_request_id="mine", origin=ORIGIN)
    found: dict[str, Any] = {name.decode(): value.decode() for name, value in start["headers"]}
    assert start["status"] == 429
    assert b'"code":"overloaded"' in body["body"]
    assert b"127.0.0.1:7" in body["body"]
    assert (found["retry-after"], found["x-request-id"]) == ("3", "mine")
    assert found["content-type"] == "application/problem+json"
    assert found["access-control-allow-origin"] == ORIGIN
    assert found["x-content-type-options"] == "nosniff"
    assert [figure(name, **labels) for name, labels in figures] == [count + 1 for count in before]


@pytest.mark.parametrize("count", [1, 10 * LOGGED])
def test_few_refusals_are_logged(count: int) -> None:
    with capture_logs() as logs:
        refused(count)
    lines = [line for line in logs if line["event"] == "request"]
    assert 1 <= len(lines) <= 3 * LOGGED  # of each second that passes
    assert lines[0]["code"] == "overloaded"
    assert lines[0]["route"] == "/predict/batch"
