"""Prometheus metrics of the API process and of a worker, in base units."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from deepergatgnn import __version__

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LAGS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_RATIOS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
_CRYSTALS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Info("deepergatgnn_build", "Version of the package").info({"version": __version__})
REQUESTS = Counter("deepergatgnn_requests_total", "HTTP responses", ["route", "status"])
FAILURES = Counter("deepergatgnn_failures_total", "Crystals answered with an error, by its code", ["reason"])
PHASES = Histogram("deepergatgnn_phase_seconds", "Time of a crystal in each phase", ["phase"], buckets=_SECONDS)
STRUCTURES = Counter("deepergatgnn_structures_total", "Crystals answered with predictions")
ATOMS = Counter("deepergatgnn_atoms_total", "Atoms in answered structures")
EDGES = Counter("deepergatgnn_edges_total", "Edges in answered structures")
OUT_OF_DOMAIN = Counter("deepergatgnn_out_of_domain_total", "Predictions outside the domain of their model", ["model"])
ADMITTED = Gauge("deepergatgnn_admitted", "Crystals admitted and not yet answered", ["lane"])
QUEUE_SECONDS = Gauge("deepergatgnn_queue_seconds", "Predicted seconds until a new crystal is answered", ["lane"])
RATE = Gauge("deepergatgnn_rate_ratio", "Measured over predicted speed of all workers together")
PARSE_RATE = Gauge("deepergatgnn_parse_rate_ratio", "Measured over predicted speed of the parse processes", ["lane"])
ABANDONED = Counter("deepergatgnn_abandoned_total", "Crystals abandoned before their answer, by cause", ["cause"])
RESUBMITTED = Counter("deepergatgnn_resubmitted_total", "Entries lost by the broker and added again")
PARSE_KILLED = Counter("deepergatgnn_parse_killed_total", "Parse processes killed or crashed, by cause", ["cause"])
CACHE = Counter(
    "deepergatgnn_cache_total",
    "Results cached (hit), awaited from an identical crystal (shared), computed (miss)",
    ["result"],
)
UNREADABLE_REPORTS = Counter(
    "deepergatgnn_unreadable_reports_total", "Unreadable heartbeats, API reports, answers and worker metrics", ["kind"]
)
LOOP_LAG = Histogram("deepergatgnn_event_loop_lag_seconds", "Delay of the API's event loop", buckets=_LAGS)
READY = Gauge("deepergatgnn_ready", "1 while the broker is reachable and a worker is alive")
WORKERS = Gauge("deepergatgnn_workers", "Live workers, as seen by this API process")

WORKER_REGISTRY = CollectorRegistry()  # of a worker process, which sends its samples to the API through the broker
BATCH_STRUCTURES = Histogram(
    "deepergatgnn_batch_structures", "Crystals in a batch", buckets=_CRYSTALS, registry=WORKER_REGISTRY
)
BATCH_SECONDS = Histogram(
    "deepergatgnn_batch_seconds", "Time of a batch on the device", buckets=_SECONDS, registry=WORKER_REGISTRY
)
BATCH_FILL = Histogram(
    "deepergatgnn_batch_cost_ratio",
    "Predicted time of a batch over its budget",
    buckets=_RATIOS,
    registry=WORKER_REGISTRY,
)
COST_ERROR = Histogram(
    "deepergatgnn_batch_prediction_ratio",
    "Measured over predicted time of a batch",
    buckets=_RATIOS,
    registry=WORKER_REGISTRY,
)
EXPIRED = Counter("deepergatgnn_expired_total", "Entries dropped after their deadline", registry=WORKER_REGISTRY)
WITHDRAWN = Counter(
    "deepergatgnn_withdrawn_total", "Entries dropped because the API withdrew them", registry=WORKER_REGISTRY
)
TAKEN_OVER = Counter(
    "deepergatgnn_taken_over_total", "Entries taken over from a dead or hung worker", registry=WORKER_REGISTRY
)
DEAD_LETTERS = Counter(
    "deepergatgnn_dead_letters_total", "Entries dead-lettered after several deliveries", registry=WORKER_REGISTRY
)
THREADS = Gauge("deepergatgnn_threads", "Computing threads of a worker on a CPU", registry=WORKER_REGISTRY)
UNREADABLE = Counter(
    "deepergatgnn_unreadable_total",
    "Unreadable entries (dead-lettered) and unreadable withdrawals (dropped)",
    ["kind"],
    registry=WORKER_REGISTRY,
)
OUT_OF_MEMORY = Counter(
    "deepergatgnn_out_of_memory_total", "Batches that exceeded the device's memory", registry=WORKER_REGISTRY
)
LOAD_FAILURES = Counter(
    "deepergatgnn_load_failures_total", "Promoted versions that failed to load", ["model"], registry=WORKER_REGISTRY
)


def count_request(route: str, status: int) -> None:
    """Count an HTTP response."""
    REQUESTS.labels(route, status).inc()
