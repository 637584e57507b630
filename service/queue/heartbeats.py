"""Heartbeats of workers and API processes: for each kind a sorted set of expiry times and hashes of messages."""

from typing import Generic, TypeVar

from redis.asyncio import Redis

from deepergatgnn.service.messages import ApiReport, UnreadableError, WorkerHeartbeat
from deepergatgnn.service.telemetry import metrics

KEPT_S = 60.0  # an expired heartbeat is ignored at once and deleted later, lest its renewal be deleted with it
T = TypeVar("T", WorkerHeartbeat, ApiReport)


class Heartbeats(Generic[T]):
    """Heartbeats of one kind of processes.

    Args:
        client: of the broker.
        kind: of the processes, in the keys: the sorted set KIND of Unix times by process name, and the hashes
            KIND:heartbeats of packed messages and KIND:metrics of Prometheus text.
        message: type of the heartbeats.
        label: of unreadable heartbeats in the metrics.
    """

    def __init__(self, client: "Redis", kind: str, message: type[T], label: str) -> None:
        self._client, self._label = client, label
        self._message: type[T] = message
        self._expiries = f"deepergatgnn:{kind}"
        self._heartbeats, self._metrics = f"{self._expiries}:heartbeats", f"{self._expiries}:metrics"

    async def beat(self, name: str, message: T, expiry: float, counters: bytes = b"") -> None:
        """Store the heartbeat of a process.

        Args:
            name: of the process.
            message: its state.
            expiry: Unix time in seconds of the broker's clock, from which the process counts as gone.
            counters: its metrics in Prometheus text.
        """
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.zadd(self._expiries, {name: expiry})
            pipe.hset(self._heartbeats, name, message.pack())
            if counters:
                pipe.hset(self._metrics, name, counters)
            await pipe.execute()

    async def alive(self) -> list[T]:
        """Return the heartbeats that have not expired; unreadable ones are counted and left out."""
        found = []
        for content in (await self._unexpired(self._heartbeats)).values():
            try:
                found.append(self._message.unpack(content))
            except UnreadableError:
                metrics.UNREADABLE_REPORTS.labels(self._label).inc()
        return found

    async def metrics(self) -> dict[str, str]:
        """Return the metrics of the processes that are alive, in Prometheus text by name."""
        found = await self._unexpired(self._metrics)
        return {name.decode("utf-8", "replace"): text.decode("utf-8", "replace") for name, text in found.items()}

    async def remove(self, *names: str | bytes) -> None:
        """Delete the heartbeats of processes."""
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.zrem(self._expiries, *names)
            pipe.hdel(self._heartbeats, *names)
            pipe.hdel(self._metrics, *names)
            await pipe.execute()

    async def _unexpired(self, key: str) -> dict[bytes, bytes]:
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.zrange(self._expiries, 0, -1, withscores=True)
            pipe.hgetall(key)
            (seconds, microseconds), expiries, values = await pipe.execute()
        now = seconds + microseconds / 1e6
        if gone := [name for name, expiry in expiries if expiry < now - KEPT_S]:
            await self.remove(*gone)
        return {name: values[name] for name, expiry in expiries if expiry > now and name in values}


def worker_heartbeats(client: "Redis") -> Heartbeats[WorkerHeartbeat]:
    """Return the heartbeats of the workers."""
    return Heartbeats(client, "workers", WorkerHeartbeat, "heartbeat")


def api_reports(client: "Redis") -> Heartbeats[ApiReport]:
    """Return the reports of the API processes."""
    return Heartbeats(client, "replicas", ApiReport, "report")
