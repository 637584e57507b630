"""The gate before prediction: what cannot be let in is told so before its body is read or a route is looked for.

Under overload most requests are refused, and the less a refusal costs, the more is left for those that are let in.
"""

from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.entries import Lane
from service.errors import ServiceError, counted, problem

LANES: dict[str, Lane] = {"/predict": "interactive", "/predict/batch": "bulk"}


class Gate:
    """ASGI middleware.

    Args:
        app: the rest of the application.
        state: of the application; its `parts` are there once it has started.
    """

    def __init__(self, app: ASGIApp, state: Any) -> None:
        self.app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it: 503 not ready, 429 too much is waiting."""
        lane = LANES.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if lane is not None:
            scope["state"]["route"] = scope["path"]
            try:
                self._state.parts.dispatcher.check(lane)
            except ServiceError as error:
                await problem(Request(scope), counted(error))(scope, receive, send)
                return
        await self.app(scope, receive, send)
