"""What a worker does beside computing.

It says that it is alive, keeps its leases, inherits from the dead, follows the store and its supervisor, and compiles.
"""

import asyncio
import contextlib
import os
import threading
import time
from dataclasses import astuple
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from deepergatgnn.errors import ArtifactError, ModelNotFoundError
from deepergatgnn.service.messages import InferenceReply
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.service.telemetry.worker_metrics import worker_report

if TYPE_CHECKING:
    from deepergatgnn.service.worker.worker import Worker

TAKE_AT_MOST = 256
IDLE_CANARY_S = 1.0
STORE_S = 1.0
THREADS_S = 60.0  # between comparisons of numbers of threads
RETRY_LOAD_S = 30.0
PATIENCE = 5.0  # times the predicted seconds of a batch, beside `stuck_s`
LONGEST_S = 6.0  # of that patience: a hung worker is found within ten seconds, but for a batch that should take longer
DEAD_AFTER = 6.0  # times `stuck_s`; a process whose thread hangs in a device cannot be ended more gently
EX_SOFTWARE = 70
STDIN = 0
log = structlog.get_logger("worker")


class Upkeep:
    """The tasks of one worker.

    Args:
        worker: whose.
    """

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._settings = worker.settings
        self._failed: dict[str, float] = {}
        self._asked: asyncio.Task[None] | None = None

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; who started them cancels them."""
        work = (
            self._beat(),
            self._take_over(),
            self._let_go(),
            self._follow_parent(),
            self._follow_store(),
            self._follow_load(),
            self._compile(),
        )
        return [asyncio.create_task(each) for each in work]

    def _hangs(self) -> bool:
        since, predicted = self._worker.computing_since, self._worker.predicted_s
        allowed = self._settings.stuck_s + PATIENCE * predicted
        allowed = min(allowed, max(self._settings.stuck_s, LONGEST_S, 2 * predicted))
        return since is not None and time.monotonic() - since > allowed

    async def _beat(self) -> None:
        """Heartbeat and lease renewal, as long as the device answers; when it is idle it is asked."""
        worker, renewed, hung = self._worker, 0.0, 0.0
        while True:
            try:
                idle = worker.computing_since is None and time.monotonic() - worker.answered_at > IDLE_CANARY_S
                if idle or self._asked is not None:
                    await self._ask()
                if self._asked is not None or self._hangs():
                    hung += self._settings.heartbeat_s  # counted while this process runs: it may have been stopped
                    if hung > DEAD_AFTER * self._settings.stuck_s:
                        log.critical("the device does not come back: ending, so that another worker takes over")
                        os._exit(EX_SOFTWARE)
                else:
                    hung = 0.0
                    await worker.clock.measure(worker.client)
                    await worker.queue.heartbeat(self._status(), worker_report(), 3 * self._settings.heartbeat_s)
                    if time.monotonic() - renewed > self._settings.lease_s / 3:
                        await worker.queue.renew(list(worker.held.values()))
                        renewed = time.monotonic()
            except (RedisError, OSError) as error:
                log.warning("no heartbeat", error=str(error))
            await asyncio.sleep(self._settings.heartbeat_s)

    async def _ask(self) -> None:
        """Ask the idle device for a sign of life; while it does not answer there is no heartbeat either."""
        if self._asked is None:
            self._asked = asyncio.create_task(self._worker.on_device(self._worker.engine.canary))
        done, _ = await asyncio.wait({self._asked}, timeout=self._settings.heartbeat_s)
        if done:
            self._asked.result()
            self._asked = None
            self._worker.answered_at = time.monotonic()

    def _status(self) -> dict[str, object]:
        worker = self._worker
        return {
            "worker": worker.name,
            "device": str(worker.device),
            "models": worker.engine.loaded,
            "failed": dict(worker.engine.failed),
            "costs": {identity: astuple(cost) for identity, cost in worker.engine.costs.items()},
        }

    async def _take_over(self) -> None:
        """Look after entries of workers that are gone."""
        worker = self._worker
        while not worker.stopping.is_set():
            try:
                # A worker that hangs would take its own entries over, before one that could compute them.
                for delivery in [] if self._hangs() else await worker.queue.take_over(TAKE_AT_MOST):
                    if delivery.place in worker.held:
                        continue
                    if delivery.times > self._settings.max_deliveries:
                        detail = "workers failed on this crystal several times: check the structure"
                        error = ("prediction_failed", detail)
                        await worker.queue.dead_letter(
                            delivery, InferenceReply(delivery.entry.id, worker=worker.name, error=error)
                        )
                        metrics.DEAD_LETTERS.inc()
                        log.error("dead letter", entry=delivery.entry.id, request_id=delivery.entry.request_id)
                        continue
                    metrics.TAKEN_OVER.inc()
                    worker.accept([delivery])
            except (RedisError, OSError) as error:
                log.warning("no takeover", error=str(error))
            await asyncio.sleep(self._settings.lease_s / 4)

    async def _let_go(self) -> None:
        """Drop what is in hand and nobody waits for any more."""
        while True:
            try:
                async for place in self._worker.queue.withdrawn():
                    self._worker.withdraw(place)
            except (RedisError, OSError) as error:
                log.warning("what is withdrawn cannot be followed", error=str(error))
            await asyncio.sleep(self._settings.heartbeat_s)

    async def _follow_store(self) -> None:
        """Load what is promoted beside what answers; the API sends nothing there before it is said to be loaded."""
        worker = self._worker
        while True:
            await asyncio.sleep(STORE_S)
            wanted, missing = await asyncio.to_thread(worker.engine.follow)
            for reference in missing:
                if time.monotonic() < self._failed.get(reference, 0.0):
                    continue
                try:
                    await asyncio.to_thread(worker.engine.load, reference)
                except (ArtifactError, ModelNotFoundError) as error:  # the version before goes on
                    self._failed[reference] = time.monotonic() + RETRY_LOAD_S
                    worker.engine.failed[reference] = str(error)
                    metrics.LOAD_FAILURES.labels(reference.partition("@")[0]).inc()
                    # No stack: what is wrong is in the store.
                    log.error("a promoted version is not sound, the one before goes on", error=str(error))  # noqa: TRY400
                else:
                    await worker.measure_memory()
                    log.info("loaded", worker=worker.name, model=reference)
            worker.engine.forget_spare(wanted)

    async def _follow_load(self) -> None:
        """Compare numbers of threads again: what else runs on the host comes and goes."""
        while not self._settings.threads:
            await asyncio.sleep(THREADS_S)
            await self._worker.choose_threads()

    async def _compile(self) -> None:
        """Compile once the worker has settled: short lives are not worth it, and answers do not wait for it."""
        known: set[str] = set()
        while self._settings.compile_after_s:
            await asyncio.sleep(self._settings.compile_after_s)
            if known >= set(self._worker.engine.loaded):
                continue
            known |= set(self._worker.engine.loaded)
            done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            # A daemon: a worker that is told to stop does not wait for a compiler.
            threading.Thread(target=self._compile_and_tell, args=(done,), name="compile", daemon=True).start()
            if await done:
                log.info("compiled", worker=self._worker.name, models=self._worker.engine.loaded)

    def _compile_and_tell(self, done: asyncio.Future[bool]) -> None:
        compiled = self._worker.engine.compile_loaded()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            done.get_loop().call_soon_threadsafe(done.set_result, compiled)

    async def _follow_parent(self) -> None:
        """End with the supervisor that started this worker, which tells it so by closing its input, killed or not.

        Where the system does not end the broker of a supervisor that was killed, this does.
        """
        parent = self._settings.parent
        if parent is None:
            return
        readable, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(STDIN, readable.set)
        try:
            await readable.wait()  # nothing is ever written there
        finally:
            loop.remove_reader(STDIN)
        self._worker.stopping.set()
        while True:
            await asyncio.sleep(1)
            if os.getppid() != parent and self._settings.broker_embedded:
                log.warning("supervisor gone")
                with contextlib.suppress(RedisError, OSError):
                    await self._worker.client.shutdown(nosave=True)
                return
