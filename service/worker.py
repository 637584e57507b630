"""The worker process: takes what is waiting when the device is free, batches it, answers each."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import structlog
import torch
from redis.exceptions import RedisError

from model_store import ModelStore
from service import metrics
from service.batching import Budget, take_batch
from service.engine import Engine
from service.entries import Answer, Entry
from service.queue import Delivery, WorkQueue, connect
from service.settings import Settings

READ_AT_MOST = 256
BLOCK_S = 1.0
log = structlog.get_logger("worker")


class Worker:
    """One worker on one device.

    Args:
        settings: of the service.
        url: of the broker.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self._settings = settings
        self._client = connect(url)
        self._queue = WorkQueue(self._client, self.name, settings.lease_s)
        device = _device(settings.device)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._device = device
        self._engine = Engine(ModelStore(settings.model_store), device, self.name)
        self._budget = Budget(settings.batch_edges, settings.batch_nodes)
        self._backlog: deque[Entry] = deque()
        self._held: dict[str, Delivery] = {}
        self._computing_since: float | None = None
        self._stopping = asyncio.Event()
        # One thread computes, always the same: torch keeps a team of threads for each thread that calls it.
        self._device_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")

    async def run(self) -> None:
        """Work until told to stop (SIGTERM, SIGINT); then finish what is held and leave."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._engine.load_production()
        await self._patiently(self._queue.create_group)
        log.info("ready", worker=self.name, device=str(self._device), models=self._engine.loaded)
        upkeep = [
            asyncio.create_task(work)
            for work in (self._beat(), self._take_over(), self._follow_parent(), self._compile())
        ]
        try:
            while not self._stopping.is_set() or self._backlog:
                await self._step()
        finally:
            for task in upkeep:
                task.cancel()
            await asyncio.gather(*upkeep, return_exceptions=True)
            try:
                await self._queue.leave()
            except RedisError:
                log.warning("broker gone before the worker")
            await self._client.aclose()
        log.info("stopped", worker=self.name)

    async def _step(self) -> None:
        """Read what waits, compute one batch, answer it."""
        try:
            room = READ_AT_MOST - len(self._backlog)
            if room > 0 and not self._stopping.is_set():
                self._accept(await self._queue.read(room, None if self._backlog else BLOCK_S))
            batch = take_batch(self._backlog, self._budget)
            if batch:
                await self._compute(batch)
        except (RedisError, OSError) as error:
            log.warning("broker out of reach", error=str(error))
            await asyncio.sleep(0.5)

    def _accept(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self._held[delivery.entry.id] = delivery
            self._backlog.append(delivery.entry)

    async def _compute(self, batch: list[Entry]) -> None:
        now = time.time()
        late = [entry for entry in batch if entry.deadline < now]
        live = [entry for entry in batch if entry.deadline >= now]
        answers: list[tuple[Delivery, Answer | None]] = [(self._held[entry.id], None) for entry in late]
        metrics.EXPIRED.inc(len(late))
        if live:
            self._computing_since = time.monotonic()
            try:
                computed = await asyncio.get_running_loop().run_in_executor(
                    self._device_thread, self._engine.answer, live
                )
            finally:
                self._computing_since = None
            metrics.observe_batch(live, computed, self._budget.edges)
            answers += [(self._held[answer.id], answer) for answer in computed]
        while True:
            try:
                await self._queue.answer(answers)
                break
            except (RedisError, OSError) as error:
                log.warning("answers cannot be written yet", error=str(error))
                await asyncio.sleep(0.5)
                if self._stopping.is_set():
                    break
        for entry in batch:
            del self._held[entry.id]

    def _hangs(self) -> bool:
        since = self._computing_since
        return since is not None and time.monotonic() - since > self._settings.stuck_s

    async def _beat(self) -> None:
        """Heartbeat and lease renewal, as long as the device answers."""
        status = {"worker": self.name, "device": str(self._device), "models": self._engine.loaded}
        renewed = 0.0
        while True:
            try:
                if not self._hangs():
                    await self._queue.beat(status | {"models": self._engine.loaded}, 3 * self._settings.heartbeat_s)
                    if time.monotonic() - renewed > self._settings.lease_s / 3:
                        await self._queue.renew([delivery.stream_id for delivery in self._held.values()])
                        renewed = time.monotonic()
            except (RedisError, OSError) as error:
                log.warning("no heartbeat", error=str(error))
            await asyncio.sleep(self._settings.heartbeat_s)

    async def _take_over(self) -> None:
        """Look after entries of workers that are gone."""
        while not self._stopping.is_set():
            try:
                for delivery, times in await self._queue.take_over(READ_AT_MOST):
                    if delivery.entry.id in self._held:
                        continue
                    if times > self._settings.max_deliveries:
                        detail = "workers failed on this crystal several times: check the structure"
                        error = (500, "prediction_failed", detail)
                        await self._queue.bury(delivery, Answer(delivery.entry.id, worker=self.name, error=error))
                        metrics.DEAD_LETTERS.inc()
                        continue
                    metrics.TAKEN_OVER.inc()
                    self._accept([delivery])
            except (RedisError, OSError) as error:
                log.warning("no takeover", error=str(error))
            await asyncio.sleep(self._settings.lease_s / 4)

    async def _compile(self) -> None:
        """Compile once the worker has settled: short lives are not worth it, and answers do not wait for it."""
        if self._settings.compile_after_s:
            await asyncio.sleep(self._settings.compile_after_s)
            done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            # A daemon: a worker that is told to stop does not wait for a compiler.
            threading.Thread(target=self._compile_and_tell, args=(done,), name="compile", daemon=True).start()
            if await done:
                log.info("compiled", worker=self.name, models=self._engine.loaded)

    def _compile_and_tell(self, done: asyncio.Future[bool]) -> None:
        compiled = self._engine.compile_loaded()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            done.get_loop().call_soon_threadsafe(done.set_result, compiled)

    async def _follow_parent(self) -> None:
        """End with the supervisor that started this worker, even if it was killed; take its broker along."""
        parent = self._settings.parent
        while parent is not None:
            if os.getppid() != parent:
                log.warning("supervisor gone")
                self._stopping.set()
                if self._settings.broker_embedded:
                    with contextlib.suppress(RedisError, OSError):
                        await self._client.shutdown(nosave=True)
                return
            await asyncio.sleep(1)

    async def _patiently(self, action: Callable[[], Awaitable[None]]) -> None:
        """Until the broker is there or the worker is told to stop."""
        while not self._stopping.is_set():
            try:
                await action()
            except (RedisError, OSError) as error:
                log.warning("waiting for the broker", error=str(error))
                await asyncio.sleep(0.5)
            else:
                return


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def run(settings: Settings, url: str) -> None:
    """The whole life of a worker process."""
    metrics.serve_worker_metrics(settings.metrics_port)
    asyncio.run(Worker(settings, url).run())
    if any(thread.name == "compile" for thread in threading.enumerate()):
        # A compiler cannot be interrupted, and Python would tear down what it works with; nothing is left to save.
        os._exit(0)


if __name__ == "__main__":  # how the supervisor starts it
    configured = Settings()
    if configured.redis_url is None:
        sys.exit("set DEEPERGATGNN_REDIS_URL")
    run(configured, configured.redis_url.get_secret_value())
