"""Clock of the broker, which all hosts share: their own clocks differ and jump."""

import time

from redis.asyncio import Redis


class BrokerClock:
    """Offset of the broker's clock from this process's monotonic clock; that of this host until it is measured."""

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    async def measure(self, client: "Redis") -> None:
        """Measure the offset.

        Raises:
            RedisError, OSError: if the broker does not reply.
        """
        before = time.monotonic()
        seconds, microseconds = await client.time()
        self._ahead = seconds + microseconds / 1e6 - (before + time.monotonic()) / 2

    def now(self) -> float:
        """Return the Unix time in seconds."""
        return time.monotonic() + self._ahead
