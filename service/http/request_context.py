"""Request context: request id, early refusal under overload, access log, request count and common response headers."""

import re
import time
from collections.abc import Callable, Iterable
from secrets import token_hex

import structlog
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.prediction_route import PredictionRoute
from deepergatgnn.service.http.problems import LATER, counted, problem_of
from deepergatgnn.service.http.security_headers import header, raw_headers_for
from deepergatgnn.service.lanes import Lane
from deepergatgnn.service.scheduling.fairness import connection_of
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.service.telemetry.logs import LineLimit

# Refusals that operators audit: logged at `warning`, so whatever the level.
AUDITED = frozenset({"unauthorized", "key_disabled", "wrong_host", "wrong_origin", "rate_limited"})
SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
log = structlog.get_logger("api")


class RequestContext:
    """ASGI middleware around the whole application, FastAPI's own layers included.

    Under overload most requests are refused; the check comes before key, body and routing, so that a refusal is cheap.

    Args:
        app: the rest of the application; raises a ServiceError for a request that it refuses outside FastAPI.
        routes: whose requests are refused early.
        check: raises the ServiceError of an early refusal, by lane and connection.
        cors_origins: origins whose pages may call the service.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Iterable[PredictionRoute],
        check: Callable[[Lane, str], None],
        cors_origins: tuple[str, ...] = (),
    ) -> None:
        self.app = app
        self._routes = {route.path: route for route in routes}
        self._check = check
        self._audited, self._refused = LineLimit(log), LineLimit(log)
        self._respond: ASGIApp = self._app_or_problem
        if cors_origins:  # around problems too: else the page could not read why it was refused
            self._respond = CORSMiddleware(
                self._app_or_problem,
                allow_origins=cors_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["Authorization", "X-API-Key", "X-Request-Deadline-Ms", "X-Request-ID"],
                expose_headers=["Retry-After", "Server-Timing", "X-Request-ID"],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, method = time.perf_counter(), scope["method"]
        if method == "HEAD":  # answered as GET; uvicorn leaves the body out
            scope = {**scope, "method": "GET"}
        given = header(scope, b"x-request-id")
        request_id = given if given is not None and SAFE_ID.fullmatch(given) else token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = (b"x-request-id", request_id.encode())
                message["headers"] = [*message.get("headers", ()), own, *raw_headers_for(scope["path"])]
                self._record(scope, method, message["status"], started)
            await send(message)

        await self._respond(scope, receive, send_completed)

    async def _app_or_problem(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] == "POST" and (route := self._routes.get(scope["path"])) is not None:
                self._refuse_early(scope, route)
            await self.app(scope, receive, send)
        except ServiceError as error:
            await problem_of(scope, error)(scope, receive, send)

    def _refuse_early(self, scope: Scope, route: PredictionRoute) -> None:
        try:
            self._check(route.lane, connection_of(scope))
        except ServiceError as error:
            scope["route"] = route  # for the log and the count
            counted(error)
            raise

    def _record(self, scope: Scope, method: str, status: int, started: float) -> None:
        """Count the response and write the access log line, with the name of the key and the code of a refusal."""
        state, route = scope["state"], getattr(scope.get("route"), "path", "unmatched")
        metrics.count_request(route, status)
        code, caller, second = state.get("code"), state.get("caller"), int(time.monotonic())
        if status in LATER and code not in AUDITED and not self._refused.worth_a_line(second):
            return
        fields = {
            "request_id": state["request_id"],
            "method": method,
            "route": route,
            "status": status,
            "milliseconds": round((time.perf_counter() - started) * 1000, 3),
            "key": None if caller is None else caller.name,
        }
        if code is not None:
            fields["code"] = code
        if code in AUDITED and self._audited.worth_a_line(second):
            log.warning("request", **fields)
        else:
            log.info("request", **fields)
