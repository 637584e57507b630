"""From a parsed crystal to its answer: admission, the queue, and the futures that wait for workers."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import structlog
from redis.exceptions import RedisError

from deepergatgnn.crystal_graph import CrystalGraph
from deepergatgnn.manifest import Manifest
from service import metrics
from service.entries import Answer, Entry
from service.errors import ServiceError
from service.queue import RequestQueue, connect
from service.settings import Settings

POLL_S = 1.0
log = structlog.get_logger("dispatcher")


class Dispatcher:
    """Sends entries and collects answers for one API process.

    Args:
        settings: of the service.
        url: of the broker.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._client = connect(url)
        self._reader = connect(url)  # blocks on answers, so it has a connection of its own
        replica = uuid4().hex
        self._replica = replica
        self._queue = RequestQueue(self._client, replica)
        self._answers = RequestQueue(self._reader, replica)
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._in_flight = 0
        self._broker_up = False
        self._workers = 0
        self._worker_seen = float("-inf")
        self.draining = False

    async def start(self) -> None:
        """Begin to collect answers and to watch the workers."""
        self._tasks = [asyncio.create_task(self._collect()), asyncio.create_task(self._watch())]

    async def stop(self) -> None:
        """Stop both, close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()
        await self._reader.aclose()

    @property
    def workers(self) -> int:
        """Workers that gave a sign of life lately."""
        return self._workers

    def readiness(self) -> None:
        """Return if a request could be answered now.

        Raises:
            ServiceError: 503, and why not.
        """
        if self.draining:
            raise ServiceError(503, "draining", "the service is shutting down: retry elsewhere", 5)
        if not self._broker_up:
            raise ServiceError(503, "broker_unavailable", "the queue cannot be reached: retry soon", 2)
        if not self._workers:
            raise ServiceError(503, "no_worker", "no worker is ready: retry soon", 2)

    @contextmanager
    def admission(self) -> Iterator[None]:
        """Let a crystal in, before any work is spent on it, and count it until the block ends.

        Raises:
            ServiceError: 503 not ready, 429 too much is waiting.
        """
        if self.draining or not self._broker_up or time.monotonic() - self._worker_seen > self._settings.absence_s:
            self.readiness()
        if self._in_flight >= self._settings.max_in_flight:
            raise ServiceError(429, "overloaded", f"{self._in_flight} crystals are waiting: retry later", 1)
        self._in_flight += 1
        metrics.IN_FLIGHT.set(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= 1
            metrics.IN_FLIGHT.set(self._in_flight)

    async def ask(
        self, parts: Sequence[tuple[CrystalGraph, Sequence[Manifest]]], deadline: float, *, attention: bool
    ) -> list[Answer]:
        """Have graphs computed.

        Args:
            parts: a graph and the models that read it, for each featuriser.
            deadline: Unix time.
            attention: whether weights of atoms are wanted.

        Returns:
            An answer for each part.

        Raises:
            ServiceError: 503 broker gone, or what the worker said. The caller keeps the deadline.
        """
        entries = [
            Entry(
                id=uuid4().hex,
                replica=self._replica,
                models=tuple(f"{manifest.name}@{manifest.version}" for manifest in manifests),
                graph=graph,
                deadline=deadline,
                attention=attention,
            )
            for graph, manifests in parts
        ]
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in entries]
        self._waiting |= {entry.id: future for entry, future in zip(entries, futures, strict=True)}
        try:
            try:
                await self._queue.submit(entries)
            except (RedisError, OSError):
                raise ServiceError(503, "broker_unavailable", "the queue cannot be reached: retry soon", 2) from None
            answers: list[Answer] = await asyncio.gather(*futures)
        finally:
            for entry in entries:
                self._waiting.pop(entry.id, None)
        for answer in answers:
            if answer.error is not None:
                raise ServiceError(*answer.error)
        return answers

    async def _collect(self) -> None:
        while True:
            try:
                for answer in await self._answers.answers(POLL_S):
                    future = self._waiting.get(answer.id)
                    if future is not None and not future.done():  # else: late, or a second answer after a takeover
                        future.set_result(answer)
            except (RedisError, OSError) as error:
                log.warning("answers cannot be read", error=str(error))
                await asyncio.sleep(0.25)

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(2 * POLL_S):
                    self._workers = len(await self._queue.workers())
                self._broker_up = True
            except (RedisError, OSError) as error:
                if self._broker_up:
                    log.warning("broker out of reach", error=str(error))
                self._broker_up, self._workers = False, 0
            if self._workers:
                self._worker_seen = time.monotonic()
            metrics.READY.set(bool(self._broker_up and self._workers))
            await asyncio.sleep(POLL_S / 4 if not self._workers else POLL_S)
