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
STRUCTURES = [{"structure": CIF}, {"structure": "nothing"}, {"structure": POSCAR}]
PARENT = "b7ad6b7169203331"


def trace(name: str) -> str:
    """Id of the trace of a request."""
    return f"0af7651916cd43dd8448eb21{name.encode().hex():0>8.8}"


def parent(name: str) -> dict[str, str]:
    """Headers that name the trace and the request."""
    return {"traceparent": f"00-{trace(name)}-{PARENT}-01", "X-Request-ID": f"traced-{name}"}


class Collector(BaseHTTPRequestHandler):
    received: ClassVar[list[bytes]]

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


# Route, document and headers of each request.
REQUESTS: dict[str, tuple[str, object, dict[str, str]]] = {
    "one": ("/predict", {"structure": CIF}, {}),
    "bulk": ("/predict/batch", {"structures": STRUCTURES}, {"Accept": "application/json"}),
    "lines": ("/predict/batch", {"structures": STRUCTURES}, {"Accept": NDJSON}),
}
Traced = dict[str, tuple[httpx.Response, list[Span]]]


@pytest.fixture(scope="module")
def traced() -> Traced:
    """Replies of a service that sends traces, and the spans that it sent for each until it ended."""
    Collector.received = []
    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        with service(DEEPERGATGNN_TRACING="true", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as address:
            replies = {
                name: httpx.post(f"{address}{route}", json=document, headers=parent(name) | headers, timeout=60)
                for name, (route, document, headers) in REQUESTS.items()
            }
    finally:
        server.shutdown()
        server.server_close()
    exports = [ExportTraceServiceRequest.FromString(content) for content in Collector.received]
    scopes = [scope for export in exports for resource in export.resource_spans for scope in resource.scope_spans]
    spans = [span for scope in scopes for span in scope.spans]
    assert {span.trace_id.hex() for span in spans} == {trace(name) for name in REQUESTS}
    return {
        name: (reply, [span for span in spans if span.trace_id.hex() == trace(name)]) for name, reply in replies.items()
    }


def assert_traced(name: str, answer: dict[str, Any], spans: list[Span]) -> None:
    """One span for the crystal, in the client's trace, with one for each phase."""
    [whole] = [
        span
        for span in spans
        if {a.value.string_value for a in span.attributes} == {f"traced-{name}", answer["formula"]}
    ]
    assert (whole.name, whole.trace_id.hex(), whole.parent_span_id.hex()) == ("predict", trace(name), PARENT)
    phases = [span for span in spans if span.parent_span_id == whole.span_id]
    assert [span.name for span in phases] == ["parse", "graph", "queue", "inference"]
    for span in phases:
        assert span.trace_id == whole.trace_id
        assert whole.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= whole.end_time_unix_nano
        took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
        assert took == pytest.approx(answer["latency_ms"][span.name], abs=0.01)


def test_an_answer_is_a_span_with_its_phases_in_the_trace_of_its_client(traced: Traced) -> None:
    reply, spans = traced["one"]
    assert len(spans) == SPANS
    assert reply.json()["formula"] == "Zr4O8"
    assert_traced("one", reply.json(), spans)


@pytest.mark.parametrize("name", ["bulk", "lines"])
def test_so_is_each_answered_crystal_of_a_bulk_request(traced: Traced, name: str) -> None:
    reply, spans = traced[name]
    results = reply.json()["results"] if name == "bulk" else [json.loads(line) for line in reply.text.splitlines()]
    answers = [result for result in results if "error" not in result]
    assert {answer["formula"] for answer in answers} == {"Zr4O8", "Zn2O2"}
    assert len(spans) == 2 * SPANS
    for answer in answers:
        assert_traced(name, answer, spans)


def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ValidationError, match=r"deepergatgnn\[tracing\]"):
        Settings(tracing=True)
    assert not Settings().tracing
