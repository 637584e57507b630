"""Metrics of workers: reported to the API through the broker, and served by each worker on loopback."""

import errno
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from deepergatgnn.errors import ConfigError
from deepergatgnn.service.telemetry import metrics

PORTS_TRIED = 64


def observe_batch(crystals: int, fill: float, predicted_s: float, measured_s: float) -> None:
    """Record a computed batch; `fill` is its share of the time budget."""
    metrics.BATCH_STRUCTURES.observe(crystals)
    metrics.BATCH_SECONDS.observe(measured_s)
    metrics.BATCH_FILL.observe(fill)
    metrics.COST_ERROR.observe(measured_s / max(predicted_s, 1e-6))


def worker_report() -> bytes:
    """Return this worker's samples in the text format that `merge_reports` reads."""
    return generate_latest(metrics.WORKER_REGISTRY)


def merge_reports(reports: Mapping[str, str]) -> bytes:
    """Return the metrics of this API process and those of its workers.

    Args:
        reports: texts of `worker_report` by the name of the worker, which becomes the label `worker`.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reports(reports))
    return generate_latest() + generate_latest(registry)


class _Reports(Collector):
    """The samples of several workers; an unreadable report is counted and skipped."""

    def __init__(self, reports: Mapping[str, str]) -> None:
        self._reports = reports

    def collect(self) -> Iterable[Metric]:
        """Return the families that this release defines."""
        families = {
            each.name: Metric(each.name, each.documentation, each.type) for each in metrics.WORKER_REGISTRY.collect()
        }
        for worker, text in self._reports.items():
            try:
                samples = [
                    (family.name, sample.name, sample.labels | {"worker": worker}, float(sample.value))
                    for family in text_string_to_metric_families(text)
                    if family.name in families and family.type == families[family.name].type
                    for sample in family.samples
                    if sample.name.startswith(family.name) and not sample.name.endswith("_created")
                ]
            except Exception:  # noqa: BLE001 - the parser raises many types on malformed text
                metrics.UNREADABLE_REPORTS.labels("metrics").inc()
                continue
            for family_name, name, labels, value in samples:
                families[family_name].add_sample(name, labels, value)
        return [family for family in families.values() if family.samples]


def serve_worker_metrics(port: int | None) -> None:
    """Serve this worker's metrics on loopback, on the first free port from `port` on; do nothing for None.

    Raises:
        ConfigError: if no port can be bound.
    """
    if port is None:
        return
    ProcessCollector(registry=metrics.WORKER_REGISTRY)
    for candidate in range(port, port + PORTS_TRIED):
        try:
            start_http_server(candidate, addr="127.0.0.1", registry=metrics.WORKER_REGISTRY)
        except (OSError, OverflowError) as error:
            if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                raise ConfigError(f"metrics_port: cannot listen on port {candidate}: {error}") from None
        else:
            return
    raise ConfigError(f"metrics_port: no port from {port} to {port + PORTS_TRIED - 1} is free")
