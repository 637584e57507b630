"""State machine of clients and workers: every request must end in its one allowed outcome, in any order of steps.

The API side is the real `InferenceClient` and `ClusterState`, twice; a worker is the real `RequestConsumer` and
`Backlog`.
"""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

from deepergatgnn.service.lanes import BULK, INTERACTIVE, LANES, Lane
from deepergatgnn.service.messages import InferenceReply, PackedGraph
from deepergatgnn.service.queue.producer import DEAD, GROUP, STREAMS
from deepergatgnn.service.queue.redis_client import connect
from deepergatgnn.service.scheduling.batching import Budget
from tests.support.hand_worker import (
    DELIVERIES,
    LEASE_S,
    Asked,
    HandWorker,
    answer_for,
    api_process,
    asked_until,
    unless_forgotten,
)

T = TypeVar("T")
REFUSED = ("prediction_failed", "workers failed on this crystal several times")


class Machine(RuleBasedStateMachine):
    """Submit, read, compute, answer, crash, take over, renew, withdraw, pass the deadline.

    Attributes:
        url: of the broker.
        graphs: of the requests.
        started: number of workers so far.
        dead: entries of the dead-letter stream.
    """

    url: str
    graphs: list[PackedGraph]
    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.requests: dict[str, Asked] = {}
        self.started = self.dead = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def start(self) -> None:
        self.client = connect(self.url)
        await self.client.flushall()
        self.stack = AsyncExitStack()
        self.replicas = [await self.stack.enter_async_context(api_process(self.url)) for _ in range(2)]

    def new_worker(self) -> HandWorker:
        self.started += 1
        return HandWorker(self.client, f"worker-{self.started}")

    @initialize(target=workers)
    def begin(self) -> HandWorker:
        self.run(self.start())
        first = self.new_worker()
        self.run(first.queue.create_groups())
        self.submit(0, 6, INTERACTIVE, 2, brief=False)
        self.submit(1, 6, BULK, 11, brief=True)
        return first

    @rule(target=workers)
    def join(self) -> HandWorker:
        return self.new_worker()

    @rule(
        replica=st.integers(0, 1),
        count=st.integers(1, 6),
        lane=st.sampled_from(LANES),
        poison=st.integers(0, 11),
        brief=st.booleans(),
    )
    def ask(self, replica: int, count: int, lane: Lane, poison: int, brief: bool) -> None:
        self.submit(replica, count, lane, poison, brief)

    def submit(self, replica: int, count: int, lane: Lane, poison: int, brief: bool) -> None:
        self.run(self.submitted(replica, count, lane, poison, brief=brief))

    async def submitted(
        self, replica: int, count: int, lane: Lane, poison: int = -1, *, brief: bool = False, down: bool = False
    ) -> None:
        asks, names = self.replicas[replica], []
        for number in range(count):
            name = f"{len(self.requests)}"
            graph = self.graphs[len(self.requests) % len(self.graphs)]
            deadline = time.time() + (0.05 if brief and number == 0 else 120)
            work = asked_until(asks, graph, name, lane, deadline)
            self.requests[name] = Asked(graph, number == poison, asyncio.create_task(work), down)
            names.append(name)
        added: set[str] = set()
        async with asyncio.timeout(20):
            while not all(name in added or self.requests[name].task.done() for name in names):
                await asyncio.sleep(0.001)
                added = {each.request.request_id for each in asks.pending.values() if each.stream_id}

    @rule(worker=workers, lane=st.sampled_from(LANES), count=st.integers(1, 8))
    def read(self, worker: HandWorker, lane: Lane, count: int) -> None:
        worker.accept(self.run(worker.queue.read(lane, count, 0.001)))

    @rule(worker=workers, replaced=consumes(workers), target=workers)
    def crash(self, worker: HandWorker, replaced: HandWorker) -> HandWorker:
        """Forget the deliveries and replies of one worker; another one starts."""
        del worker, replaced
        return self.new_worker()

    @rule(worker=consumes(workers), crystals=st.integers(1, 4), target=workers)
    def compute(self, worker: HandWorker, crystals: int) -> HandWorker:
        return self.run(self.computed(worker, crystals))

    async def computed(self, worker: HandWorker, crystals: int) -> HandWorker:
        """Compute a batch; return the worker, or its successor if the crystal ended it."""
        if not worker.backlog:
            return worker
        batch = worker.backlog.take(Budget(0.01 * crystals, 10**9))
        assert len(batch) == 1 or all(delivery.times == 1 for delivery in batch), "a suspect is computed alone"
        live = [delivery for delivery in batch if delivery.entry.deadline >= time.time()]
        for delivery in live:
            if delivery.times > 1:
                self.requests[delivery.entry.request_id].alone += 1
                with unless_forgotten():
                    await worker.queue.attempt(delivery)
        if any(self.requests[delivery.entry.request_id].poison for delivery in live):
            return self.new_worker()
        worker.computed += [(d, answer_for(d.entry) if d in live else None) for d in batch]
        return worker

    @rule(worker=workers)
    def answer(self, worker: HandWorker) -> None:
        self.run(self.answered(worker))

    async def answered(self, worker: HandWorker) -> None:
        await worker.queue.answer(worker.computed)
        for delivery, _ in worker.computed:
            worker.held.pop(delivery.place, None)
        worker.computed = []
        await asyncio.sleep(0.002)  # the API collects them

    @rule(worker=workers)
    def take_over(self, worker: HandWorker) -> None:
        self.run(self.taken_over(worker))

    async def taken_over(self, worker: HandWorker) -> None:
        await asyncio.sleep(1.2 * LEASE_S)
        for delivery in await worker.queue.take_over(100):
            if delivery.place in worker.held:
                continue
            if delivery.times > DELIVERIES:
                self.dead += 1
                await worker.queue.dead_letter(delivery, InferenceReply(delivery.entry.id, error=REFUSED))
            else:
                worker.accept([delivery])

    @rule(worker=workers)
    def renew(self, worker: HandWorker) -> None:
        with unless_forgotten():
            self.run(worker.queue.renew(list(worker.held.values())))

    @rule(number=st.integers(0, 60))
    def withdraw(self, number: int) -> None:
        """Cancel the request of a client."""

        async def left() -> None:
            asked = self.requests.get(str(number))
            if asked is not None and not asked.task.done():
                asked.withdrawn = True
                asked.task.cancel()
                await asyncio.gather(asked.task, return_exceptions=True)

        self.run(left())

    def teardown(self) -> None:
        try:
            self.run(self.finished())
            for asked in self.requests.values():
                asked.judge()
        finally:
            self.run(self.stopped())
            assert not self.run(self.still_running()), "a task outlives its client"
            self.runner.close()

    async def finished(self) -> None:
        """Have a last worker finish all requests."""
        last, busy = self.new_worker(), True
        async with asyncio.timeout(60):
            while busy:
                for lane in LANES:
                    last.accept(await last.queue.read(lane, 100, 0.001))
                await self.taken_over(last)
                while last.backlog:
                    last = await self.computed(last, 8)
                await self.answered(last)
                busy = bool(await self.left()) or not all(asked.task.done() for asked in self.requests.values())

    async def left(self) -> int:
        """Return the number of entries in the streams, with those pending."""
        left = 0
        for stream in STREAMS.values():
            left += await self.client.xlen(stream) + (await self.client.xpending(stream, GROUP))["pending"]
        return left

    async def still_running(self) -> list[str]:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        return [task.get_coro().__qualname__ for task in tasks if not task.done()]  # type: ignore[union-attr]

    async def stopped(self) -> None:
        assert await self.client.xlen(DEAD) == self.dead
        assert not any(replica.pending for replica in self.replicas)
        await self.stack.aclose()
        await self.client.aclose()
