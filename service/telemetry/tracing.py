"""OpenTelemetry traces (extra `tracing`): a span for each crystal, with a child span for each phase.

The spans are made from the measured latencies once the answer is complete, so tracing adds no time to a prediction.
They join the trace of a `traceparent` header, which the crystals of a bulk request share. OpenTelemetry's variables,
such as OTEL_EXPORTER_OTLP_ENDPOINT, set their destination.
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

PHASES = ("parse", "graph", "queue", "inference")  # in chronological order


class Tracing:
    """Tracer of one API process; records nothing without an exporter.

    Args:
        exporter: destination of the spans, such as `otlp_exporter()`.
    """

    def __init__(self, exporter: "SpanExporter | None" = None) -> None:
        self._provider = None
        if exporter is not None:
            self._provider = TracerProvider()
            self._provider.add_span_processor(BatchSpanProcessor(exporter))

    @property
    def enabled(self) -> bool:
        """Whether spans are recorded."""
        return self._provider is not None

    def record(self, request_id: str, formula: str, latency_ms: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Record the spans of an answered crystal.

        Args:
            request_id: id of the HTTP request.
            formula: formula of the crystal.
            latency_ms: latencies of the answer; the phases end together with the total.
            headers: headers of the HTTP request, with `traceparent` or not.
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
        took = {phase: round(latency_ms[phase] * 1e6) for phase in PHASES}  # ns, so that both spans end alike
        at = end - sum(took.values())
        for phase in PHASES:
            part = tracer.start_span(phase, inside, start_time=at)
            at += took[phase]
            part.end(at)
        span.end(end)

    def close(self) -> None:
        """Send the remaining spans."""
        if self._provider is not None:
            self._provider.shutdown()


def otlp_exporter() -> "SpanExporter":
    """Return an exporter that sends spans over HTTP to OTEL_EXPORTER_OTLP_ENDPOINT.

    Raises:
        ImportError: if the extra `tracing` is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra

    return OTLPSpanExporter()
