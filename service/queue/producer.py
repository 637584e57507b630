"""The queue: a Redis stream of requests for each lane and a list of replies for each `reply_to`.

Only commands that Redis 7 and Valkey 8 share. These rules keep every request:

- The consumer group starts at 0, so that requests added before the first worker are read.
- A reply is written before its request is acknowledged; acknowledgement and deletion are one transaction. A crash in
  between repeats the computation, and the client ignores a second reply.
- A worker renews the leases of the requests that it holds (XCLAIM JUSTID); others take over a request whose lease
  has expired (XAUTOCLAIM).
- A request that was taken over is computed alone, and its delivery is counted when the computation begins. After
  `max_deliveries` it moves to the dead-letter stream and its client gets an error.
- The API checks at times whether its unanswered requests are still in the stream, and adds lost ones again.
"""

from collections.abc import Sequence
from typing import Any

import structlog
from redis.asyncio import Redis

from deepergatgnn.service.lanes import LANES, Lane
from deepergatgnn.service.messages import InferenceReply, InferenceRequest, UnreadableError
from deepergatgnn.service.telemetry import metrics

STREAMS = {lane: f"deepergatgnn:requests:{lane.name}" for lane in LANES}
FIELD = b"entry"  # the only field of a stream entry
DEAD = "deepergatgnn:dead"
ANSWERS = "deepergatgnn:answers:"
WITHDRAWN = "deepergatgnn:withdrawn"  # a channel
GROUP = "workers"
REPLIES_AT_ONCE = 32  # their tasks resume in one turn of the event loop: 256 would block it for 30 ms
log = structlog.get_logger("queue")


class RequestProducer:
    """The queue as the sender of requests sees it.

    Args:
        client: of the broker.
        reply_to: name of the list of replies that is read.
    """

    def __init__(self, client: "Redis", reply_to: str) -> None:
        self._client = client
        self._reply_to = reply_to

    async def submit(self, requests: Sequence[tuple[Lane, InferenceRequest]]) -> list[bytes]:
        """Add requests in one round trip and return their stream ids."""
        async with self._client.pipeline(transaction=False) as pipe:
            for lane, request in requests:
                pipe.execute_command("XADD", STREAMS[lane], "*", FIELD, request.pack())  # `xadd` with less overhead
            added: list[bytes] = await pipe.execute()
        return added

    async def withdraw(self, lane: Lane, stream_ids: Sequence[bytes]) -> None:
        """Delete abandoned requests, and notify the workers that may have read them already."""
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.xdel(STREAMS[lane], *stream_ids)
            pipe.publish(WITHDRAWN, b" ".join((lane.name.encode(), *stream_ids)))
            await pipe.execute()

    async def missing(self, lane: Lane, stream_ids: Sequence[bytes]) -> list[bytes]:
        """Return the ids that are not in the stream: answered, or lost with the broker's data."""
        async with self._client.pipeline(transaction=False) as pipe:
            for stream_id in stream_ids:
                pipe.xrange(STREAMS[lane], min=stream_id, max=stream_id, count=1)
            found = await pipe.execute()
        return [stream_id for stream_id, entries in zip(stream_ids, found, strict=True) if not entries]

    async def replies(self, timeout_s: float, count: int = REPLIES_AT_ONCE) -> list[InferenceReply]:
        """Return the next replies, after at most `timeout_s`; unreadable ones are counted and left out."""
        reply: Any = await self._client.blmpop(timeout_s, 1, ANSWERS + self._reply_to, direction="LEFT", count=count)
        replies = []
        for content in reply[1] if reply else ():
            try:
                replies.append(InferenceReply.unpack(content))
            except UnreadableError as error:
                metrics.UNREADABLE_REPORTS.labels("answer").inc()
                log.warning("unreadable reply dropped", error=str(error))
        return replies

    async def forget(self) -> None:
        """Delete the list of replies."""
        await self._client.delete(ANSWERS + self._reply_to)
