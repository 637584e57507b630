"""Prometheus metrics, in base units; each process serves its own."""

import errno
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sized
from functools import lru_cache
from itertools import accumulate

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Metric,
    ProcessCollector,
    generate_latest,
    start_http_server,
)
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from deepergatgnn import __version__
from deepergatgnn.errors import ConfigError

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LAGS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_RATIOS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
PORTS_TRIED = 64


class _Phases(Collector):
    """A histogram for one thread; a crystal adds to it seven times.

    prometheus_client's own, which any number of threads may use, would take a twentieth of the API's time.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        registry.register(self)

    def observe(self, phase: str, seconds: float) -> None:
        """Count the time of a crystal in a phase."""
        counts = self._counts.get(phase)
        if counts is None:
            counts = self._counts[phase] = [0] * (len(_SECONDS) + 1)
            self._sums[phase] = 0.0
        counts[bisect_left(_SECONDS, seconds)] += 1
        self._sums[phase] += seconds

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The family."""
        family = HistogramMetricFamily(
            "deepergatgnn_phase_seconds", "Time of a crystal in each phase", labels=("phase",)
        )
        bounds = [*map(floatToGoString, _SECONDS), "+Inf"]
        for phase, counts in self._counts.items():
            family.add_metric([phase], list(zip(bounds, accumulate(counts), strict=True)), self._sums[phase])
        yield family


OF_WORKER = CollectorRegistry()  # what a worker counts; the API has it from the broker

BUILD = Info("deepergatgnn_build", "Version of the package")
BUILD.info({"version": __version__})
REQUESTS = Counter("deepergatgnn_requests_total", "HTTP answers", ["route", "status"])
FAILURES = Counter("deepergatgnn_failures_total", "Crystals that got an error, by its code", ["reason"])
PHASES = _Phases()
STRUCTURES = Counter("deepergatgnn_structures_total", "Crystals answered with predictions")
ATOMS = Counter("deepergatgnn_atoms_total", "Their atoms")
EDGES = Counter("deepergatgnn_edges_total", "Their edges")
OUT_OF_DOMAIN = Counter("deepergatgnn_out_of_domain_total", "Predictions flagged as out of domain", ["model"])
ADMITTED = Gauge("deepergatgnn_admitted", "Crystals admitted and not yet answered", ["lane"])
QUEUE_SECONDS = Gauge("deepergatgnn_queue_seconds", "Predicted seconds until a new crystal is answered", ["lane"])
RATE = Gauge("deepergatgnn_rate_ratio", "Measured over predicted speed of all workers together")
PARSE_RATE = Gauge("deepergatgnn_parse_rate_ratio", "Measured over predicted speed of the parse processes", ["lane"])
ABANDONED = Counter("deepergatgnn_abandoned_total", "Crystals given up before the answer, by cause", ["cause"])
RESUBMITTED = Counter("deepergatgnn_resubmitted_total", "Entries that the broker had lost and that were added anew")
PARSE_KILLED = Counter("deepergatgnn_parse_killed_total", "Parse processes killed or dead, by cause", ["cause"])
CACHE = Counter(
    "deepergatgnn_cache_total",
    "Results found (hit), awaited from an identical crystal (shared), asked for (miss)",
    ["result"],
)
UNREADABLE_REPORTS = Counter(
    "deepergatgnn_unreadable_reports_total",
    "Heartbeats, reports of API processes, answers and metrics of workers that could not be read",
    ["kind"],
)
LOOP_LAG = Histogram("deepergatgnn_event_loop_lag_seconds", "Delay of the API's event loop", buckets=_LAGS)
READY = Gauge("deepergatgnn_ready", "1 while the broker is reachable and a worker is alive")
WORKERS = Gauge("deepergatgnn_workers", "Workers that are alive, as this API process sees them")

BATCH_STRUCTURES = Histogram(
    "deepergatgnn_batch_structures",
    "Crystals in a batch",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=OF_WORKER,
)
BATCH_SECONDS = Histogram(
    "deepergatgnn_batch_seconds", "Time of a batch on the device", buckets=_SECONDS, registry=OF_WORKER
)
BATCH_FILL = Histogram(
    "deepergatgnn_batch_cost_ratio", "Predicted time of a batch over its budget", buckets=_RATIOS, registry=OF_WORKER
)
COST_ERROR = Histogram(
    "deepergatgnn_batch_prediction_ratio",
    "Measured over predicted time of a batch",
    buckets=_RATIOS,
    registry=OF_WORKER,
)
EXPIRED = Counter("deepergatgnn_expired_total", "Entries dropped because their deadline had passed", registry=OF_WORKER)
WITHDRAWN = Counter(
    "deepergatgnn_withdrawn_total", "Entries dropped because nobody waited for them any more", registry=OF_WORKER
)
TAKEN_OVER = Counter(
    "deepergatgnn_taken_over_total", "Entries taken over from a worker that was gone", registry=OF_WORKER
)
DEAD_LETTERS = Counter(
    "deepergatgnn_dead_letters_total", "Entries given up after several deliveries", registry=OF_WORKER
)
THREADS = Gauge("deepergatgnn_threads", "Threads that compute, of a worker on a CPU", registry=OF_WORKER)
UNREADABLE = Counter(
    "deepergatgnn_unreadable_total",
    "Entries (dead-lettered) and messages of withdrawals (dropped) that could not be read",
    ["kind"],
    registry=OF_WORKER,
)
OUT_OF_MEMORY = Counter(
    "deepergatgnn_out_of_memory_total", "Batches that the device's memory did not hold", registry=OF_WORKER
)
LOAD_FAILURES = Counter(
    "deepergatgnn_load_failures_total", "Promoted versions that were not sound", ["model"], registry=OF_WORKER
)


@lru_cache(maxsize=1024)
def _requests(route: str, status: int) -> Counter:
    return REQUESTS.labels(route, str(status))


def count_request(route: str, status: int) -> None:
    """Count an HTTP answer."""
    _requests(route, status).inc()


def observe_batch(deliveries: Sized, fill: float, predicted: float, measured: float) -> None:
    """Count a batch that a worker computed: the share of its budget, and its times in seconds."""
    BATCH_STRUCTURES.observe(len(deliveries))
    BATCH_SECONDS.observe(measured)
    BATCH_FILL.observe(fill)
    COST_ERROR.observe(measured / max(predicted, 1e-6))


def worker_report() -> bytes:
    """What this worker has counted, as text for `with_workers`."""
    return generate_latest(OF_WORKER)


class _Reports(Collector):
    """Reports of workers as one, each sample with the name of its worker; a report that is none is left out."""

    def __init__(self, reports: Mapping[str, str]) -> None:
        self._reports = reports

    def collect(self) -> Iterable[Metric]:
        """All families that this release knows."""
        families = {each.name: Metric(each.name, each.documentation, each.type) for each in OF_WORKER.collect()}
        for worker, text in self._reports.items():
            try:
                samples = [
                    (family.name, sample.name, sample.labels | {"worker": worker}, float(sample.value))
                    for family in text_string_to_metric_families(text)
                    if family.name in families and family.type == families[family.name].type
                    for sample in family.samples
                    if sample.name.startswith(family.name) and not sample.name.endswith("_created")
                ]
            except Exception:  # noqa: BLE001 - the parser raises whatever a text that is no report leads it to
                UNREADABLE_REPORTS.labels("metrics").inc()
                continue
            for family_name, name, labels, value in samples:
                families[family_name].add_sample(name, labels, value)
        return [family for family in families.values() if family.samples]


def with_workers(reports: Mapping[str, str]) -> bytes:
    """The metrics of this API process, and those of the workers by name."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reports(reports))
    return generate_latest() + generate_latest(registry)


def serve_worker_metrics(port: int | None) -> None:
    """Serve this process's metrics on loopback; the next free port where several workers share a host."""
    if port is None:
        return
    ProcessCollector(registry=OF_WORKER)
    for candidate in range(port, port + PORTS_TRIED):
        try:
            start_http_server(candidate, addr="127.0.0.1", registry=OF_WORKER)
        except (OSError, OverflowError) as error:
            if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                raise ConfigError(f"metrics_port: cannot listen on port {candidate}: {error}") from None
        else:
            return
    raise ConfigError(f"metrics_port: no port from {port} to {port + PORTS_TRIED - 1} is free")
