"""Disconnection of clients, and the cancellation of work whose client has disconnected."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

CLIENT = "client_connection"  # key of the `ClientConnection` in the state of a request
T = TypeVar("T")


class ClientConnection:
    """Connection of a client as its requests see it; cheaper than a task for each request that polls for its end.

    Args:
        wake: wakes the task that waits for the body of a request.

    Attributes:
        disconnected: whether the client has disconnected.
        on_disconnect: functions to call when it does.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.disconnected = False
        self.on_disconnect: set[Callable[[], None]] = set()

    def disconnect(self) -> None:
        """Note that the client has disconnected, and call what waits for that."""
        self.disconnected = True
        for callback in [*self.on_disconnect]:
            callback()


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of the work, which is cancelled if the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected.
    """
    client: ClientConnection = request.scope["state"][CLIENT]
    if client.disconnected:
        work.close()
        raise ClientDisconnect
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a request is served by a task
    cancelled = False

    def cancel() -> None:
        nonlocal cancelled
        cancelled = True
        task.cancel()

    client.on_disconnect.add(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if cancelled and not task.uncancel():  # else something beside the disconnection cancels the task too
            raise ClientDisconnect from None
        raise
    finally:
        client.on_disconnect.discard(cancel)
