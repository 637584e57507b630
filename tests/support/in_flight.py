"""A desk where identical crystals come in, with a stand-in for the workers that answers when it is told to."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from deepergatgnn.model_store import ModelStore
from deepergatgnn.service.lanes import INTERACTIVE, Lane
from deepergatgnn.service.messages import InferenceReply, ModelOutput, PackedGraph
from deepergatgnn.service.parsing.featurize import Parsed, parse
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.service.prediction.catalogue import Catalogue
from deepergatgnn.service.prediction.pipeline import Document, PredictionInput, PredictionPipeline
from deepergatgnn.service.prediction.result_cache import ResultCache
from deepergatgnn.service.queue.client import InferenceClient
from deepergatgnn.service.scheduling.admission import Admission, Demand
from deepergatgnn.service.scheduling.fairness import INTERNAL, Flow
from deepergatgnn.service.settings import Settings
from deepergatgnn.structures import crystal_to_pymatgen
from tests.support.fixtures import some_crystals

MODEL = "bulk-modulus"
STRUCTURE = crystal_to_pymatgen(some_crystals(5)[3])
POSCAR = STRUCTURE.to(fmt="poscar")
SUPERCELL = (STRUCTURE * (2, 1, 1)).to(fmt="poscar")
HOUR_S = 3600.0
RESULTS = ("hit", "miss", "shared")


class Workers:
    """Stands in for dispatcher and workers: an answer when the test says so; weights by element."""

    def __init__(self) -> None:
        self.admission = Admission(Settings())
        self.asked: list[tuple[Lane, tuple[str, ...], asyncio.Future[Exception | None]]] = []

    def ensure_accepting(self) -> None:
        """There is time."""

    async def ask(self, parts: Sequence[tuple[PackedGraph, Sequence[str]]], **wanted: Any) -> list[InferenceReply]:
        """What the worker says, once it does."""
        told: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.asked.append((wanted["lane"], tuple(name for _, names in parts for name in names), told))
        error = await told
        if error is not None:
            raise error
        return [
            InferenceReply("", tuple(self._say(graph, name, len(self.asked)) for name in names), inference_ms=1.0)
            for graph, names in parts
        ]

    def _say(self, graph: PackedGraph, name: str, value: int) -> ModelOutput:
        kinds = sorted(set(graph.colours))
        weights = [1.0 + kinds.index(colour) for colour in graph.colours]
        shares = tuple(weight / sum(weights) for weight in weights)
        return ModelOutput(name, float(value), 0.0, 9.0, in_domain=True, score=0.1, reasons=(), attention=shares)

    def tell(self, number: int, error: Exception | None = None) -> None:
        """Answer who asked as the number-th."""
        self.asked[number][2].set_result(error)


class Parser:
    """Stands in for the pool."""

    async def parse(
        self, source: str, file_format: Any, configs: Any, lane: Lane, rounds: int, *, sites: bool, flow: Flow
    ) -> Parsed:
        """In this process; `lane` and `flow` are all the same to it."""
        del lane, flow
        return _parsed(source, file_format, tuple(configs), rounds=rounds, sites=sites)


_parsed = cache(parse)


@dataclass
class Desk:
    """An oracle whose workers are a test's."""

    workers: Workers
    cache: ResultCache
    oracle: PredictionPipeline

    def post(
        self,
        source: str = POSCAR,
        lane: Lane = INTERACTIVE,
        seconds: float = HOUR_S,
        models: Sequence[str] = (MODEL,),
    ) -> "asyncio.Task[Document]":
        """A crystal on its way."""

        async def answer() -> Document:
            with self.workers.admission.admit(lane, INTERNAL, Demand(0.001, 0.001)) as ticket:
                return await self.oracle.answer(
                    PredictionInput(source, "poscar", models, attention=True, embedding=False, id=None),
                    request_id="r",
                    started=time.perf_counter(),
                    deadline=time.monotonic() + seconds,
                    lane=lane,
                    ticket=ticket,
                )

        return asyncio.create_task(answer())

    @property
    def waiting_s(self) -> float:
        """Seconds of work that are admitted."""
        return sum(self.workers.admission.waiting_s.values())


@asynccontextmanager
async def desk(size: int = 100) -> AsyncIterator[Desk]:
    """Set one up; in the end nothing may be left of what was under way."""
    workers, results = Workers(), ResultCache(size)
    pool, client = cast("ParsePool", Parser()), cast("InferenceClient", workers)
    oracle = PredictionPipeline(Catalogue(ModelStore()), pool, client, workers.admission, results)
    made = Desk(workers, results, oracle)
    yield made
    assert results._flights == {}
    assert all(load.crystals == 0 for load in workers.admission.lanes.values())
    assert made.waiting_s == pytest.approx(0, abs=1e-9)


async def settled() -> None:
    """Everybody has had a turn."""
    for _ in range(20):
        await asyncio.sleep(0)


def scenario(work: Callable[[Desk], Awaitable[None]], size: int = 100) -> None:
    """Do something at a desk of its own."""

    async def act() -> None:
        async with desk(size) as made:
            await work(made)

    asyncio.run(act())


def counted() -> Counter[str]:
    """What the metric says."""
    name = "deepergatgnn_cache_total"
    return Counter({each: int(REGISTRY.get_sample_value(name, {"result": each}) or 0) for each in RESULTS})


def weights(answer: Document) -> list[float]:
    """Of the atoms, for the one model."""
    return [atom["weight"] for atom in answer["predictions"][0]["attention"]]
