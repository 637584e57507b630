"""Prometheus metrics, in base units; each process serves its own."""

import errno
from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram, Info, start_http_server

from deepergatgnn import __version__
from service.entries import Answer, Entry

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
PORTS_TRIED = 64

BUILD = Info("deepergatgnn_build", "Version of the package")
BUILD.info({"version": __version__})
REQUESTS = Counter("deepergatgnn_requests_total", "HTTP answers", ["route", "status"])
FAILURES = Counter("deepergatgnn_failures_total", "Crystals that got an error, by its code", ["reason"])
PHASE = Histogram("deepergatgnn_phase_seconds", "Time of a crystal in each phase", ["phase"], buckets=_SECONDS)
STRUCTURES = Counter("deepergatgnn_structures_total", "Crystals answered with predictions")
ATOMS = Counter("deepergatgnn_atoms_total", "Their atoms")
EDGES = Counter("deepergatgnn_edges_total", "Their edges")
OUT_OF_DOMAIN = Counter("deepergatgnn_out_of_domain_total", "Predictions flagged as out of domain", ["model"])
IN_FLIGHT = Gauge("deepergatgnn_in_flight", "Crystals admitted and not yet answered")
READY = Gauge("deepergatgnn_ready", "1 while the broker is reachable and a worker is alive")

BATCH_STRUCTURES = Histogram(
    "deepergatgnn_batch_structures", "Crystals in a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
BATCH_SECONDS = Histogram("deepergatgnn_batch_seconds", "Time of a batch on the device", buckets=_SECONDS)
BATCH_FILL = Histogram(
    "deepergatgnn_batch_edges_ratio", "Edges of a batch over its budget", buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
)
EXPIRED = Counter("deepergatgnn_expired_total", "Entries dropped because their deadline had passed")
TAKEN_OVER = Counter("deepergatgnn_taken_over_total", "Entries taken over from a worker that was gone")
DEAD_LETTERS = Counter("deepergatgnn_dead_letters_total", "Entries given up after several deliveries")


def observe_batch(entries: Sequence[Entry], answers: Sequence[Answer], budget_edges: int) -> None:
    """Count a batch that a worker computed."""
    BATCH_STRUCTURES.observe(len(entries))
    BATCH_SECONDS.observe(max(answer.inference_ms for answer in answers) / 1000)
    BATCH_FILL.observe(sum(entry.graph.n_links for entry in entries) / budget_edges)


def serve_worker_metrics(port: int | None) -> None:
    """Serve this process's metrics on loopback; the next free port where several workers share a host."""
    if port is None:
        return
    for candidate in range(port, port + PORTS_TRIED):
        try:
            start_http_server(candidate, addr="127.0.0.1")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return
    raise OSError(errno.EADDRINUSE, f"no free port for metrics from {port} to {port + PORTS_TRIED - 1}")
