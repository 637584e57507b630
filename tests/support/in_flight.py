"""A prediction pipeline whose stand-in for the workers replies when the test says so."""

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
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.service.parsing.wire import ParsedStructure
from deepergatgnn.service.prediction.catalogue import Catalogue
from deepergatgnn.service.prediction.pipeline import PredictionInput, PredictionPipeline
from deepergatgnn.service.prediction.result_cache import ResultCache
from deepergatgnn.service.queue.client import InferenceClient
from deepergatgnn.service.scheduling.admission import Admission, Demand
from deepergatgnn.service.scheduling.fairness import INTERNAL, Flow
from deepergatgnn.service.schemas import PredictResponse
from deepergatgnn.service.settings import Settings
from deepergatgnn.structures import crystal_to_pymatgen
from tests.support.fixtures import some_crystals
from tests.support.parsing import parse

MODEL = "bulk-modulus"
STRUCTURE = crystal_to_pymatgen(some_crystals(5)[3])
POSCAR = STRUCTURE.to(fmt="poscar").encode()
SUPERCELL = (STRUCTURE * (2, 1, 1)).to(fmt="poscar").encode()
HOUR_S = 3600.0
RESULTS = ("hit", "miss", "shared")


class Workers:
    """Stand-in for the inference client: replies when the test says so; attention by the colour of the atom.

    Attributes:
        requests: lane, versions and outcome of each request.
        has_attention: whether the outputs have attention.
    """

    def __init__(self) -> None:
        self.admission = Admission(Settings())
        self.requests: list[tuple[Lane, tuple[str, ...], asyncio.Future[Exception | None]]] = []
        self.has_attention = True

    def ensure_accepting(self) -> None:
        """Accept everything."""

    async def ask(self, parts: Sequence[tuple[PackedGraph, Sequence[str]]], **options: Any) -> list[InferenceReply]:
        """Wait for `reply`."""
        outcome: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.requests.append((options["lane"], tuple(name for _, names in parts for name in names), outcome))
        error = await outcome
        if error is not None:
            raise error
        return [
            InferenceReply("", tuple(self._output(graph, name, len(self.requests)) for name in names), inference_ms=1.0)
            for graph, names in parts
        ]

    def _output(self, graph: PackedGraph, name: str, value: int) -> ModelOutput:
        kinds = sorted(set(graph.colours))
        weights = [1.0 + kinds.index(colour) for colour in graph.colours]
        shares = tuple(weight / sum(weights) for weight in weights) if self.has_attention else None
        output = ModelOutput(name, float(value), 0.0, 9.0, in_domain=True, score=0.1, reasons=(), attention=shares)
        output.attention_reason = None if self.has_attention else "it has none"
        return output

    def reply(self, number: int, error: Exception | None = None) -> None:
        """Reply to a request, by its number."""
        self.requests[number][2].set_result(error)


class Parser:
    """Stand-in for the parse pool."""

    async def parse(
        self, source: bytes, file_format: Any, configs: Any, lane: Lane, rounds: int, *, sites: bool, flow: Flow
    ) -> ParsedStructure:
        """Parse in this process, whatever the lane and the flow."""
        del lane, flow
        return _parsed(source, file_format, tuple(configs), rounds=rounds, sites=sites)


_parsed = cache(parse)


@dataclass
class Desk:
    """A pipeline, its cache and its workers."""

    workers: Workers
    cache: ResultCache
    pipeline: PredictionPipeline

    def post(
        self,
        source: bytes = POSCAR,
        lane: Lane = INTERACTIVE,
        seconds: float = HOUR_S,
        models: Sequence[str] = (MODEL,),
    ) -> "asyncio.Task[PredictResponse]":
        """Begin to predict a structure."""

        async def answer() -> PredictResponse:
            with self.workers.admission.admit(lane, INTERNAL, Demand(0.001, 0.001)) as ticket:
                return await self.pipeline.answer(
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
        """Predicted seconds of admitted work."""
        return sum(self.workers.admission.waiting_s.values())


@asynccontextmanager
async def desk(size: int = 100) -> AsyncIterator[Desk]:
    """Set one up; at the end nothing may be in flight or admitted."""
    workers, results = Workers(), ResultCache(size)
    pool, client = cast("ParsePool", Parser()), cast("InferenceClient", workers)
    pipeline = PredictionPipeline(Catalogue(ModelStore()), pool, client, workers.admission, results)
    made = Desk(workers, results, pipeline)
    yield made
    assert results._in_flight == {}
    assert all(load.crystals == 0 for load in workers.admission.lanes.values())
    assert made.waiting_s == pytest.approx(0, abs=1e-9)


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def scenario(work: Callable[[Desk], Awaitable[None]], size: int = 100) -> None:
    """Run a test with a pipeline of its own."""

    async def act() -> None:
        async with desk(size) as made:
            await work(made)

    asyncio.run(act())


def counted() -> Counter[str]:
    """Return the counts of the metric."""
    name = "deepergatgnn_cache_total"
    return Counter({each: int(REGISTRY.get_sample_value(name, {"result": each}) or 0) for each in RESULTS})


def weights(answer: PredictResponse) -> list[float]:
    """Return the weights of the atoms for the only model."""
    return [atom["weight"] for atom in answer["predictions"][0]["attention"] or ()]
