"""Read entries, batch them by cost, compute the batches, write the replies; each overlaps the others."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
from redis.exceptions import RedisError

from deepergatgnn.service.lanes import INTERACTIVE, Lane
from deepergatgnn.service.messages import Delivery, InferenceReply
from deepergatgnn.service.queue.consumer import RequestConsumer
from deepergatgnn.service.scheduling.batching import Backlog, Budget
from deepergatgnn.service.scheduling.cost import Cost, batch_overhead, price
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.tasks import PAUSE_S
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.service.telemetry.worker_metrics import observe_batch
from deepergatgnn.service.worker.device_thread import DeviceThread
from deepergatgnn.service.worker.device_tuning import DeviceTuner
from deepergatgnn.service.worker.engine import Engine, Prepared
from deepergatgnn.service.worker.leases import Leases

MAX_READ = 256
BLOCK_S = 0.5
BATCHES_AHEAD = 2.0  # in the backlog
INTERACTIVE_LATELY_S = 1.5
LINGER_S = 0.02  # for which a single crystal waits on a CPU for others that are being parsed
ATTEMPT_S = 1.0
log = structlog.get_logger("worker")


@dataclass(eq=False)
class Worker:
    """The pipeline of one worker, from the queue over its device back to the queue."""

    settings: Settings
    queue: RequestConsumer
    engine: Engine
    device: DeviceThread
    tuner: DeviceTuner
    leases: Leases
    stopping: asyncio.Event
    _backlog: Backlog[Delivery] = field(default_factory=Backlog)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)  # an entry arrived or a batch ended
    _room: asyncio.Event = field(default_factory=asyncio.Event)  # a batch left the backlog
    _results: "asyncio.Queue[list[tuple[Delivery, InferenceReply | None]]]" = field(default_factory=asyncio.Queue)
    _interactive_at: float = float("-inf")

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Add entries to the backlog, unless the worker holds them already."""
        costs = self.engine.costs
        for delivery in self.leases.add(deliveries):
            self._backlog.add(delivery, _price(delivery, costs))
            if delivery.lane is INTERACTIVE:
                self._interactive_at = time.monotonic()
        self._changed.set()

    async def read(self, lane: Lane) -> None:
        """Keep a few batches of a lane in the backlog, until the worker stops."""
        while not self.stopping.is_set():
            waiting, ahead = self._backlog.count(lane), self._backlog.seconds(lane)
            room = BATCHES_AHEAD * self._budget.of(lane) - ahead
            if waiting and room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            typical = ahead / waiting if waiting else self.settings.batch_s / 8
            count = min(MAX_READ, max(1, int(room / max(typical, 1e-4))))
            try:
                self.accept(await self.queue.read(lane, count, BLOCK_S))
            except (RedisError, OSError) as error:
                log.warning("broker unavailable", error=str(error))
                await asyncio.sleep(PAUSE_S)

    async def compute(self, readers: Sequence["asyncio.Task[None]"]) -> None:
        """Compute batches until the readers have ended and nothing is left to compute or to write.

        Where it pays, which is on a GPU, the next batch is prepared while one computes.
        """
        prefetch = self.settings.prefetch == "on"
        prefetch |= self.settings.prefetch == "auto" and self.device.device.type == "cuda"
        computing: asyncio.Task[None] | None = None
        while True:
            self._changed.clear()
            if computing is not None and computing.done():
                computing.result()
                computing = None
            if not self._backlog:
                if computing is None and self.stopping.is_set() and all(reader.done() for reader in readers):
                    await self._results.join()
                    return
                await _is_set_within(self._changed, BLOCK_S)
                continue
            patience_s = self._backlog.patience_s(self._budget, self.engine.costs, time.monotonic())
            if patience_s and not self.stopping.is_set() and await _is_set_within(self._changed, patience_s):
                continue
            batch = self._next_batch()
            if not prefetch:
                await self._compute_batch(batch, None)
                continue
            prepared = await asyncio.to_thread(self.engine.prepare, [delivery.entry for delivery in batch])
            if computing is not None:
                await computing
            computing = asyncio.create_task(self._compute_batch(batch, prepared))
            computing.add_done_callback(lambda _: self._changed.set())

    async def write(self) -> None:
        """Write replies without end, so that the device does not wait for the broker."""
        while True:
            answers = await self._results.get()
            while True:
                try:
                    await self.queue.answer(answers)
                    break
                except (RedisError, OSError) as error:
                    log.warning("replies cannot be written yet", error=str(error))
                    if self.stopping.is_set():
                        break
                    await asyncio.sleep(PAUSE_S)
            self.leases.release(delivery for delivery, _ in answers)
            self._results.task_done()

    @property
    def _budget(self) -> Budget:
        """Bounds of the next batch; bulk work has a small one while interactive requests arrive, which wait for it."""
        lately = time.monotonic() - self._interactive_at < INTERACTIVE_LATELY_S
        linger_s = LINGER_S if self.device.device.type == "cpu" else 0.0  # a CPU parses meanwhile, a GPU would idle
        return Budget(self.settings.batch_s, self.tuner.edge_limit.edges, linger_s, contended=lately)

    def _next_batch(self) -> list[Delivery]:
        batch, stale = self.leases.split_stale(self._backlog.take(self._budget))
        self._room.set()
        if stale:
            self._results.put_nowait([(delivery, None) for delivery in stale])
        return batch

    async def _compute_batch(self, batch: Sequence[Delivery], prepared: Prepared | None) -> None:
        if not batch:
            return
        started, budget, costs = time.monotonic(), self._budget, self.engine.costs
        priced = sum(_price(delivery, costs) for delivery in batch)
        budget_s = max(budget.of(each.lane) for each in batch)
        predicted_s = priced + batch_overhead([model for delivery in batch for model in delivery.entry.models], costs)
        await self._count_attempts(batch)
        entries = [delivery.entry for delivery in batch]
        result = await self.device.compute(lambda: self.engine.answer(entries, prepared), predicted_s)
        observe_batch(len(batch), priced / budget_s, predicted_s, time.monotonic() - started)
        if result.out_of_memory:
            metrics.OUT_OF_MEMORY.inc()
        if result.too_many_edges:
            self.tuner.edge_limit.exceeded(result.too_many_edges)
            log.warning("out of memory, making batches smaller", edges=self.tuner.edge_limit.edges)
        else:
            self.tuner.edge_limit.kept()
        answered = list(zip(batch, result.replies, strict=True))
        for delivery, reply in answered:
            reply.held_ms = (started - delivery.since) * 1000
        self._results.put_nowait([*answered])

    async def _count_attempts(self, batch: Sequence[Delivery]) -> None:
        """Count entries that were delivered before, since they may have ended a worker and may end this one."""
        for delivery in batch:
            if delivery.times > 1:
                try:
                    async with asyncio.timeout(ATTEMPT_S):
                        await self.queue.attempt(delivery)
                except (RedisError, OSError) as error:
                    log.warning("attempt not counted", error=str(error))


def _price(delivery: Delivery, costs: Mapping[str, Cost]) -> float:
    graph = delivery.entry.graph
    return price(delivery.entry.models, graph.n_links, graph.n_nodes, costs)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
