"""The queue: a Redis stream of entries, a list of answers for each API replica, heartbeats of the workers.

Only commands that Redis 7 and Valkey 8 share. The rules that keep every entry:

- The group starts at 0, so entries added before the first worker are read.
- An answer is written before its entry is acknowledged; entries are acknowledged and deleted together.
  A crash in between repeats the work, and the API ignores a second answer.
- A worker renews the lease of all it holds (XCLAIM JUSTID); entries whose lease ran out are taken over (XAUTOCLAIM).
- After `max_deliveries` an entry goes to the dead-letter stream and its client is told.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from service.entries import Answer, Entry

REQUESTS = "deepergatgnn:requests"
DEAD = "deepergatgnn:dead"
ANSWERS = "deepergatgnn:answers:"
WORKERS = "deepergatgnn:workers:"
GROUP = "workers"
ANSWERS_KEPT_S = 120
DEAD_KEPT = 1000


def connect(url: str) -> "Redis":
    """A client of the broker; commands fail fast, so that callers can say 503."""
    client: Redis = Redis.from_url(
        url,
        protocol=2,  # one shape of replies on every server
        socket_connect_timeout=2.0,
        socket_timeout=10.0,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 1),
    )
    return client


@dataclass(frozen=True, eq=False)
class Delivery:
    """An entry in a worker's hands, by its stream id."""

    stream_id: bytes
    entry: Entry


class RequestQueue:
    """The API's side.

    Args:
        client: of the broker.
        replica: name of this API process.
    """

    def __init__(self, client: "Redis", replica: str) -> None:
        self._client = client
        self._replica = replica

    async def submit(self, entries: Sequence[Entry]) -> None:
        """Add entries, all in one round trip."""
        async with self._client.pipeline(transaction=False) as pipe:
            for entry in entries:
                pipe.xadd(REQUESTS, entry.pack())  # type: ignore[arg-type]
            await pipe.execute()

    async def answers(self, timeout_s: float, count: int = 512) -> list[Answer]:
        """Answers that have come, after waiting at most `timeout_s` for the first."""
        reply: Any = await self._client.blmpop(timeout_s, 1, ANSWERS + self._replica, direction="LEFT", count=count)
        return [Answer.unpack(content) for content in reply[1]] if reply else []

    async def workers(self) -> list[dict[str, object]]:
        """Heartbeats of the workers that are alive."""
        keys = [key async for key in self._client.scan_iter(match=WORKERS + "*", count=1000)]
        beats = await self._client.mget(keys) if keys else []
        return [orjson.loads(beat) for beat in beats if beat is not None]

    async def length(self) -> int:
        """Entries that are not yet answered, waiting or in a worker's hands."""
        return int(await self._client.xlen(REQUESTS))


class WorkQueue:
    """A worker's side.

    Args:
        client: of the broker.
        worker: name of this worker, unique among those alive.
        lease_s: how long entries stay with a worker that does not renew.
    """

    def __init__(self, client: "Redis", worker: str, lease_s: float) -> None:
        self._client = client
        self._worker = worker
        self._lease_ms = int(lease_s * 1000)

    async def create_group(self) -> None:
        """Make the consumer group, from the very first entry; harmless if it exists."""
        try:
            await self._client.xgroup_create(REQUESTS, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def read(self, count: int, block_s: float | None) -> list[Delivery]:
        """Up to `count` new entries; waits up to `block_s` for the first, None does not wait."""
        try:
            reply: Any = await self._client.xreadgroup(
                GROUP,
                self._worker,
                {REQUESTS: ">"},
                count=count,
                block=None if block_s is None else max(1, int(block_s * 1000)),
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):  # the broker lost its data: start anew
                raise
            await self.create_group()
            return []
        return await self._unpack(reply[0][1]) if reply else []

    async def take_over(self, count: int) -> list[tuple[Delivery, int]]:
        """Entries whose lease ran out elsewhere, now held here; how often each was delivered, this time included."""
        try:
            _, messages, *_ = await self._client.xautoclaim(
                REQUESTS, GROUP, self._worker, min_idle_time=self._lease_ms, count=count
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.create_group()
            return []
        deliveries = await self._unpack(messages)
        if not deliveries:
            return []
        pending = await self._client.xpending_range(
            REQUESTS,
            GROUP,
            min=deliveries[0].stream_id,
            max=deliveries[-1].stream_id,
            count=10 * count,
            consumername=self._worker,
        )
        times = {item["message_id"]: int(item["times_delivered"]) for item in pending}
        return [(delivery, times.get(delivery.stream_id, 1)) for delivery in deliveries]

    async def renew(self, stream_ids: Sequence[bytes]) -> None:
        """Keep the entries in hand for another lease."""
        if stream_ids:
            await self._client.xclaim(REQUESTS, GROUP, self._worker, 0, list(stream_ids), justid=True)

    async def answer(self, answers: Iterable[tuple[Delivery, Answer | None]]) -> None:
        """Write answers, then acknowledge and delete their entries; None only acknowledges (nobody waits)."""
        async with self._client.pipeline(transaction=True) as pipe:
            done: list[bytes] = []
            for delivery, answer in answers:
                if answer is not None:
                    key = ANSWERS + delivery.entry.replica
                    pipe.rpush(key, answer.pack())
                    pipe.expire(key, ANSWERS_KEPT_S)
                done.append(delivery.stream_id)
            if done:
                pipe.xack(REQUESTS, GROUP, *done)
                pipe.xdel(REQUESTS, *done)
                await pipe.execute()

    async def bury(self, delivery: Delivery, answer: Answer) -> None:
        """Move an entry to the dead-letter stream and tell its client."""
        await self._client.xadd(
            DEAD, {"id": delivery.entry.id, "worker": self._worker, "time": time.time()}, maxlen=DEAD_KEPT
        )
        await self.answer([(delivery, answer)])

    async def beat(self, status: Mapping[str, object], lifetime_s: float) -> None:
        """Say that this worker is alive."""
        await self._client.set(WORKERS + self._worker, orjson.dumps(status), px=int(lifetime_s * 1000))

    async def leave(self) -> None:
        """Stop counting as alive; entries still held are taken over when their lease runs out."""
        await self._client.delete(WORKERS + self._worker)

    async def _unpack(self, messages: Iterable[tuple[bytes, dict[bytes, bytes] | None]]) -> list[Delivery]:
        """Deliveries of stream messages; what is not an entry of ours is dropped, it could never be answered."""
        deliveries, foreign = [], []
        for stream_id, fields in messages:
            try:
                deliveries.append(Delivery(stream_id, Entry.unpack(fields or {})))
            except (KeyError, ValueError, UnicodeDecodeError):
                foreign.append(stream_id)
        if foreign:
            await self._client.xack(REQUESTS, GROUP, *foreign)
            await self._client.xdel(REQUESTS, *foreign)
        return deliveries
