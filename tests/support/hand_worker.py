"""A worker that a test steps by hand: the real queue and backlog, with replies that identify their graph.

And a client's request with the outcomes that are allowed for it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.graphs.serialization import pack_graph
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.lanes import Lane
from deepergatgnn.service.messages import Delivery, InferenceReply, InferenceRequest, ModelOutput, PackedGraph
from deepergatgnn.service.queue.client import InferenceClient
from deepergatgnn.service.queue.cluster import ClusterState
from deepergatgnn.service.queue.consumer import RequestConsumer
from deepergatgnn.service.scheduling.admission import Admission
from deepergatgnn.service.scheduling.batching import Backlog
from deepergatgnn.service.settings import Settings
from tests.support.fixtures import some_crystals

LEASE_S = 0.02
DELIVERIES = 3
MODELS = ("bulk-modulus@1.0.0", "shear-modulus@1.0.0")


def packed(count: int) -> list[PackedGraph]:
    graphs = [build_graph(crystal, GraphConfig()) for crystal in some_crystals(count)]
    return [PackedGraph(pack_graph(graph), graph.n_nodes, graph.n_links, graph.n_edges) for graph in graphs]


def answer_for(entry: InferenceRequest) -> InferenceReply:
    """Return a reply whose values identify the graph."""
    outputs = [ModelOutput(model, float(len(entry.packed)), 0, 0, True, 0, (), ()) for model in entry.models]  # noqa: FBT003
    return InferenceReply(entry.id, tuple(outputs))


class HandWorker:
    """A worker that does one thing at a time."""

    def __init__(self, client: "Redis", name: str) -> None:
        self.queue = RequestConsumer(client, name, LEASE_S)
        self.backlog: Backlog[Delivery] = Backlog()
        self.held: dict[tuple[Lane, bytes], Delivery] = {}
        self.computed: list[tuple[Delivery, InferenceReply | None]] = []

    def accept(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.place not in self.held:
                self.held[delivery.place] = delivery
                self.backlog.add(delivery, 0.01)


@contextmanager
def unless_forgotten() -> Iterator[None]:
    """Ignore a broker that has lost its consumer groups, as the worker does."""
    try:
        yield
    except ResponseError as error:
        if not str(error).startswith("NOGROUP"):
            raise


@dataclass(eq=False)
class Asked:
    """A request and its outcome.

    Attributes:
        graph: of the crystal.
        poison: whether the crystal ends the worker that computes it.
        task: of the client.
        down: whether the broker was down when the client asked.
        withdrawn: whether the client left.
        alone: computations after it had been taken over.
    """

    graph: PackedGraph
    poison: bool
    task: "asyncio.Task[list[InferenceReply]]"
    down: bool = False
    withdrawn: bool = False
    alone: int = 0

    def judge(self) -> None:
        """Assert the reply for its own graph, or the one error that fits."""
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
            assert self.alone >= DELIVERIES - 1, "dead-lettered without having been computed"
        else:
            assert error.code == "deadline_passed"


@asynccontextmanager
async def api_process(url: str) -> AsyncIterator[InferenceClient]:
    """The queue's side of an API process: the client, and the cluster state that adds lost requests again."""
    client = InferenceClient(url)
    cluster = ClusterState(client, Admission(Settings()), Settings())
    await client.start()
    await cluster.start()
    try:
        yield client
    finally:
        await cluster.stop()
        await client.stop()


async def asked_until(client: InferenceClient, graph: PackedGraph, request_id: str, lane: Lane, deadline: float) -> Any:
    """Ask until a deadline, as `PredictionPipeline.answer` does."""
    try:
        async with asyncio.timeout(deadline - time.time()):
            return await client.ask(
                [(graph, MODELS)],
                deadline=time.monotonic() + deadline - time.time(),
                request_id=request_id,
                attention=False,
                lane=lane,
            )
    except TimeoutError:
        raise ServiceError("deadline_passed", "the deadline passed") from None
