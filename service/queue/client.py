"""Client of the queue in an API process: sends requests, withdraws abandoned ones, collects replies."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar
from uuid import uuid4

import structlog
from redis.exceptions import RedisError

from deepergatgnn.service.errors import ServiceError, broker_unavailable, draining
from deepergatgnn.service.lanes import Lane
from deepergatgnn.service.messages import InferenceReply, InferenceRequest, PackedGraph
from deepergatgnn.service.queue.clock import BrokerClock
from deepergatgnn.service.queue.producer import RequestProducer
from deepergatgnn.service.queue.redis_client import connect
from deepergatgnn.service.tasks import PAUSE_S, cancel_all, restart_on_failure
from deepergatgnn.service.telemetry import metrics

POLL_S = 1.0
SUBMIT_S = 2.0  # a slower broker counts as unavailable
log = structlog.get_logger("queue")
T = TypeVar("T")


@dataclass(eq=False)
class PendingRequest:
    """A request without a reply; its times are of `time.monotonic()`."""

    lane: Lane
    request: InferenceRequest
    future: "asyncio.Future[InferenceReply]"
    deadline: float
    stream_id: bytes = b""  # empty until it was added
    since: float = field(default_factory=time.monotonic)  # of the last addition
    missed: int = 0  # successive checks that did not find it in the broker


class InferenceClient:
    """Sends requests and collects replies for one API process.

    Args:
        url: of the broker.

    Attributes:
        name: of the process, and of its list of replies.
        redis: client of the broker.
        clock: of the broker, as `ClusterState` measures it.
        producer: of requests.
        pending: requests without a reply, by id.
        draining: whether new requests are refused because the process ends.
    """

    def __init__(self, url: str) -> None:
        self.name = uuid4().hex
        self.redis = connect(url)
        self.clock = BrokerClock()
        self.producer = RequestProducer(self.redis, self.name)
        self.pending: dict[str, PendingRequest] = {}
        self.draining = False
        self._reader = connect(url)  # its commands block
        self._numbers = count()
        self._outbox: asyncio.Queue[PendingRequest] = asyncio.Queue()
        self._abandoned: asyncio.Queue[PendingRequest] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start to send requests and to collect replies."""
        self._tasks = [
            asyncio.create_task(restart_on_failure(each)) for each in (self._send, self._withdraw, self._collect)
        ]

    async def stop(self) -> None:
        """Stop, and close the connections."""
        self.draining = True
        await cancel_all(self._tasks)
        try:
            async with asyncio.timeout(1):
                await self.producer.forget()
        except (RedisError, OSError):
            log.warning("broker unavailable at shutdown")
        await self.redis.aclose()
        await self._reader.aclose()

    def abort(self) -> None:
        """Fail all pending and all future requests with the error of a process that ends."""
        self.draining = True
        for each in self.pending.values():
            if not each.future.done():
                each.future.set_exception(draining())

    def ensure_accepting(self) -> None:
        """Raise the 503 of a process that ends, if it does."""
        if self.draining:
            raise draining()

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
        """Return a reply for each part, a graph and the versions that read it; the caller enforces the deadline.

        The options are those of `InferenceRequest`, but for `deadline`, which is of `time.monotonic()`.

        Raises:
            ServiceError: 503 without a broker, or the error of a worker.
        """
        self.ensure_accepting()
        loop, due = asyncio.get_running_loop(), self.clock.now() + deadline - time.monotonic()
        pending = []
        for graph, models in parts:
            request = InferenceRequest(
                id=f"{self.name}-{next(self._numbers)}",
                reply_to=self.name,
                models=tuple(models),
                deadline=due,
                request_id=request_id,
                attention=attention,
                embedding=embedding,
                more=more,
                packed=graph.content,
            )
            pending.append(PendingRequest(lane, request, loop.create_future(), deadline))
        for each in pending:
            self.pending[each.request.id] = each
            self._outbox.put_nowait(each)
        try:
            replies = [await each.future for each in pending]
        finally:
            self._release(pending)
        for reply in replies:
            if reply.error is not None:
                raise ServiceError(*reply.error)
        return replies

    def _release(self, pending: Sequence[PendingRequest]) -> None:
        """Forget requests; those without a reply are withdrawn from the broker."""
        abandoned = [each for each in pending if not each.future.done() or each.future.cancelled()]
        for each in pending:
            del self.pending[each.request.id]
            each.future.cancel()
        for each in abandoned:
            late = time.monotonic() >= each.deadline
            metrics.ABANDONED.labels("deadline" if late else "draining" if self.draining else "gone").inc()
            if each.stream_id:
                self._abandoned.put_nowait(each)

    async def _send(self) -> None:
        """Add requests to the queue; those that gather during one round trip go together in the next."""
        while True:
            pending = [each for each in await _next_batch(self._outbox) if not each.future.done()]
            try:
                async with asyncio.timeout(SUBMIT_S):
                    added = await self.producer.submit([(each.lane, each.request) for each in pending])
            except (RedisError, OSError) as error:
                log.warning("requests not added", error=str(error), requests=len(pending))
                for each in pending:
                    if not each.future.done():
                        each.future.set_exception(broker_unavailable())
                continue
            for each, stream_id in zip(pending, added, strict=True):
                each.stream_id = stream_id
                if each.future.done():  # abandoned during the round trip
                    self._abandoned.put_nowait(each)

    async def _withdraw(self) -> None:
        """Delete abandoned requests; those that gather during one round trip go together in the next."""
        while True:
            stream_ids: dict[Lane, list[bytes]] = {}
            for each in await _next_batch(self._abandoned):
                stream_ids.setdefault(each.lane, []).append(each.stream_id)
            try:
                for lane, of_lane in stream_ids.items():
                    await self.producer.withdraw(lane, of_lane)
            except (RedisError, OSError) as error:
                log.warning("requests not withdrawn", error=str(error))

    async def _collect(self) -> None:
        """Pass replies to the callers; late and repeated ones are ignored."""
        reader = RequestProducer(self._reader, self.name)
        while True:
            try:
                for reply in await reader.replies(POLL_S):
                    pending = self.pending.get(reply.id)
                    if pending is not None and not pending.future.done():
                        pending.future.set_result(reply)
            except (RedisError, OSError) as error:
                log.warning("replies not read", error=str(error))
                await asyncio.sleep(PAUSE_S)


async def _next_batch(queue: "asyncio.Queue[T]") -> list[T]:
    """Wait for an item, and return it with all others that are in the queue."""
    batch = [await queue.get()]
    while not queue.empty():
        batch.append(queue.get_nowait())
    return batch
