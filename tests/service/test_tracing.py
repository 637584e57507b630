"""Spans of an answer, and where they are sent: a real collector's HTTP door."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import ValidationError

from service import settings as module
from service.settings import Settings
from tests.conftest import service

CIF = Path("examples/ZrO2.cif").read_text("utf-8")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(BaseHTTPRequestHandler):
    received: list[bytes] = []  # noqa: RUF012 - of the one server of a test

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


def test_an_answer_is_a_span_with_its_phases_in_the_trace_of_its_client() -> None:
    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        with service(
            DEEPERGATGNN_TRACING="true", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, DEEPERGATGNN_DRAIN_GRACE_S="0"
        ) as address:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "traced-1"}
            reply = httpx.post(f"{address}/predict", json={"structure": CIF}, headers=headers, timeout=60)
    finally:
        server.shutdown()
        server.server_close()
    sent = [ExportTraceServiceRequest.FromString(content) for content in Collector.received]
    spans = {
        span.name: span for each in sent for r in each.resource_spans for scope in r.scope_spans for span in scope.spans
    }
    assert set(spans) == {"predict", "parse", "graph", "queue", "inference"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    whole = spans.pop("predict")
    assert whole.parent_span_id.hex() == PARENT
    assert {"traced-1", "Zr4O8"} == {attribute.value.string_value for attribute in whole.attributes}
    latency = reply.json()["latency_ms"]
    for name, span in spans.items():
        assert span.parent_span_id == whole.span_id
        assert whole.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= whole.end_time_unix_nano
        assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 == pytest.approx(latency[name], abs=0.01)


def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ValidationError, match=r"deepergatgnn\[tracing\]"):
        Settings(tracing=True)
    assert not Settings().tracing
