"""Spans of an answer, and where they are sent: a real collector's HTTP door."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pydantic import ValidationError

from deepergatgnn.service import settings as module
from deepergatgnn.service.http.predict_batch import NDJSON
from deepergatgnn.service.settings import Settings
from tests.conftest import service

CIF = Path("examples/ZrO2.cif").read_text("utf-8")
POSCAR = Path("examples/ZnO.POSCAR").read_text("utf-8")
SPANS = 5  # of a crystal
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(BaseHTTPRequestHandler):
    received: ClassVar[list[bytes]]

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


def traced(route: str, document: object, **headers: str) -> tuple[httpx.Response, list[Span]]:
    """The reply of a service that sends traces, and the spans it sent."""
    Collector.received = []
    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        with service(
            DEEPERGATGNN_TRACING="true", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, DEEPERGATGNN_DRAIN_GRACE_S="0"
        ) as address:
            sent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "traced-1"} | headers
            reply = httpx.post(f"{address}{route}", json=document, headers=sent, timeout=60)
    finally:
        server.shutdown()
        server.server_close()
    exports = [ExportTraceServiceRequest.FromString(content) for content in Collector.received]
    scopes = [scope for export in exports for resource in export.resource_spans for scope in resource.scope_spans]
    return reply, [span for scope in scopes for span in scope.spans]


def assert_traced(answer: dict[str, Any], spans: list[Span]) -> None:
    """One span for the crystal, in the client's trace, with one for each phase."""
    [whole] = [
        span for span in spans if {a.value.string_value for a in span.attributes} == {"traced-1", answer["formula"]}
    ]
    assert (whole.name, whole.trace_id.hex(), whole.parent_span_id.hex()) == ("predict", TRACE, PARENT)
    phases = [span for span in spans if span.parent_span_id == whole.span_id]
    assert [span.name for span in phases] == ["parse", "graph", "queue", "inference"]
    for span in phases:
        assert span.trace_id == whole.trace_id
        assert whole.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= whole.end_time_unix_nano
        took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
        assert took == pytest.approx(answer["latency_ms"][span.name], abs=0.01)


def test_an_answer_is_a_span_with_its_phases_in_the_trace_of_its_client() -> None:
    reply, spans = traced("/predict", {"structure": CIF})
    assert len(spans) == SPANS
    assert reply.json()["formula"] == "Zr4O8"
    assert_traced(reply.json(), spans)


@pytest.mark.parametrize("accept", ["application/json", NDJSON])
def test_so_is_each_answered_crystal_of_a_bulk_request(accept: str) -> None:
    structures = [{"structure": CIF}, {"structure": "nothing"}, {"structure": POSCAR}]
    reply, spans = traced("/predict/batch", {"structures": structures}, Accept=accept)
    results = reply.json()["results"] if accept != NDJSON else [json.loads(line) for line in reply.text.splitlines()]
    answers = [result for result in results if "error" not in result]
    assert {answer["formula"] for answer in answers} == {"Zr4O8", "Zn2O2"}
    assert len(spans) == 2 * SPANS
    for answer in answers:
        assert_traced(answer, spans)


def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ValidationError, match=r"deepergatgnn\[tracing\]"):
        Settings(tracing=True)
    assert not Settings().tracing
