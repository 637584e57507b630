"""The worker's side of the queue; its rules stand in `queue`."""

import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from deepergatgnn.service.messages import LANES, Delivery, InferenceReply, InferenceRequest, Lane, UnreadableError
from deepergatgnn.service.queue.producer import ANSWERS, COUNTED, DEAD, GROUP, STREAMS, WITHDRAWN, WORKERS
from deepergatgnn.service.telemetry import metrics

ANSWERS_KEPT_S = 120
DEAD_KEPT = 1000
LISTEN_S = 5.0
LONGEST_LETTER = 64 * 1024  # bytes kept of an entry that cannot be read
log = structlog.get_logger("worker")
_LANES = {lane.encode(): lane for lane in LANES}


class RequestConsumer:
    """The queue as one worker sees it.

    Args:
        client: of the broker.
        worker: name of this worker, unique among those alive.
        lease_s: how long entries stay with a worker that does not renew.
    """

    def __init__(self, client: "Redis", worker: str, lease_s: float) -> None:
        self._client = client
        self._worker = worker
        self._lease_ms = int(lease_s * 1000)

    async def create_groups(self) -> None:
        """Make the consumer groups, from the very first entry; harmless where they exist."""
        for stream in STREAMS.values():
            try:
                await self._client.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def read(self, lane: Lane, count: int, block_s: float) -> list[Delivery]:
        """Up to `count` new entries of a lane; waits up to `block_s` for the first."""
        try:
            reply: Any = await self._client.xreadgroup(
                GROUP, self._worker, {STREAMS[lane]: ">"}, count=count, block=max(1, int(block_s * 1000))
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):  # the broker lost its data: start anew
                raise
            await self.create_groups()
            return []
        return await self._unpack(lane, reply[0][1]) if reply else []

    async def take_over(self, count: int) -> list[Delivery]:
        """Entries whose lease ran out elsewhere, now held here."""
        return [delivery for lane in LANES for delivery in await self._take_over(lane, count)]

    async def _take_over(self, lane: Lane, count: int) -> list[Delivery]:
        stream = STREAMS[lane]
        try:
            taken: list[bytes] = await self._client.xautoclaim(
                stream, GROUP, self._worker, min_idle_time=self._lease_ms, count=count, justid=True
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.create_groups()
            return []
        async with self._client.pipeline(transaction=False) as pipe:
            for stream_id in taken:
                pipe.xrange(stream, min=stream_id, max=stream_id, count=1)
                pipe.xpending_range(stream, GROUP, min=stream_id, max=stream_id, count=1)
            found: list[Any] = await pipe.execute()
        messages = [
            entry[0] if entry else (stream_id, None) for stream_id, entry in zip(taken, found[::2], strict=True)
        ]
        times = {item["message_id"]: int(item["times_delivered"]) for rows in found[1::2] for item in rows}
        return [
            replace(delivery, times=times.get(delivery.stream_id, 1) + 1)
            for delivery in await self._unpack(lane, messages)
        ]

    async def attempt(self, delivery: Delivery) -> None:
        """Write down that an entry taken over is given to the device now: it counts if the worker does not survive."""
        await self._client.xclaim(
            STREAMS[delivery.entry.lane],
            GROUP,
            self._worker,
            0,
            [delivery.stream_id],
            retrycount=delivery.times,
            justid=True,
        )

    async def renew(self, deliveries: Iterable[Delivery]) -> None:
        """Keep the entries in hand for another lease."""
        held: dict[Lane, list[bytes]] = {}
        for delivery in deliveries:
            held.setdefault(delivery.entry.lane, []).append(delivery.stream_id)
        for lane, stream_ids in held.items():
            await self._client.xclaim(STREAMS[lane], GROUP, self._worker, 0, [*stream_ids], justid=True)

    async def answer(self, answers: Sequence[tuple[Delivery, InferenceReply | None]]) -> None:
        """Write answers, then acknowledge and delete their entries; None only acknowledges (nobody waits)."""
        if not answers:
            return
        contents: dict[str, list[bytes]] = {}
        done: dict[Lane, list[bytes]] = {}
        for delivery, answer in answers:
            if answer is not None:
                contents.setdefault(ANSWERS + delivery.entry.replica, []).append(answer.pack())
            done.setdefault(delivery.entry.lane, []).append(delivery.stream_id)
        async with self._client.pipeline(transaction=True) as pipe:
            for key, packed in contents.items():
                pipe.rpush(key, *packed)
                pipe.expire(key, ANSWERS_KEPT_S)
            for lane, stream_ids in done.items():
                pipe.xack(STREAMS[lane], GROUP, *stream_ids)
                pipe.xdel(STREAMS[lane], *stream_ids)
            try:
                await pipe.execute()
            except ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                # All but that list was written and acknowledged; to write it again would not help.
                log.warning("a list of answers is something else", error=str(error))

    async def withdrawn(self) -> AsyncGenerator[tuple[Lane, bytes]]:
        """Lane and stream id of entries that nobody waits for any more, as they are taken back; without end."""
        async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(WITHDRAWN)
            while True:
                message = await channel.get_message(timeout=LISTEN_S)
                if message is not None:
                    name, *stream_ids = message["data"].split() or [b""]
                    if name not in _LANES:
                        metrics.UNREADABLE.labels("withdrawn").inc()
                        continue
                    for stream_id in stream_ids:
                        yield _LANES[name], stream_id

    async def dead_letter(self, delivery: Delivery, answer: InferenceReply) -> None:
        """Move an entry to the dead-letter stream and tell its client."""
        entry = delivery.entry
        note: dict[Any, Any] = {
            "id": entry.id,
            "request": entry.request_id,
            "models": " ".join(entry.models),
            "worker": self._worker,
            "time": time.time(),
            "graph": entry.packed,
        }
        await self._note(note)
        await self.answer([(delivery, answer)])

    async def _note(self, note: dict[Any, Any]) -> None:
        """Add to the dead-letter stream; if something else is in its place, the log alone has it."""
        try:
            await self._client.xadd(DEAD, note, maxlen=DEAD_KEPT)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            log.warning("the dead-letter stream is something else", error=str(error))

    async def _bury_unreadable(
        self, lane: Lane, letters: Sequence[tuple[bytes, Mapping[bytes, bytes], Exception]]
    ) -> None:
        """Dead-letter an unreadable entry and send an error to its replica."""
        for stream_id, fields, error in letters:
            metrics.UNREADABLE.labels("entry").inc()
            log.error("an entry cannot be read", stream_id=stream_id.decode(), error=str(error))
            content = b" ".join(part for field in fields.items() for part in field)[:LONGEST_LETTER]
            note = {"worker": self._worker, "time": time.time(), "error": str(error)[:1000], "content": content}
            await self._note(note)
            waiter = error.waiter if isinstance(error, UnreadableError) else None
            if waiter is not None:
                name, replica = waiter
                told = ("prediction_failed", "the crystal did not reach a worker whole: report the request id")
                answer = InferenceReply(name, worker=self._worker, error=told)
                await self.answer(
                    [(Delivery(stream_id, InferenceRequest(name, replica, (), b"", 0.0, lane=lane), 1, 0.0), answer)]
                )
        await self._drop(lane, [stream_id for stream_id, _, _ in letters])

    async def _drop(self, lane: Lane, stream_ids: Sequence[bytes]) -> None:
        """Acknowledge and delete entries that need no answer."""
        if stream_ids:
            await self._client.xack(STREAMS[lane], GROUP, *stream_ids)
            await self._client.xdel(STREAMS[lane], *stream_ids)

    async def heartbeat(self, status: Mapping[str, object], counted: bytes, lifetime_s: float) -> None:
        """Say that this worker is alive, and what it has counted."""
        lifetime_ms = int(lifetime_s * 1000)
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.set(WORKERS + self._worker, orjson.dumps(status), px=lifetime_ms)
            pipe.set(COUNTED + self._worker, counted, px=lifetime_ms)
            await pipe.execute()

    async def leave(self) -> None:
        """Stop counting as alive; entries still held are taken over when their lease runs out."""
        await self._client.delete(WORKERS + self._worker, COUNTED + self._worker)
        for stream in STREAMS.values():
            # Deleting a consumer discards what is pending with it, so only one with nothing pending goes.
            if not await self._client.xpending_range(stream, GROUP, "-", "+", 1, consumername=self._worker):
                await self._client.xgroup_delconsumer(stream, GROUP, self._worker)

    async def _unpack(self, lane: Lane, messages: Iterable[tuple[bytes, dict[bytes, bytes] | None]]) -> list[Delivery]:
        """Deliveries of stream messages; what is not an entry of ours is dead-lettered, it could never be answered."""
        deliveries: list[Delivery] = []
        letters: list[tuple[bytes, Mapping[bytes, bytes], Exception]] = []
        gone: list[bytes] = []
        now = time.monotonic()
        for stream_id, fields in messages:
            if fields is None:  # withdrawn
                gone.append(stream_id)
                continue
            try:
                deliveries.append(Delivery(stream_id, InferenceRequest.unpack(fields, lane), 1, now))
            except Exception as error:  # noqa: BLE001 - whatever it is, it would end every worker that reads the entry
                letters.append((stream_id, fields, error))
        await self._drop(lane, gone)
        await self._bury_unreadable(lane, letters)
        return deliveries
