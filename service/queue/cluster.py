"""State of the cluster as one API process sees it: broker, workers, other API processes, lost requests."""

import asyncio
import time
from contextlib import suppress

import structlog
from msgspec.structs import replace
from redis.exceptions import RedisError

from deepergatgnn.service.errors import ServiceError, broker_unavailable, draining
from deepergatgnn.service.lanes import LANES, Lane
from deepergatgnn.service.messages import ApiReport
from deepergatgnn.service.queue.client import InferenceClient
from deepergatgnn.service.queue.heartbeats import api_reports, worker_heartbeats
from deepergatgnn.service.scheduling.admission import Admission
from deepergatgnn.service.scheduling.cost import mean_costs
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.tasks import cancel_all, restart_on_failure
from deepergatgnn.service.telemetry import metrics

POLL_S = 0.25
TIMEOUT_S = 2.0
SCRAPE_S = 1.0
OVERDUE_S = 1.5  # without a reply, after which the broker is asked whether it still has the request
CHECKED_AT_ONCE = 256
log = structlog.get_logger("queue")


class ClusterState:
    """Polls the broker, and updates the admission of the process with what it learns.

    Args:
        client: of the process.
        admission: of the process.
        settings: of the service.

    Attributes:
        workers: number of workers that are alive.
        loaded: NAME@VERSION:DIGEST of the versions that every worker has loaded.
        failed: reason for each version that a worker could not load.
        leaving: whether the process is to end soon: it is not ready, and still accepts requests.
    """

    def __init__(self, client: InferenceClient, admission: Admission, settings: Settings) -> None:
        self._client, self._admission, self._absence_s = client, admission, settings.absence_s
        self._workers = worker_heartbeats(client.redis)
        self._replicas = api_reports(client.redis)
        self._broker_up: bool | None = None  # unknown
        self._worker_seen = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        self.workers = 0
        self.loaded: frozenset[str] = frozenset()
        self.failed: dict[str, str] = {}
        self.leaving = False

    async def start(self) -> None:
        """Start to poll."""
        self._tasks = [asyncio.create_task(restart_on_failure(self._watch))]

    async def stop(self) -> None:
        """Stop, before the client does."""
        await cancel_all(self._tasks)
        with suppress(RedisError, OSError):  # else the report expires
            async with asyncio.timeout(1):
                await self._replicas.remove(self._client.name)

    def ensure_ready(self) -> None:
        """Return if a load balancer may send requests here.

        Raises:
            ServiceError: 503 with the reason.
        """
        if self.leaving or self._client.draining:
            raise draining()
        if not self._broker_up:
            raise broker_unavailable()
        if not self.workers:
            raise ServiceError("no_worker", "no worker is ready: retry soon", 2)

    def ensure_available(self) -> None:
        """Return if requests are accepted; unlike readiness, this outlasts a short absence of workers.

        Raises:
            ServiceError: 503 with the reason.
        """
        if self._client.draining or not self._broker_up or time.monotonic() - self._worker_seen > self._absence_s:
            self.ensure_ready()

    async def worker_metrics(self) -> dict[str, str]:
        """Return the metrics of each worker in Prometheus text, by name; none while the broker is unavailable."""
        try:
            async with asyncio.timeout(SCRAPE_S):
                return await self._workers.metrics()
        except (RedisError, OSError):
            return {}

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._poll()
                self._broker_up = True
            except (RedisError, OSError) as error:
                if self._broker_up is not False:
                    log.warning("broker unavailable", error=str(error))
                self._broker_up, self.workers = False, 0
            if self.workers:
                self._worker_seen = time.monotonic()
            metrics.READY.set(bool(self._broker_up and self.workers))
            metrics.WORKERS.set(self.workers)
            due = time.perf_counter() + POLL_S
            await asyncio.sleep(POLL_S)
            metrics.LOOP_LAG.observe(max(0.0, time.perf_counter() - due))

    async def _poll(self) -> None:
        client = self._client
        await client.clock.measure(client.redis)
        heartbeats = await self._workers.alive()
        self.workers = len(heartbeats)
        if heartbeats:
            loaded = frozenset.intersection(*(frozenset(each.models) for each in heartbeats))
            self.loaded = self.loaded if loaded == self.loaded else loaded
            self.failed = {version: reason for each in heartbeats for version, reason in each.failed.items()}
        reports = {report.name: report for report in await self._replicas.alive()}
        reports.pop(client.name, None)
        self._admission.follow(mean_costs([each.costs for each in heartbeats]), len(heartbeats), reports)
        report = ApiReport(client.name, self._admission.waiting_s, self._admission.computing.done)
        await self._replicas.beat(client.name, report, client.clock.now() + 8 * POLL_S)
        for lane in LANES:
            await self._resubmit_lost(lane)

    async def _resubmit_lost(self, lane: Lane) -> None:
        """Add requests again that the broker has lost: it was flushed, or restarted without its data."""
        client, now = self._client, time.monotonic()
        overdue = [
            each
            for each in client.pending.values()
            if each.lane is lane and each.stream_id and now - each.since > OVERDUE_S
        ][:CHECKED_AT_ONCE]
        if not overdue:
            return
        missing = frozenset(await client.producer.missing(lane, [each.stream_id for each in overdue]))
        for each in overdue:
            each.missed = each.missed + 1 if each.stream_id in missing else 0
        # A request that is missing once may have a reply under way, which would arrive before the next poll.
        lost = [each for each in overdue if each.missed > 1 and not each.future.done()]
        if not lost:
            return
        log.warning("the broker lost requests, adding them again", requests=len(lost))
        metrics.RESUBMITTED.inc(len(lost))
        for each in lost:  # the deadline is on the broker's clock, which may have jumped
            each.request = replace(each.request, deadline=client.clock.now() + each.deadline - now)
        added = await client.producer.submit([(lane, each.request) for each in lost])
        for each, stream_id in zip(lost, added, strict=True):
            each.stream_id, each.since, each.missed = stream_id, time.monotonic(), 0
