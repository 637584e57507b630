"""Metrics: named and counted as documented, none undocumented; ids of requests in logs and answers."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from deepergatgnn.service.telemetry import metrics
from tests.conftest import SMALL, running, until
from tests.support.brokers import free_port

TABLE = re.compile(r"^\| `(deepergatgnn_\w+)` \| (API|worker) \| (.*?) \| (.*?) \|$", re.MULTILINE)
POSCAR = Path("examples/ZnO.POSCAR").read_text("utf-8")


def defined() -> dict[str, tuple[Metric, tuple[str, ...]]]:
    """The family of each metric by its name, and its labels."""
    found = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            [family] = metric.describe()
            found[family.name + ("_total" if family.type == "counter" else "")] = family, tuple(metric._labelnames)
    return found


def documented() -> dict[str, tuple[str, str, str]]:
    return {row[0]: (row[1], row[2], row[3]) for row in TABLE.findall(Path("service/README.md").read_text("utf-8"))}


def test_every_metric_is_documented_as_it_is() -> None:
    found = {}
    for name, (family, labels) in defined().items():
        found[name] = ", ".join(f"`{label}`" for label in labels), family.documentation
    assert {name: row[1:] for name, row in documented().items()} == found


def test_names_are_in_base_units() -> None:
    for name, (family, _) in defined().items():
        assert name.startswith("deepergatgnn_")
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|mib|percent)(_|$)", name), name
        assert (family.type == "counter") == name.endswith("_total")
        if family.type == "histogram":
            assert name.endswith(("_seconds", "_ratio", "_structures")), name
        if family.type == "gauge":
            assert name.endswith(("_seconds", "_ratio", "_admitted", "_ready", "_workers", "_threads")), name


Samples = dict[str, dict[tuple[str, ...], float]]


def scraped(address: str) -> Samples:
    samples: Samples = {}
    for family in text_string_to_metric_families(httpx.get(f"{address}/metrics", timeout=10).text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return samples


def batches(samples: Samples) -> float:
    """Crystals that went through batches, of all workers."""
    return sum(samples["deepergatgnn_batch_structures_sum"].values())


@dataclass(frozen=True)
class Observed:
    """What a service exported and logged.

    Attributes:
        api, worker: metrics of the processes.
        reply: to the request with an id of its own.
        lines: of the log.
    """

    api: Samples
    worker: Samples
    reply: httpx.Response
    lines: list[dict[str, Any]]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """A service with logs of requests and a port for the worker's metrics, after a few requests."""
    port, log = str(free_port()), tmp_path_factory.mktemp("log") / "stderr"
    environment = {"DEEPERGATGNN_LOG_LEVEL": "info", "DEEPERGATGNN_METRICS_PORT": port, "DEEPERGATGNN_MODELS": SMALL}
    with log.open("wb") as errors:
        command = ("serve", "--port", "0")
        with running(*command, ready="^ready on ", stderr=errors, **environment) as (_, line):
            address = line.removeprefix("ready on ")
            body = {"structure": POSCAR, "models": ["bulk-modulus"]}
            for _ in range(2):
                assert httpx.post(f"{address}/predict", json=body, timeout=60).status_code == 200
            reply = httpx.post(f"{address}/predict", json=body, headers={"X-Request-ID": "my-run:7"}, timeout=60)
            assert reply.status_code == 200
            bad = httpx.post(f"{address}/predict", json={"structure": "x"}, timeout=60)
            assert bad.status_code == 422
            worker = scraped(f"http://127.0.0.1:{port}")
            until(lambda: batches(scraped(address)) == batches(worker) == 3, "the API has the metrics of the heartbeat")
            api = scraped(address)
    return Observed(api, worker, reply, [json.loads(line) for line in log.read_text("utf-8").splitlines()])


def test_the_processes_serve_what_the_table_says_and_count_what_happens(observed: Observed) -> None:
    api, worker = observed.api, observed.worker
    assert {name for name in worker if not name.startswith("process_") and not name.endswith("_created")} <= api.keys()
    for name, (process, _, _) in documented().items():
        family, labels = defined()[name]
        base = name + "_count" if family.type == "histogram" else name
        assert labels or base in (api if process == "API" else worker), name
    assert api["deepergatgnn_structures_total"][()] == 3
    assert api["deepergatgnn_atoms_total"][()] == 3 * 4
    assert api["deepergatgnn_failures_total"]["unreadable",] == 1
    assert api["deepergatgnn_requests_total"]["/predict", "200"] == 3
    assert api["deepergatgnn_requests_total"]["/predict", "422"] == 1
    phases = api["deepergatgnn_phase_seconds_count"]
    assert {phases[phase,] for phase in ("parse", "graph", "queue", "batch_wait", "inference", "total")} == {3}
    assert api["deepergatgnn_event_loop_lag_seconds_count"][()] > 10
    assert worker["deepergatgnn_batch_structures_sum"][()] == 3
    assert worker["deepergatgnn_batch_seconds_count"][()] == 3


def test_the_id_of_a_request_is_in_its_answer_and_in_the_logs(observed: Observed) -> None:
    """From the header into the log of the API; that of the worker names it where an entry fails (`test_engine`)."""
    reply, lines = observed.reply, observed.lines
    assert reply.headers["x-request-id"] == "my-run:7"
    assert reply.json()["id"] == "my-run:7"
    [request] = [line for line in lines if line.get("request_id") == "my-run:7"]
    assert (request["event"], request["status"], request["route"]) == ("request", 200, "/predict")
    assert request["milliseconds"] > 0
    assert {line["logger"] for line in lines} >= {"api", "worker"}
