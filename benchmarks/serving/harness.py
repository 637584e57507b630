"""Harness of the serving measures: texts, reference values, interleaved rounds A B A B, and ratios."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.serving.processes import Helper, Load, Result
from benchmarks.serving.request_bodies import BATCH, write_batches, write_singles
from benchmarks.serving.servers import Server

CLIENTS, BATCH_CLIENTS = 64, 2
TOLERANCE = 1e-3  # relative, of values
T = TypeVar("T")


class UnavailableError(Exception):
    """A prerequisite of a measure is missing."""


@dataclass(frozen=True)
class Model:
    """Model of a store; of the shipped store if `store` is empty."""

    name: str
    store: str = ""


@dataclass
class Bench:
    """Processes and parameters of a run.

    Attributes:
        load, background: load processes.
        pipeline: process of the pipeline without a server.
        folder: folder of the request bodies.
        texts: CIF texts of the crystals.
        rounds: number of rounds of each comparison.
        seconds: length of each load run.
        device: device of every server.
    """

    load: Load
    background: Load
    pipeline: Helper
    folder: Path
    texts: Sequence[str]
    rounds: int
    seconds: float
    device: str
    _expected: dict[Model, list[float]] = field(default_factory=dict)

    @cached_property
    def texts_file(self) -> Path:
        """File of the texts, for the pipeline process."""
        path = self.folder / "texts.json"
        path.write_text(json.dumps(self.texts), encoding="utf-8")
        return path

    def singles(self, models: Sequence[str], attention: str = "none") -> Path:
        """Return the file of bodies of single requests."""
        path = self.folder / f"{'-'.join(models)}-{attention}.jsonl"
        return path if path.exists() else write_singles(path, self.texts, models, attention)

    def batches(self, models: Sequence[str], attention: str = "none") -> Path:
        """Return the file of bodies of batch requests."""
        path = self.folder / f"{'-'.join(models)}-{attention}-batch.jsonl"
        return path if path.exists() else write_batches(path, self.texts, models, attention)

    def in_process(self, model: Model, **plan: Any) -> dict[str, Any]:
        """Run the pipeline without a server; see `benchmarks.serving.pipeline_process`."""
        where = {"texts": str(self.texts_file), "store": model.store or None, "model": model.name}
        self.pipeline.send(where | {"device": self.device} | plan)
        return self.pipeline.receive()

    def pipelines(self, model: Model, helpers: Sequence[Helper]) -> float:
        """Measure crystals/s of pipelines that run at the same time."""
        where = {"texts": str(self.texts_file), "store": model.store or None, "model": model.name}
        plan: dict[str, Any] = {"device": self.device, "batch": 64}
        for seconds in (0.5, self.seconds):  # the first run loads and warms up
            for helper in helpers:
                helper.send(where | plan | {"seconds": seconds})
            rates = [float(helper.receive()["rate"]) for helper in helpers]
        return sum(rates)

    def single(self, server: Server, model: Model, attention: str = "none", seconds: float = 0.0) -> Result:
        """Send single requests of many clients and check the answers; `seconds` replaces the usual length."""
        bodies = self.singles([model.name], attention)
        result = self.load.run(server.address, "/predict", bodies, clients=CLIENTS, seconds=seconds or self.seconds)
        if not result.answers:
            raise UnavailableError(f"POST /predict gave no answer: {result.refused}")
        self._check(model, dict(result.documents))
        return result

    def batch(self, server: Server, model: Model, attention: str = "none") -> Result:
        """Send batch requests and check the answer of every crystal."""
        bodies = self.batches([model.name], attention)
        result = self.load.run(server.address, "/predict/batch", bodies, **self.whole_batches)
        if not result.answers:
            raise UnavailableError(f"POST /predict/batch gave no answer: {result.refused}")
        answers = [answer for _, document in result.documents for answer in document["results"]]
        assert len(answers) == BATCH * len(result.documents), "a batch came back with another number of results"
        self._check(model, {int(answer["id"]): answer for answer in answers})
        return result

    @property
    def whole_batches(self) -> dict[str, Any]:
        """Plan of a fixed number of batches, which ends with the last answer."""
        return {"clients": BATCH_CLIENTS, "most": 2 * self.seconds, "seconds": 120.0, "warm_s": 0.0, "kept": 2}

    def _check(self, model: Model, answers: Mapping[int, Any]) -> None:
        """Check that every value equals that of the pipeline."""
        if model not in self._expected:
            self._expected[model] = self.in_process(model)["values"]
        for index, answer in answers.items():
            expected = self._expected[model][index]
            (prediction,) = answer["predictions"]
            assert abs(prediction["value"] - expected) <= TOLERANCE * max(1.0, abs(expected)), (index, answer, expected)


def interleaved(sides: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Run every side once a round, in turn."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            found[name].append(run())
    return found


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round, in which the machine is equally busy for both sides."""
    return round(statistics.median(one / other for one, other in zip(above, below, strict=True)), 3)


def median(values: Sequence[float | None]) -> float | None:
    """Rounded median of the values that are not None."""
    there = [value for value in values if value is not None]
    return round(statistics.median(there), 2) if there else None


def cpu_ms(server: Server, run: Callable[[], Result], crystals: int = 1) -> tuple[Result, dict[str, float]]:
    """Execute a load run; return it with the CPU milliseconds per crystal of each part of the server."""
    before = server.cpu_s()
    result = run()
    spent = server.cpu_s()
    done = max(1, result.replies * crystals)
    return result, {role: round(1e3 * (used - before[role]) / done, 3) for role, used in spent.items()}
