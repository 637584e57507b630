"""From a graph to its answer: the queue, the futures that wait for workers, and what is known of the workers."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from uuid import uuid4

import structlog
from redis.exceptions import RedisError

from deepergatgnn.service.errors import ServiceError, broker_unavailable, draining
from deepergatgnn.service.messages import LANES, InferenceReply, InferenceRequest, Lane, PackedGraph
from deepergatgnn.service.queue.clock import BrokerClock
from deepergatgnn.service.queue.producer import RequestProducer
from deepergatgnn.service.queue.redis_client import connect
from deepergatgnn.service.scheduling.admission import Admission
from deepergatgnn.service.scheduling.cost import mean_cost
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.tasks import cancel_all, restart_on_failure
from deepergatgnn.service.telemetry import metrics

POLL_S = 1.0
SUBMIT_S = 2.0  # a broker that takes longer to take entries is as good as none
REPORT_S = 0.25
OVERDUE_S = 1.5  # then the broker is asked whether it still has an entry
ASKED_AT_ONCE = 256
LAG_S = 0.01
log = structlog.get_logger("dispatcher")


@dataclass(eq=False)
class _Waiting:
    """An entry under way, until `deadline` of this host's monotonic clock."""

    entry: InferenceRequest
    future: "asyncio.Future[InferenceReply]"
    deadline: float
    stream_id: bytes = b""
    since: float = field(default_factory=time.monotonic)
    missed: int = 0


class InferenceClient:
    """Sends entries and collects answers for one API process.

    Args:
        settings: of the service.
        url: of the broker.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._client = connect(url)
        self._reader = connect(url)  # blocks on answers, so it has a connection of its own
        self._replica = uuid4().hex
        self._queue = RequestProducer(self._client, self._replica)
        self._answers = RequestProducer(self._reader, self._replica)
        self._numbers = count()
        self._waiting: dict[str, _Waiting] = {}
        self._outbox: list[_Waiting] = []
        self._posting = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._unwanted: dict[Lane, list[bytes]] = {}
        self._leaving = asyncio.Event()
        self._clock = BrokerClock()
        self._broker_up: bool | None = None  # not known yet
        self._worker_seen = float("-inf")
        self.admission = Admission(settings)
        self.workers = 0
        self.loaded: frozenset[str] = frozenset()
        self.failed: dict[str, str] = {}
        self.leaving = False  # not ready any more, but still letting in
        self.draining = False

    async def start(self) -> None:
        """Begin to collect answers and to watch the workers."""
        work = (self._post, self._take_back, self._collect, self._watch, self._measure_lag)
        self._tasks = [asyncio.create_task(restart_on_failure(each)) for each in work]

    async def stop(self) -> None:
        """Stop, and close the connections."""
        await cancel_all(self._tasks)
        try:
            async with asyncio.timeout(1):
                await self._queue.leave()
        except (RedisError, OSError):
            log.warning("broker gone before the API")
        await self._client.aclose()
        await self._reader.aclose()

    def readiness(self) -> None:
        """Return if a request should be sent here now.

        Raises:
            ServiceError: 503, and why not.
        """
        if self.leaving or self.draining:
            raise draining()
        if not self._broker_up:
            raise broker_unavailable()
        if not self.workers:
            raise ServiceError("no_worker", "no worker is ready: retry soon", 2)

    def abort_waiting(self) -> None:
        """Tell everybody who still waits that the process ends; what comes later is told the same."""
        self.draining = True
        for each in self._waiting.values():
            if not each.future.done():
                each.future.set_exception(draining())

    def ensure_accepting(self) -> None:
        """Return if there is time to begin with a crystal, else raise the 503 of a process that ends."""
        if self.draining:
            raise draining()

    async def worker_metrics(self) -> dict[str, str]:
        """What each worker has counted."""
        return await self._queue.worker_metrics()

    def check(self, lane: Lane, connection: str = "") -> None:
        """Return if a request that comes now, by a connection, may be read.

        Raises:
            ServiceError: 503 not ready, 429 too much is waiting.
        """
        if self.draining or not self._broker_up or time.monotonic() - self._worker_seen > self._settings.absence_s:
            self.readiness()
        self.admission.check_early(lane, connection)

    async def ask(
        self,
        parts: Sequence[tuple[PackedGraph, Sequence[str]]],
        *,
        deadline: float,
        request_id: str,
        attention: bool,
        lane: Lane,
        embedding: bool = False,
        more: bool = False,
    ) -> list[InferenceReply]:
        """Have graphs computed.

        Args:
            parts: a graph and the versions that read it, for each featuriser.
            deadline: `time.monotonic()`.
            request_id: for the logs of the worker.
            attention: whether weights of atoms are wanted.
            lane: interactive or bulk.
            embedding: whether crystal vectors are wanted.
            more: whether more crystals of the lane will be asked for soon.

        Returns:
            An answer for each part.

        Raises:
            ServiceError: 503 broker gone, or what the worker said. The caller keeps the deadline.
        """
        self.ensure_accepting()
        entries = [
            InferenceRequest(
                id=f"{self._replica}-{next(self._numbers)}",
                replica=self._replica,
                models=tuple(models),
                packed=graph.content,
                deadline=self._clock.now() + deadline - time.monotonic(),
                request_id=request_id,
                attention=attention,
                embedding=embedding,
                lane=lane,
                more=more,
            )
            for graph, models in parts
        ]
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(entry, loop.create_future(), deadline) for entry in entries]
        self._waiting |= {each.entry.id: each for each in waiting}
        self._outbox += waiting
        self._posting.set()
        try:
            answers = [await each.future for each in waiting]
        finally:
            left = [each for each in waiting if not each.future.done() or each.future.cancelled()]
            for each in waiting:
                self._waiting.pop(each.entry.id, None)
                each.future.cancel()
            if left:
                cause = "deadline" if time.monotonic() >= deadline else "draining" if self.draining else "gone"
                metrics.ABANDONED.labels(cause).inc(len(left))
                self._withdraw(left)
        for answer in answers:
            if answer.error is not None:
                raise ServiceError(*answer.error)
        return answers

    async def _post(self) -> None:
        """Add entries to the queue: all that gathered during the last round trip in the next one."""
        while True:
            await self._posting.wait()
            self._posting.clear()
            waiting, self._outbox = [each for each in self._outbox if not each.future.done()], []
            try:
                async with asyncio.timeout(SUBMIT_S):
                    added = await self._queue.submit([each.entry for each in waiting])
            except (RedisError, OSError) as error:
                log.warning("entries cannot be added", error=str(error), entries=len(waiting))
                for each in waiting:
                    if not each.future.done():
                        each.future.set_exception(broker_unavailable())
                continue
            for each, stream_id in zip(waiting, added, strict=True):
                each.stream_id = stream_id
            self._withdraw([each for each in waiting if each.future.done()])  # whose client left meanwhile

    def _withdraw(self, waiting: Sequence[_Waiting]) -> None:
        """Have what nobody waits for taken back; nobody waits for that either."""
        for each in waiting:
            if each.stream_id:
                self._unwanted.setdefault(each.entry.lane, []).append(each.stream_id)
                self._leaving.set()

    async def _take_back(self) -> None:
        """Delete what was withdrawn: all that gathered during the last round trip in the next one."""
        while True:
            await self._leaving.wait()
            self._leaving.clear()
            unwanted, self._unwanted = self._unwanted, {}
            try:
                for lane, stream_ids in unwanted.items():
                    await self._queue.withdraw(lane, stream_ids)
            except (RedisError, OSError) as error:
                log.warning("entries cannot be withdrawn", error=str(error))

    async def _collect(self) -> None:
        while True:
            try:
                for answer in await self._answers.answers(POLL_S):
                    waiting = self._waiting.get(answer.id)
                    if waiting is not None and not waiting.future.done():  # else late, or a second one
                        waiting.future.set_result(answer)
            except (RedisError, OSError) as error:
                log.warning("answers cannot be read", error=str(error))
                await asyncio.sleep(0.25)

    async def _watch(self) -> None:
        """Follow the workers and the other API processes, tell them of this one, look after what is overdue."""
        while True:
            try:
                async with asyncio.timeout(2 * POLL_S):
                    await self._poll_cluster()
                self._broker_up = True
            except (RedisError, OSError) as error:
                if self._broker_up is not False:
                    log.warning("broker out of reach", error=str(error))
                self._broker_up, self.workers = False, 0
            if self.workers:
                self._worker_seen = time.monotonic()
            metrics.READY.set(bool(self._broker_up and self.workers))
            metrics.WORKERS.set(self.workers)
            await asyncio.sleep(REPORT_S)

    async def _poll_cluster(self) -> None:
        await self._clock.measure(self._client)
        beats = await self._queue.workers()
        self.workers = len(beats)
        if beats:
            loaded = frozenset.intersection(*(frozenset(heartbeat["models"]) for heartbeat in beats))
            self.loaded = self.loaded if loaded == self.loaded else loaded
            self.failed = {which: reason for heartbeat in beats for which, reason in heartbeat["failed"].items()}
        reports = {report["name"]: report for report in await self._queue.replicas()}
        others = {name: report for name, report in reports.items() if name != self._replica}
        self.admission.follow(mean_cost([heartbeat["costs"] for heartbeat in beats]), len(beats), others)
        await self._queue.report({"name": self._replica, **self.admission.report}, 8 * REPORT_S)
        for lane in LANES:
            await self._look_after_overdue(lane)

    async def _look_after_overdue(self, lane: Lane) -> None:
        """Add again what the broker has lost: it was flushed, or restarted without its data."""
        now = time.monotonic()
        overdue = [
            each
            for each in self._waiting.values()
            if each.entry.lane == lane and each.stream_id and now - each.since > OVERDUE_S
        ][:ASKED_AT_ONCE]
        if not overdue:
            return
        missing = frozenset(await self._queue.missing(lane, [each.stream_id for each in overdue]))
        for each in overdue:
            each.missed = each.missed + 1 if each.stream_id in missing else 0
        # Once missing, an answer may be on its way; it would have come before the next look.
        lost = [each for each in overdue if each.missed > 1 and not each.future.done()]
        if lost:
            log.warning("the broker lost entries, adding them again", entries=len(lost))
            metrics.RESUBMITTED.inc(len(lost))
            for each in lost:  # the broker's clock may have jumped, and its time with it
                each.entry = replace(each.entry, deadline=self._clock.now() + each.deadline - now)
            for each, stream_id in zip(lost, await self._queue.submit([each.entry for each in lost]), strict=True):
                each.stream_id, each.since, each.missed = stream_id, time.monotonic(), 0

    async def _measure_lag(self) -> None:
        """How late the event loop is, which is how long something held it."""
        while True:
            due = time.perf_counter() + LAG_S
            await asyncio.sleep(LAG_S)
            metrics.LOOP_LAG.observe(max(0.0, time.perf_counter() - due))
