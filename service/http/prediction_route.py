"""Routes of predictions: each declares its endpoint, lane, body limit and OpenAPI operation in one place."""

import re
from collections.abc import Awaitable, Callable
from inspect import getdoc
from typing import Any, Literal

from fastapi import Request, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from deepergatgnn.service.lanes import Lane
from deepergatgnn.service.settings import Settings

MIB = 1024 * 1024
Document = dict[str, Any]


class PredictionRoute(Route):
    """POST route without FastAPI's parameter handling, which takes as long as the endpoints themselves.

    Args:
        path: of the route.
        endpoint: takes the request, returns the response; its docstring describes the operation.
        lane: of its crystals, for load shedding.
        body_limit: setting with the largest body, in MiB.
        operation: OpenAPI operation; `describe` adds what all operations share.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[[Request], Awaitable[Response]],
        *,
        lane: Lane,
        body_limit: Literal["max_body_mib", "max_bulk_body_mib"],
        operation: Document,
    ) -> None:
        super().__init__(path, endpoint, methods=["POST"])
        self.lane, self._body_limit = lane, body_limit
        operation_id = re.sub(r"\W", "_", f"{self.name}{path}_post")
        self.operation = {"description": getdoc(endpoint), "operationId": operation_id} | operation

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        scope["route"] = self  # for the log and the count; FastAPI sets it for its own routes only
        await super().handle(scope, receive, send)

    def max_body_bytes(self, settings: Settings) -> int:
        """Return the size of the largest body in bytes."""
        return int(getattr(settings, self._body_limit) * MIB)
