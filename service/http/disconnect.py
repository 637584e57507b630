"""Whether the client of a connection is still there, and work that ends when it is not."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request

PRESENCE = "presence"  # its name in the state of a request
T = TypeVar("T")


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


class ClientPresence:
    """Of one client, as its connection tells it: a task for each request that waits for its end would cost more.

    Args:
        wake: wakes the task that waits for the body of a request.

    Attributes:
        gone: whether the client has left.
        told: what is called when it does.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.gone = False
        self.told: set[Callable[[], None]] = set()

    def leave(self) -> None:
        """The client is gone."""
        self.gone = True
        for tell in [*self.told]:
            tell()


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which ends early if the client leaves.

    Raises:
        ClientGoneError: the client left.
    """
    presence: ClientPresence = request.scope["state"][PRESENCE]
    if presence.gone:
        work.close()
        raise ClientGoneError
    waiting = asyncio.current_task()
    assert waiting is not None  # noqa: S101 - a request is served by a task
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        waiting.cancel()

    presence.told.add(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if left and not waiting.uncancel():  # else somebody else ends the task too
            raise ClientGoneError from None
        raise
    finally:
        presence.told.discard(leave)
