"""A worker of which every step is a test's: the real queue and backlog, answers that say of which graph they are.

Beside it what a client asked, and what may become of that.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.graphs.serialization import pack_graph
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.messages import Delivery, InferenceReply, InferenceRequest, Lane, ModelOutput, PackedGraph
from deepergatgnn.service.queue.client import InferenceClient
from deepergatgnn.service.queue.consumer import RequestConsumer
from deepergatgnn.service.scheduling.batching import Backlog
from tests.support.fixtures import some_crystals

LEASE_S = 0.02
DELIVERIES = 3
MODELS = ("bulk-modulus@1.0.0", "shear-modulus@1.0.0")


def packed(count: int) -> list[PackedGraph]:
    graphs = [build_graph(crystal, GraphConfig()) for crystal in some_crystals(count)]
    return [PackedGraph(pack_graph(graph), graph.n_nodes, graph.n_links, graph.n_edges) for graph in graphs]


def answer_for(entry: InferenceRequest) -> InferenceReply:
    """What says of which graph it is."""
    said = [ModelOutput(model, float(len(entry.packed)), 0, 0, True, 0, (), ()) for model in entry.models]  # noqa: FBT003
    return InferenceReply(entry.id, tuple(said))


class HandWorker:
    """A worker that does one thing at a time."""

    def __init__(self, client: "Redis", name: str) -> None:
        self.queue = RequestConsumer(client, name, LEASE_S)
        self.backlog = Backlog()
        self.held: dict[tuple[Lane, bytes], Delivery] = {}
        self.computed: list[tuple[Delivery, InferenceReply | None]] = []

    def accept(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.place not in self.held:
                self.held[delivery.place] = delivery
                self.backlog.add(delivery, 0.01)


@contextmanager
def unless_forgotten() -> Iterator[None]:
    """As `Worker` and `Upkeep` do: that a broker has forgotten its groups ends no worker."""
    try:
        yield
    except ResponseError as error:
        if not str(error).startswith("NOGROUP"):
            raise


@dataclass(eq=False)
class Asked:
    """A request, and what became of it.

    Attributes:
        graph: of the crystal.
        poison: whether the crystal ends the worker that computes it.
        task: the client.
        down: whether there was no broker when the client asked.
        withdrawn: whether the client left.
        alone: times that it was computed after it had been taken over.
    """

    graph: PackedGraph
    poison: bool
    task: "asyncio.Task[list[InferenceReply]]"
    down: bool = False
    withdrawn: bool = False
    alone: int = 0

    def judge(self) -> None:
        """Its own answer, or the one error that fits what happened."""
        if self.task.cancelled():
            assert self.withdrawn
            return
        error = self.task.exception()
        if error is None:
            [found] = self.task.result()
            assert tuple(p.model for p in found.predictions) == MODELS
            assert {p.value for p in found.predictions} == {len(self.graph.content)}
            assert not self.poison
            assert not self.down
            return
        assert isinstance(error, ServiceError)
        if self.down:
            assert error.code == "broker_unavailable"
        elif error.code == "prediction_failed":
            assert self.alone >= DELIVERIES - 1, "given up without having been tried"
        else:
            assert error.code == "deadline_passed"


async def asked_until(
    dispatcher: InferenceClient, graph: PackedGraph, request_id: str, lane: Lane, deadline: float
) -> Any:
    """As `PredictionPipeline.answer` does: the deadline ends the wait."""
    try:
        async with asyncio.timeout(deadline - time.time()):
            return await dispatcher.ask(
                [(graph, MODELS)],
                deadline=time.monotonic() + deadline - time.time(),
                request_id=request_id,
                attention=False,
                lane=lane,
            )
    except TimeoutError:
        raise ServiceError("deadline_passed", "the deadline passed") from None
