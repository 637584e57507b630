"""The gate before everything: what cannot be let in is told so before its key, its body or its route is looked at.

Under overload most requests are refused, and the less a refusal costs, the more is left for those that are let in.
"""

import time

import orjson
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.dependencies import PARTS
from deepergatgnn.service.http.problems import PROBLEM_JSON, counted, problem_document, problem_headers, status_of
from deepergatgnn.service.http.request_context import request_id_of
from deepergatgnn.service.http.security_headers import raw_headers_for
from deepergatgnn.service.lanes import BULK, INTERACTIVE
from deepergatgnn.service.scheduling.fairness import connection_of
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.service.telemetry.logs import LineLimit

LANES = {"/predict": INTERACTIVE, "/predict/batch": BULK}
log = structlog.get_logger("api")


class LoadShedding:
    """ASGI middleware around the whole application.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._lines = LineLimit(log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it: 503 not ready, 429 too much is waiting."""
        lane = LANES.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if lane is not None:
            try:
                state = scope["state"][PARTS]
                state.cluster.ensure_available()
                state.admission.check(lane, connection_of(scope))
            except ServiceError as error:
                await _refuse(scope, send, counted(error), logged=self._lines.worth_a_line(int(time.monotonic())))
                return
        await self.app(scope, receive, send)


async def _refuse(scope: Scope, send: Send, error: ServiceError, *, logged: bool) -> None:
    """The same answer as `errors.problem` would give within the application, by hand."""
    path, request_id, status = scope["path"], request_id_of(scope), status_of(error.code)
    content = orjson.dumps(problem_document(status, error.code, error.detail, request_id))
    own = {
        "content-type": PROBLEM_JSON,
        "content-length": str(len(content)),
        "x-request-id": request_id,
        **problem_headers(error, status),
    }
    headers = [*((name.lower().encode(), value.encode()) for name, value in own.items()), *raw_headers_for(path)]
    metrics.count_request(path, status)
    if logged:
        log.info("request", request_id=request_id, method=scope["method"], route=path, status=status)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
