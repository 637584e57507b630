"""The worker process: takes what is waiting when the device is free, batches it by cost, answers each.

Three tasks overlap: readers fill the backlog while the device computes, and answers return on their own. What keeps
the worker alive and known to others is in `upkeep`.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import uuid4

import structlog
import uvloop
from redis.exceptions import RedisError

from deepergatgnn.device import device_named
from deepergatgnn.errors import ArtifactError, ConfigError
from deepergatgnn.model_store import open_models
from deepergatgnn.service.garbage_collector import tune_garbage_collector
from deepergatgnn.service.messages import LANES, Delivery, InferenceReply, Lane
from deepergatgnn.service.queue.clock import BrokerClock
from deepergatgnn.service.queue.consumer import RequestConsumer
from deepergatgnn.service.queue.redis_client import connect
from deepergatgnn.service.scheduling.batching import Backlog, Budget, EdgeLimit
from deepergatgnn.service.scheduling.cost import Cost, once, price
from deepergatgnn.service.settings import Settings, read_settings
from deepergatgnn.service.tasks import PAUSE_S, ended, first_of, patiently
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.service.telemetry.logs import configure_logs
from deepergatgnn.service.telemetry.worker_metrics import observe_batch, serve_worker_metrics
from deepergatgnn.service.worker.engine import Engine, Prepared
from deepergatgnn.service.worker.upkeep import Upkeep
from deepergatgnn.threads import available_cores, candidates, fastest, set_threads, torch_threads

READ_AT_MOST = 256
BLOCK_S = 0.5
SWITCH_S = 2e-4  # the device's thread wants Python's lock after every operation, and should not wait 5 ms for it
AHEAD = 2.0  # batches in hand, that being computed not counted
INTERACTIVE_LATELY_S = 1.5
# On a CPU that others want too, parsing is as urgent, and the API more so, which has both to feed: what is parsed
# meanwhile shares the next batch, and a batch of 64 costs a tenth a crystal of what one of 1 does.
YIELDING = 5
# The longest that a single crystal waits on a CPU for others that are known to be on their way.
LINGER_S = 0.02
ATTEMPT_S = 1.0
log = structlog.get_logger("worker")
T = TypeVar("T")


class Worker:
    """One worker on one device.

    Args:
        settings: of the service.
        url: of the broker.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self.settings = settings
        self.client = connect(url)
        self.clock = BrokerClock()
        self.queue = RequestConsumer(self.client, self.name, settings.lease_s)
        self.store = open_models(settings.model_store, settings.models)
        self.device = device_named(settings.device)
        self.threads, self._most_threads = 0, torch_threads()
        self.engine = Engine(self.store, self.device, self.name)
        self.stopping = asyncio.Event()
        self.held: dict[tuple[Lane, bytes], Delivery] = {}
        self.computing_since: float | None = None
        self.predicted_s = 0.0
        self.answered_at = time.monotonic()
        self._limit = EdgeLimit(settings.batch_edges)
        self._prefetch = settings.prefetch == "on" or (settings.prefetch == "auto" and self.device.type == "cuda")
        self._backlog = Backlog()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._unwanted: set[tuple[Lane, bytes]] = set()
        self._results: asyncio.Queue[list[tuple[Delivery, InferenceReply | None]]] = asyncio.Queue()
        self._interactive_at = float("-inf")
        # One thread computes, always the same: torch keeps a team of threads for each thread that calls it.
        self._device_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")

    async def run(self) -> None:
        """Work until told to stop (SIGTERM, SIGINT); then finish what is held and leave."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave)
        await self.on_device(lambda: set_threads(self.settings.threads or 1))
        try:
            await self.on_device(self.engine.load_production)
        except ArtifactError as error:  # it says so, and follows the store: what is promoted next is loaded
            log.error("no model answers", error=str(error))  # noqa: TRY400 - what is wrong is in the store
        await self.choose_threads()
        await self.measure_memory()
        await patiently(self.queue.create_groups, self.stopping)
        await patiently(lambda: self.clock.measure(self.client), self.stopping)
        tune_garbage_collector()
        sys.setswitchinterval(SWITCH_S)
        log.info("ready", worker=self.name, device=str(self.device), models=self.engine.loaded)
        readers = [asyncio.create_task(self._read(lane)) for lane in LANES]
        work = asyncio.create_task(self._compute_all(readers))
        running = {work, *readers, asyncio.create_task(self._write()), *Upkeep(self).start()}
        try:
            while not work.done():
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # if one fails all end, and the worker with them
        finally:
            await ended(running)
            try:
                async with asyncio.timeout(2):
                    await self.queue.leave()
            except (RedisError, OSError):
                log.warning("broker gone before the worker")
            await self.client.aclose()
        log.info("stopped", worker=self.name)

    def _leave(self) -> None:
        """Stop at a signal, but not before the API that started this worker, when all its processes have got it."""
        settings = self.settings
        grace_s = 0.0 if settings.parent is None else settings.drain_grace_s + settings.drain_s
        asyncio.get_running_loop().call_later(grace_s, self.stopping.set)

    async def on_device(self, work: Callable[[], T]) -> T:
        """Have something done by the thread of the device."""
        return await asyncio.get_running_loop().run_in_executor(self._device_thread, work)

    async def measure_memory(self) -> None:
        """See how many edges of a batch fit beside what is loaded now."""
        self._limit = EdgeLimit(await self.on_device(lambda: self.engine.edge_capacity(self.settings.batch_edges)))

    async def choose_threads(self) -> None:
        """Compute on a CPU with the threads of the settings, or with those that are fastest beside what else runs."""
        before, seconds = self.threads, dict[int, float]()
        if self.device.type == "cpu":
            counts = [] if self.settings.threads else candidates(available_cores(), self._most_threads)
            if len(counts) > 1:
                seconds = await self.on_device(lambda: self.engine.seconds_by_threads(counts))
            self.threads = self.settings.threads or (fastest(seconds) if seconds else 1)
            await self.on_device(lambda: set_threads(self.threads))
        metrics.THREADS.set(self.threads)
        if self.threads != before:
            took = {str(count): round(each, 4) for count, each in seconds.items()}
            log.info("threads", worker=self.name, threads=self.threads, measured_s=took)

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Take entries in hand, unless they are already."""
        costs = self.engine.costs
        for delivery in deliveries:
            if delivery.place not in self.held:
                self.held[delivery.place] = delivery
                self._backlog.add(delivery, _price(delivery, costs))
                if delivery.entry.lane == "interactive":
                    self._interactive_at = time.monotonic()
        self._arrived.set()

    def withdraw(self, place: tuple[Lane, bytes]) -> None:
        """Nobody waits for an entry any more: if it is in hand, and not yet on the device, it will not be computed."""
        if place in self.held:
            self._unwanted.add(place)

    @property
    def _budget(self) -> Budget:
        """Of the next batch: little bulk work where single requests come, for these wait until it is done."""
        lately = time.monotonic() - self._interactive_at < INTERACTIVE_LATELY_S
        bulk = self.settings.batch_s / 20 if lately else self.settings.batch_s / 2
        linger_s = LINGER_S if self.device.type == "cpu" else 0.0  # the time is parsing's there, not lost
        return Budget(self.settings.batch_s, bulk, self._limit.edges, linger_s)

    async def _read(self, lane: Lane) -> None:
        """Keep the backlog of a lane filled, a few batches ahead."""
        while not self.stopping.is_set():
            waiting = self._backlog.count(lane)
            ahead = self._backlog.seconds(lane)
            room = AHEAD * (self.settings.batch_s if lane == "interactive" else self._budget.bulk_seconds) - ahead
            if waiting and room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            typical = ahead / waiting if waiting else self.settings.batch_s / 8
            count = min(READ_AT_MOST, max(1, int(room / max(typical, 1e-4))))
            try:
                self.accept(await self.queue.read(lane, count, BLOCK_S))
            except (RedisError, OSError) as error:
                log.warning("broker out of reach", error=str(error))
                await asyncio.sleep(PAUSE_S)

    async def _compute_all(self, readers: Sequence[asyncio.Task[None]]) -> None:
        """Compute batches until told to stop and nothing is left to compute or to write.

        Where it pays, that is with a GPU, the next batch is prepared while one computes.
        """
        computing: asyncio.Task[None] | None = None
        while True:
            self._arrived.clear()
            if not self._backlog:
                if computing is not None:
                    await first_of(self._arrived, computing, seconds=BLOCK_S)
                    if computing.done():
                        computing.result()
                        computing = None
                elif self.stopping.is_set() and all(reader.done() for reader in readers):
                    await self._results.join()
                    return
                else:
                    await first_of(self._arrived, seconds=BLOCK_S)
                continue
            patience_s = self._backlog.patience_s(self._budget, self.engine.costs, time.monotonic())
            if patience_s and not self.stopping.is_set() and await first_of(self._arrived, seconds=patience_s):
                continue
            batch = self._live(self._backlog.take(self._budget))
            self._room.set()
            entries = [delivery.entry for delivery in batch]
            prepared = await asyncio.to_thread(self.engine.prepare, entries) if self._prefetch else None
            if computing is not None:
                await computing
            if self._prefetch:
                computing = asyncio.create_task(self._compute(batch, prepared))
            else:
                await self._compute(batch, None)

    def _live(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """Those of a batch that somebody waits for; the others are done."""
        now = self.clock.now()
        late = [delivery for delivery in batch if not delivery.entry.deadline >= now]  # that of no number, too
        left = [delivery for delivery in batch if delivery.place in self._unwanted and delivery not in late]
        metrics.EXPIRED.inc(len(late))
        metrics.WITHDRAWN.inc(len(left))
        if dropped := [*late, *left]:
            self._results.put_nowait([(delivery, None) for delivery in dropped])
        return [delivery for delivery in batch if delivery not in dropped]

    async def _compute(self, batch: Sequence[Delivery], prepared: Prepared | None) -> None:
        if not batch:
            return
        started, budget, costs = time.monotonic(), self._budget, self.engine.costs
        priced = sum(_price(delivery, costs) for delivery in batch)
        seconds = budget.bulk_seconds if all(each.entry.lane == "bulk" for each in batch) else budget.seconds
        predicted = priced + once([model for delivery in batch for model in delivery.entry.models], costs)
        await self._count_attempts(batch)
        self.computing_since, self.predicted_s = started, predicted
        try:
            computed = await self.on_device(
                lambda: self.engine.answer([delivery.entry for delivery in batch], prepared)
            )
        finally:
            self.computing_since = None
        self.answered_at = time.monotonic()
        observe_batch(len(batch), priced / seconds, predicted, time.monotonic() - started)
        if computed.out_of_memory:
            metrics.OUT_OF_MEMORY.inc()
        if computed.too_many_edges:
            self._limit.exceeded(computed.too_many_edges)
            log.warning("out of memory, batches become smaller", edges=self._limit.edges)
        else:
            self._limit.kept()
        answered = list(zip(batch, computed.answers, strict=True))
        for delivery, answer in answered:
            answer.held_ms = (started - delivery.since) * 1000
        self._results.put_nowait([*answered])

    async def _count_attempts(self, batch: Sequence[Delivery]) -> None:
        """Note the entries that may have ended a worker before they can do so again."""
        for delivery in batch:
            if delivery.times > 1:
                try:
                    async with asyncio.timeout(ATTEMPT_S):
                        await self.queue.attempt(delivery)
                except (RedisError, OSError) as error:
                    log.warning("an attempt was not counted", error=str(error))

    async def _write(self) -> None:
        """Write answers, in a task of its own, so that the device does not wait for the broker."""
        while True:
            answers = await self._results.get()
            while True:
                try:
                    await self.queue.answer(answers)
                    break
                except (RedisError, OSError) as error:
                    log.warning("answers cannot be written yet", error=str(error))
                    if self.stopping.is_set():
                        break
                    await asyncio.sleep(PAUSE_S)
            for delivery, _ in answers:
                self.held.pop(delivery.place, None)
                self._unwanted.discard(delivery.place)
            self._results.task_done()


def _price(delivery: Delivery, costs: Mapping[str, Cost]) -> float:
    graph = delivery.entry.graph
    return price(delivery.entry.models, graph.n_links, graph.n_nodes, costs)


def run(settings: Settings, url: str) -> None:
    """The whole life of a worker process."""
    configure_logs(settings.log_level, settings.log_format)
    serve_worker_metrics(settings.metrics_port)
    worker = Worker(settings, url)
    if worker.device.type == "cpu":
        os.nice(YIELDING)
    uvloop.run(worker.run())
    if any(thread.name == "compile" for thread in threading.enumerate()):
        # A compiler cannot be interrupted, and Python would tear down what it works with; nothing is left to save.
        os._exit(0)


def main() -> int:
    """Be the worker process of a supervisor, which has named the broker; its exit status."""
    try:
        settings = read_settings()
        assert settings.redis_url is not None, "a supervisor names the broker"  # noqa: S101
        run(settings, settings.redis_url.get_secret_value())
    except ConfigError as error:
        print(f"deepergatgnn: {error}", file=sys.stderr)  # noqa: T201 - of a command
        return os.EX_CONFIG
    return 0


if __name__ == "__main__":  # how the supervisor starts it
    sys.exit(main())
