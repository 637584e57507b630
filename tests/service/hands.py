"""A worker of which every step is a test's: the real queue and backlog, answers that say of which graph they are."""

import asyncio
import time
from typing import Any

from redis.asyncio import Redis

from deepergatgnn.crystal_graph import GraphConfig
from deepergatgnn.graph import build_graph
from service.batching import Backlog
from service.dispatcher import Dispatcher
from service.entries import Answer, Entry, Lane, ModelAnswer
from service.errors import ServiceError
from service.graph_bytes import pack_graph
from service.parsing import PackedGraph
from service.work_queue import Delivery, WorkQueue
from tests.fixtures import some_crystals

LEASE_S = 0.02


def packed(count: int) -> list[PackedGraph]:
    graphs = [build_graph(crystal, GraphConfig()) for crystal in some_crystals(count)]
    return [PackedGraph(pack_graph(graph), graph.n_nodes, graph.n_links, graph.n_edges) for graph in graphs]


def answer_for(entry: Entry) -> Answer:
    """What says of which graph it is."""
    said = [ModelAnswer(model, float(len(entry.packed)), 0, 0, True, 0, (), ()) for model in entry.models]  # noqa: FBT003
    return Answer(entry.id, tuple(said))


class HandWorker:
    """A worker that does one thing at a time."""

    def __init__(self, client: "Redis", name: str) -> None:
        self.queue = WorkQueue(client, name, LEASE_S)
        self.backlog = Backlog()
        self.held: dict[tuple[Lane, bytes], Delivery] = {}
        self.computed: list[tuple[Delivery, Answer | None]] = []

    def accept(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.place not in self.held:
                self.held[delivery.place] = delivery
                self.backlog.add(delivery, 0.01)


async def asked_until(dispatcher: Dispatcher, graph: PackedGraph, request_id: str, lane: Lane, deadline: float) -> Any:
    """As `Oracle.answer` does: the deadline ends the wait."""
    try:
        async with asyncio.timeout(deadline - time.time()):
            return await dispatcher.ask(
                [(graph, ("bulk-modulus@1.0.0", "shear-modulus@1.0.0"))],
                deadline=time.monotonic() + deadline - time.time(),
                request_id=request_id,
                attention=False,
                lane=lane,
            )
    except TimeoutError:
        raise ServiceError(504, "deadline_passed", "the deadline passed") from None
