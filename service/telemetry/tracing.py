"""OpenTelemetry traces, where that extra is installed: a span for each crystal and one for each of its phases.

The spans are made when the answer is there, from the times that were measured anyway, so that tracing costs nothing on
the way. A `traceparent` header makes them part of the client's trace; the crystals of a bulk request share it. Where
they go is set by the variables of OpenTelemetry, such as OTEL_EXPORTER_OTLP_ENDPOINT.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

with suppress(ImportError):  # the extra `tracing` is not installed
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

PHASES = ("parse", "graph", "queue", "inference")  # in the order of time


class Tracing:
    """The tracer of one API process; without an exporter it does nothing.

    Args:
        exporter: takes the spans; `otlp_exporter()` for the usual one.
    """

    def __init__(self, exporter: "SpanExporter | None" = None) -> None:
        self._provider = None
        if exporter is not None:
            self._provider = TracerProvider()
            self._provider.add_span_processor(BatchSpanProcessor(exporter))

    @property
    def wanted(self) -> bool:
        """Whether `record` does anything."""
        return self._provider is not None

    def record(self, request_id: str, formula: str, latency_ms: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Make the spans of an answered crystal.

        Args:
            request_id: of the request.
            formula: of the crystal.
            latency_ms: of the answer; what its parts leave of the total lies before and between them.
            headers: of the request.
        """
        if self._provider is None:
            return
        tracer = self._provider.get_tracer("deepergatgnn")
        end = time.time_ns()
        start = end - round(latency_ms["total"] * 1e6)
        context = TraceContextTextMapPropagator().extract(dict(headers))
        attributes = {"request_id": request_id, "formula": formula}
        span = tracer.start_span("predict", context, trace.SpanKind.SERVER, attributes, start_time=start)
        inside = trace.set_span_in_context(span)
        took = {phase: round(latency_ms[phase] * 1e6) for phase in PHASES}  # whole ns, so that the last ends with all
        at = end - sum(took.values())
        for phase in PHASES:
            part = tracer.start_span(phase, inside, start_time=at)
            at += took[phase]
            part.end(at)
        span.end(end)

    def close(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            self._provider.shutdown()


def otlp_exporter() -> "SpanExporter":
    """Spans over HTTP to where OTEL_EXPORTER_OTLP_ENDPOINT says.

    Raises:
        ImportError: the extra `tracing` is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra

    return OTLPSpanExporter()
