"""The queue as a worker sees it; `producer` states its rules."""

import time
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from deepergatgnn.service.lanes import LANE_BY_NAME, LANES, Lane
from deepergatgnn.service.messages import (
    Delivery,
    ErrorCode,
    InferenceReply,
    InferenceRequest,
    UnreadableError,
    WorkerHeartbeat,
)
from deepergatgnn.service.queue.heartbeats import worker_heartbeats
from deepergatgnn.service.queue.producer import ANSWERS, DEAD, FIELD, GROUP, STREAMS, WITHDRAWN
from deepergatgnn.service.telemetry import metrics

REPLIES_KEPT_S = 120
DEAD_KEPT = 1000
LISTEN_S = 5.0
MAX_NOTE = 64 * 1024  # bytes of an unreadable request in the dead-letter stream
UNREADABLE: tuple[ErrorCode, str] = (
    "prediction_failed",
    "the crystal did not reach a worker whole: report the request id",
)
log = structlog.get_logger("worker")
Unreadable = tuple[bytes, Mapping[bytes, bytes], Exception]  # stream id, fields, reason


class RequestConsumer:
    """The queue as one worker sees it.

    Args:
        client: of the broker.
        worker: name of this worker, unique among those alive.
        lease_s: after which a request that is not renewed may be taken over.
    """

    def __init__(self, client: "Redis", worker: str, lease_s: float) -> None:
        self._client = client
        self._worker = worker
        self._lease_ms = int(lease_s * 1000)
        self._heartbeats = worker_heartbeats(client)

    async def create_groups(self) -> None:
        """Create the consumer groups, starting at the first entry, where they do not exist."""
        for stream in STREAMS.values():
            try:
                await self._client.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def _with_groups(self, command: Awaitable[Any]) -> Any:
        """Return the reply of a command; without groups, which a broker loses with its data, create them instead."""
        try:
            return await command
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.create_groups()
            return []

    async def read(self, lane: Lane, count: int, block_s: float) -> list[Delivery]:
        """Return up to `count` new requests of a lane, after at most `block_s`."""
        block_ms = max(1, int(block_s * 1000))
        reply = await self._with_groups(
            self._client.xreadgroup(GROUP, self._worker, {STREAMS[lane]: ">"}, count=count, block=block_ms)
        )
        return await self._unpack(lane, reply[0][1]) if reply else []

    async def take_over(self, count: int) -> list[Delivery]:
        """Return requests whose lease expired at other workers, up to `count` of each lane; this worker holds them."""
        return [delivery for lane in LANES for delivery in await self._take_over(lane, count)]

    async def _take_over(self, lane: Lane, count: int) -> list[Delivery]:
        stream = STREAMS[lane]
        taken: list[bytes] = await self._with_groups(
            self._client.xautoclaim(stream, GROUP, self._worker, self._lease_ms, count=count, justid=True)
        )
        async with self._client.pipeline(transaction=False) as pipe:
            for stream_id in taken:
                pipe.xrange(stream, min=stream_id, max=stream_id, count=1)
                pipe.xpending_range(stream, GROUP, min=stream_id, max=stream_id, count=1)
            found: list[Any] = await pipe.execute()
        entries = [entry[0] if entry else (stream_id, None) for stream_id, entry in zip(taken, found[::2], strict=True)]
        times = {item["message_id"]: int(item["times_delivered"]) for rows in found[1::2] for item in rows}
        return [
            replace(delivery, times=times.get(delivery.stream_id, 1) + 1)
            for delivery in await self._unpack(lane, entries)
        ]

    async def attempt(self, delivery: Delivery) -> None:
        """Count a delivery of a request that was taken over, before its computation may end this worker."""
        stream_id, times = delivery.stream_id, delivery.times
        await self._client.xclaim(
            STREAMS[delivery.lane], GROUP, self._worker, 0, [stream_id], retrycount=times, justid=True
        )

    async def renew(self, deliveries: Iterable[Delivery]) -> None:
        """Renew the leases of requests."""
        for lane, stream_ids in _by_lane(deliveries).items():
            await self._client.xclaim(STREAMS[lane], GROUP, self._worker, 0, [*stream_ids], justid=True)

    async def answer(self, answers: Sequence[tuple[Delivery, InferenceReply | None]]) -> None:
        """Write replies, then acknowledge and delete their requests; without a reply, only the latter."""
        replies: dict[str, list[bytes]] = {}
        for delivery, reply in answers:
            if reply is not None:
                replies.setdefault(ANSWERS + delivery.entry.reply_to, []).append(reply.pack())
        await self._finish(replies, _by_lane(delivery for delivery, _ in answers))

    async def _finish(self, replies: Mapping[str, Sequence[bytes]], done: Mapping[Lane, Sequence[bytes]]) -> None:
        if not done:
            return
        async with self._client.pipeline(transaction=True) as pipe:
            for key, contents in replies.items():
                pipe.rpush(key, *contents)
                pipe.expire(key, REPLIES_KEPT_S)
            for lane, stream_ids in done.items():
                pipe.xack(STREAMS[lane], GROUP, *stream_ids)
                pipe.xdel(STREAMS[lane], *stream_ids)
            try:
                await pipe.execute()
            except ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                # All other commands of the transaction were executed, and a repetition would fail in the same way.
                log.warning("the key of a reply list holds another type", error=str(error))

    async def withdrawn(self) -> AsyncGenerator[tuple[Lane, bytes]]:
        """Yield lane and stream id of each request that is withdrawn from now on, without end."""
        async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(WITHDRAWN)
            while True:
                message = await channel.get_message(timeout=LISTEN_S)
                if message is not None:
                    name, *stream_ids = message["data"].split() or [b""]
                    lane = LANE_BY_NAME.get(name.decode("utf-8", "replace"))
                    if lane is None:
                        metrics.UNREADABLE.labels("withdrawn").inc()
                        continue
                    for stream_id in stream_ids:
                        yield lane, stream_id

    async def dead_letter(self, delivery: Delivery, reply: InferenceReply) -> None:
        """Move a request to the dead-letter stream and send an error reply."""
        entry = delivery.entry
        models = " ".join(entry.models)
        await self._note({"id": entry.id, "request": entry.request_id, "models": models, "graph": entry.packed})
        await self.answer([(delivery, reply)])

    async def _note(self, note: dict[Any, Any]) -> None:
        """Add to the dead-letter stream; if its key holds another type, only the log has the request."""
        try:
            await self._client.xadd(DEAD, note | {"worker": self._worker, "time": time.time()}, maxlen=DEAD_KEPT)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            log.warning("the key of the dead-letter stream holds another type", error=str(error))

    async def heartbeat(self, state: WorkerHeartbeat, counters: bytes, expiry: float) -> None:
        """Store the heartbeat of this worker and its metrics, until `expiry` of the broker's clock."""
        await self._heartbeats.beat(self._worker, state, expiry, counters)

    async def leave(self) -> None:
        """Delete the heartbeat; requests still held are taken over when their lease expires."""
        await self._heartbeats.remove(self._worker)
        for stream in STREAMS.values():
            # Deleting a consumer discards its pending entries, so only one without any is deleted.
            if not await self._client.xpending_range(stream, GROUP, "-", "+", 1, consumername=self._worker):
                await self._client.xgroup_delconsumer(stream, GROUP, self._worker)

    async def _unpack(self, lane: Lane, entries: Iterable[tuple[bytes, dict[bytes, bytes] | None]]) -> list[Delivery]:
        """Return the requests in stream entries; unreadable ones are dead-lettered, withdrawn ones acknowledged."""
        deliveries: list[Delivery] = []
        unreadable: list[Unreadable] = []
        withdrawn: list[bytes] = []
        now = time.monotonic()
        for stream_id, fields in entries:
            if fields is None:
                withdrawn.append(stream_id)
                continue
            try:
                deliveries.append(Delivery(stream_id, lane, InferenceRequest.unpack(fields.get(FIELD, b"")), 1, now))
            except Exception as error:  # noqa: BLE001 - any exception would end every worker that reads the entry
                unreadable.append((stream_id, fields, error))
        if withdrawn:
            await self._finish({}, {lane: withdrawn})
        for each in unreadable:
            await self._dead_letter_unreadable(lane, *each)
        return deliveries

    async def _dead_letter_unreadable(
        self, lane: Lane, stream_id: bytes, fields: Mapping[bytes, bytes], error: Exception
    ) -> None:
        """Move an unreadable entry to the dead-letter stream, and send an error reply if its address is readable."""
        metrics.UNREADABLE.labels("entry").inc()
        log.error("unreadable request", stream_id=stream_id.decode(), error=str(error))
        content = b" ".join(part for field in fields.items() for part in field)[:MAX_NOTE]
        await self._note({"error": str(error)[:1000], "content": content})
        replies = {}
        if isinstance(error, UnreadableError) and (waiter := error.waiter) is not None:
            reply = InferenceReply(waiter.id, worker=self._worker, error=UNREADABLE)
            replies[ANSWERS + waiter.reply_to] = [reply.pack()]
        await self._finish(replies, {lane: [stream_id]})


def _by_lane(deliveries: Iterable[Delivery]) -> dict[Lane, list[bytes]]:
    stream_ids: dict[Lane, list[bytes]] = {}
    for delivery in deliveries:
        stream_ids.setdefault(delivery.lane, []).append(delivery.stream_id)
    return stream_ids
