"""What surrounds every request: its id, the limit of its body, the headers and the count of its answer."""

import re
import time
from collections.abc import Mapping
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import metrics
from service.errors import ServiceError
from service.headers import headers_for

log = structlog.get_logger("api")
SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Envelope:
    """ASGI middleware.

    Args:
        app: the rest of the application.
        max_body: bytes; counted as they arrive, so chunked bodies keep it too.
        others: paths with a limit of their own.
    """

    def __init__(self, app: ASGIApp, max_body: int, others: Mapping[str, int]) -> None:
        self.app = app
        self.max_body, self.others = max_body, others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if SAFE_ID.fullmatch(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        declared = headers.get("content-length", "0")
        received, most = 0, self.others.get(scope["path"], self.max_body)
        started = time.perf_counter()

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most or (declared.isdigit() and int(declared) > most):
                raise ServiceError(413, "too_many_bytes", f"the body has more than {most:,} bytes")
            return message

        async def signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["X-Request-ID"] = request_id
                for name, value in headers_for(scope["path"]).items():
                    answer.setdefault(name, value)
                route = getattr(scope.get("route"), "path", "unmatched")
                metrics.REQUESTS.labels(route, str(message["status"])).inc()
                log.info(
                    "request",
                    request_id=request_id,
                    method=scope["method"],
                    route=route,
                    status=message["status"],
                    milliseconds=round((time.perf_counter() - started) * 1000, 3),
                )
            await send(message)

        await self.app(scope, counted, signed)
