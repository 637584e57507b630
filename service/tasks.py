"""Tasks that last as long as their process, and how they end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

import structlog
from redis.exceptions import AuthenticationError, RedisError

from deepergatgnn.errors import ConfigError

PAUSE_S = 0.25
TELL_AGAIN_S = 30.0
log = structlog.get_logger("tasks")


async def lasting(work: Callable[[], Awaitable[None]]) -> None:
    """Do work that never ends, and begin it anew should a fault that nobody foresaw end it."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("begun anew")
            await asyncio.sleep(PAUSE_S)


async def ended(tasks: Collection["asyncio.Task[None]"]) -> None:
    """Cancel tasks until they have ended: a command of the broker's client may swallow a cancellation."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=PAUSE_S)


async def patiently(action: Callable[[], Awaitable[None]], stopping: asyncio.Event) -> None:
    """Do something with the broker, again and again until the broker is there or the process is told to stop.

    Raises:
        ConfigError: if the broker is there and refuses the name or password.
    """
    told = float("-inf")
    while not stopping.is_set():
        try:
            await action()
        except AuthenticationError as error:
            raise ConfigError(f"the broker of DEEPERGATGNN_REDIS_URL refuses its name or password: {error}") from None
        except (RedisError, OSError) as error:
            if time.monotonic() - told > TELL_AGAIN_S:
                told = time.monotonic()
                log.warning("waiting for the broker", error=str(error))
            await asyncio.sleep(PAUSE_S)
        else:
            return


async def first_of(arrived: asyncio.Event, *tasks: "asyncio.Task[None]", seconds: float) -> bool:
    """Wait until an event is set or a task ends, but not for ever; whether the event is set."""
    if not tasks:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await arrived.wait()
        return arrived.is_set()
    arrival = asyncio.create_task(arrived.wait())
    try:
        await asyncio.wait((arrival, *tasks), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        arrival.cancel()
    return arrived.is_set()
