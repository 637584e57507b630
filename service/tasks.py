"""Background tasks: restart after a failure, end together."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

import structlog

PAUSE_S = 0.25
LONG_LIFE_S = 30.0
log = structlog.get_logger("tasks")


class Backoff:
    """Pauses before the restarts of a process: doubled each time, short again after a life of 30 s.

    Args:
        first_s, longest_s: bounds of the pause.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._pause_s, self._started = first_s, time.monotonic()

    async def wait(self) -> None:
        """Pause; the process is restarted afterwards."""
        long_lived = time.monotonic() - self._started > LONG_LIFE_S
        self._pause_s = self._first_s if long_lived else min(2 * self._pause_s, self._longest_s)
        await asyncio.sleep(self._pause_s)
        self._started = time.monotonic()


async def restart_on_failure(work: Callable[[], Awaitable[None]]) -> None:
    """Run an endless task, again whenever an unexpected error ends it."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("background task failed, restarting")
            await asyncio.sleep(PAUSE_S)


async def cancel_all(tasks: Collection["asyncio.Task[None]"]) -> None:
    """Cancel tasks again until all have ended, since a command of redis-py may swallow a cancellation."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=PAUSE_S)


async def run_until_done(main: Awaitable[None], *others: Awaitable[None]) -> None:
    """Run tasks side by side until the main one ends or any of them fails, then cancel the rest.

    A TaskGroup would wait forever for a task that swallows its one cancellation.
    """
    first = asyncio.ensure_future(main)
    running = {first, *map(asyncio.ensure_future, others)}
    try:
        while not first.done():
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        await cancel_all(running)
