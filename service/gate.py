"""The gate before everything: what cannot be let in is told so before its key, its body or its route is looked at.

Under overload most requests are refused, and the less a refusal costs, the more is left for those that are let in.
"""

from typing import Any

import orjson
import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service import metrics
from service.entries import Lane
from service.envelope import request_id_of
from service.errors import PROBLEM_JSON, ServiceError, counted, problem_document, problem_headers
from service.headers import headers_for

LANES: dict[str, Lane] = {"/predict": "interactive", "/predict/batch": "bulk"}
COMMON = {
    path: [(name.lower().encode(), value.encode()) for name, value in headers_for(path).items()] for path in LANES
}
log = structlog.get_logger("api")


class Gate:
    """ASGI middleware around the whole application.

    Args:
        app: the application.
        state: of the application; its `parts` are there once it has started.
    """

    def __init__(self, app: ASGIApp, state: Any) -> None:
        self.app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it: 503 not ready, 429 too much is waiting."""
        lane = LANES.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if lane is not None:
            try:
                self._state.parts.dispatcher.check(lane)
            except ServiceError as error:
                await _refuse(scope, send, counted(error))
                return
        await self.app(scope, receive, send)


async def _refuse(scope: Scope, send: Send, error: ServiceError) -> None:
    """The same answer as `errors.problem` would give within the application, by hand."""
    path, request_id = scope["path"], request_id_of(Headers(scope=scope))
    content = orjson.dumps(problem_document(error.status, error.code, error.detail, request_id))
    own = {
        "content-type": PROBLEM_JSON,
        "content-length": str(len(content)),
        "x-request-id": request_id,
        **problem_headers(error),
    }
    headers = [*((name.lower().encode(), value.encode()) for name, value in own.items()), *COMMON[path]]
    metrics.REQUESTS.labels(path, str(error.status)).inc()
    log.info("request", request_id=request_id, method=scope["method"], route=path, status=error.status)
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
