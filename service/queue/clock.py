"""The broker's time, which all hosts can ask for: their own clocks disagree and jump."""

import time

from redis.asyncio import Redis


class BrokerClock:
    """Tells the broker's time without asking it each time; until it was asked, this host's."""

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    async def measure(self, client: "Redis") -> None:
        """Ask the broker.

        Raises:
            RedisError, OSError: if it does not say.
        """
        before = time.monotonic()
        seconds, microseconds = await client.time()
        self._ahead = seconds + microseconds / 1e6 - (before + time.monotonic()) / 2

    def now(self) -> float:
        """Unix time in seconds."""
        return time.monotonic() + self._ahead
