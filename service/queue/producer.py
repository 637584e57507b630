"""The queue: a Redis stream of entries for each lane, a list of answers for each API replica, heartbeats of both sides.

Only commands that Redis 7 and Valkey 8 share. The rules that keep every entry:

- The group starts at 0, so entries added before the first worker are read.
- An answer is written before its entry is acknowledged; entries are acknowledged and deleted together.
  A crash in between repeats the work, and the API ignores a second answer.
- A worker renews the lease of all it holds (XCLAIM JUSTID); entries whose lease ran out are taken over (XAUTOCLAIM).
- An entry taken over is computed alone, and counted when its computation begins. After `max_deliveries` it goes to the
  dead-letter stream and its client is told.
- The API asks from time to time whether what it waits for is still there, and adds what a broker has lost anew.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from deepergatgnn.service.messages import LANES, InferenceReply, InferenceRequest, Lane, UnreadableError
from deepergatgnn.service.queue.heartbeats import heartbeat_of, report_of
from deepergatgnn.service.telemetry import metrics

STREAMS: dict[Lane, str] = {lane: f"deepergatgnn:requests:{lane}" for lane in LANES}
DEAD = "deepergatgnn:dead"
ANSWERS = "deepergatgnn:answers:"
WORKERS = "deepergatgnn:workers:"
REPLICAS = "deepergatgnn:replicas:"
COUNTED = "deepergatgnn:metrics:"
WITHDRAWN = "deepergatgnn:withdrawn"  # a channel
GROUP = "workers"
SCRAPE_S = 1.0
ANSWERS_AT_ONCE = 32  # all who waited for them go on in one turn of the event loop: 256 hold it for 30 ms
log = structlog.get_logger("queue")


class RequestProducer:
    """The API's side.

    Args:
        client: of the broker.
        replica: name of this API process.
    """

    def __init__(self, client: "Redis", replica: str) -> None:
        self._client = client
        self._replica = replica

    async def submit(self, entries: Sequence[InferenceRequest]) -> list[bytes]:
        """Add entries, all in one round trip; the stream id of each."""
        async with self._client.pipeline(transaction=False) as pipe:
            for entry in entries:
                pipe.execute_command("XADD", STREAMS[entry.lane], "*", *entry.pack())  # as `xadd`, with less around it
            added: list[bytes] = await pipe.execute()
        return added

    async def withdraw(self, lane: Lane, stream_ids: Sequence[bytes]) -> None:
        """Delete entries that nobody waits for any more, and tell the worker that may have read them already."""
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.xdel(STREAMS[lane], *stream_ids)
            pipe.publish(WITHDRAWN, b" ".join((lane.encode(), *stream_ids)))
            await pipe.execute()

    async def missing(self, lane: Lane, stream_ids: Sequence[bytes]) -> list[bytes]:
        """Those of the entries that the broker does not have: answered, or lost with its data."""
        async with self._client.pipeline(transaction=False) as pipe:
            for stream_id in stream_ids:
                pipe.xrange(STREAMS[lane], min=stream_id, max=stream_id, count=1)
            found = await pipe.execute()
        return [stream_id for stream_id, entries in zip(stream_ids, found, strict=True) if not entries]

    async def answers(self, timeout_s: float, count: int = ANSWERS_AT_ONCE) -> list[InferenceReply]:
        """Answers that have come, after waiting at most `timeout_s` for the first."""
        reply: Any = await self._client.blmpop(timeout_s, 1, ANSWERS + self._replica, direction="LEFT", count=count)
        answers = []
        for content in reply[1] if reply else ():
            try:
                answers.append(InferenceReply.unpack(content))
            except UnreadableError as error:  # of a worker of another release
                metrics.UNREADABLE_REPORTS.labels("answer").inc()
                log.warning("an answer cannot be read", error=str(error))
        return answers

    async def workers(self) -> list[dict[str, Any]]:
        """Heartbeats of the workers that are alive; what is none is counted and left out."""
        return self._read("heartbeat", heartbeat_of, await self._alive(WORKERS))

    async def worker_metrics(self) -> dict[str, str]:
        """What each worker that is alive has counted, by its name; nothing while the broker is out of reach."""
        try:
            async with asyncio.timeout(SCRAPE_S):
                keys: list[Any] = [key async for key in self._client.scan_iter(match=COUNTED + "*", count=1000)]
                texts: list[Any] = await self._client.mget(keys) if keys else []
        except (RedisError, OSError):
            return {}
        found = zip(keys, texts, strict=True)
        names = {key: key.decode("utf-8", "replace").removeprefix(COUNTED) for key in keys}
        return {names[key]: text.decode("utf-8", "replace") for key, text in found if text is not None}

    async def replicas(self) -> list[dict[str, Any]]:
        """Reports of the API processes that are alive; what is none is counted and left out."""
        return self._read("report", report_of, await self._alive(REPLICAS))

    async def report(self, status: Mapping[str, object], lifetime_s: float) -> None:
        """Say what this process waits for."""
        await self._client.set(REPLICAS + self._replica, orjson.dumps(status), px=int(lifetime_s * 1000))

    async def leave(self) -> None:
        """Forget this process."""
        await self._client.delete(REPLICAS + self._replica, ANSWERS + self._replica)

    async def length(self) -> int:
        """Entries that are not yet answered, waiting or in a worker's hands."""
        return sum([int(await self._client.xlen(stream)) for stream in STREAMS.values()])

    async def _alive(self, prefix: str) -> list[bytes]:
        keys = [key async for key in self._client.scan_iter(match=prefix + "*", count=1000)]
        beats: list[Any] = await self._client.mget(keys) if keys else []
        return [heartbeat for heartbeat in beats if heartbeat is not None]

    @staticmethod
    def _read(kind: str, read: Callable[[object], dict[str, Any]], texts: Sequence[bytes]) -> list[dict[str, Any]]:
        found = []
        for text in texts:
            try:
                found.append(read(orjson.loads(text)))
            except ValueError:
                metrics.UNREADABLE_REPORTS.labels(kind).inc()
        return found
