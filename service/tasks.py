"""Background tasks: restart after a failure, end together."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

import structlog

PAUSE_S = 0.25
log = structlog.get_logger("tasks")


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
