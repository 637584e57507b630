"""What surrounds every request: its id, the limits of its body, the headers and the count of its answer."""

import re
import time
from collections.abc import Mapping
from secrets import token_hex

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import metrics
from service.errors import ServiceError
from service.headers import header, raw_headers_for
from service.logs import LineLimit

log = structlog.get_logger("api")
BODY_RATE = 64 * 1024  # bytes a second at which a body may take longer than its time
SMALL_BODY = 64 * 1024  # let in however much is under way
# Who was not let in, or only for the time being: for whoever looks after the keys, whatever the level of the log.
AUDITED = frozenset({"unauthorized", "key_disabled", "wrong_host", "wrong_origin", "rate_limited"})
SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id_of(scope: Scope) -> str:
    """The id that the client gave its request, if it is one that logs can bear, or a new one."""
    given = header(scope, b"x-request-id")
    return given if given is not None and SAFE_ID.fullmatch(given) else token_hex(16)


class Envelope:
    """ASGI middleware.

    Args:
        app: the rest of the application.
        max_body: bytes; counted as they arrive, so chunked bodies keep it too.
        others: paths with a limit of their own.
        max_bodies: bytes of all bodies of requests that are under way.
        body_timeout_s: for a body to arrive, or for its next piece if it is long and keeps coming.
    """

    def __init__(
        self, app: ASGIApp, max_body: int, others: Mapping[str, int], max_bodies: int, body_timeout_s: float
    ) -> None:
        self.app = app
        self.max_body, self.others = max_body, others
        self.max_bodies, self.body_timeout_s = max_bodies, body_timeout_s
        self.held = 0
        self._audit = LineLimit(log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        declared = header(scope, b"content-length") or "0"
        body = _Body(self, receive, self.others.get(scope["path"], self.max_body), declared)
        started = time.perf_counter()

        async def signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [header for header in message.get("headers", ()) if header[0] != b"x-request-id"]
                names = {name for name, _ in given}
                common = [header for header in raw_headers_for(scope["path"]) if header[0] not in names]
                message["headers"] = [*given, (b"x-request-id", request_id.encode()), *common]
                route = getattr(scope.get("route"), "path", "unmatched")
                metrics.count_request(route, message["status"])
                self._note(scope, route, message["status"], (time.perf_counter() - started) * 1000)
            await send(message)

        try:
            await self.app(scope, body.receive, signed)
        finally:
            self.held -= body.received

    def _note(self, scope: Scope, route: str, status: int, milliseconds: float) -> None:
        """The line of a request in the log: who sent it, by the name of the key, and why it was refused."""
        state = scope["state"]
        caller, code = state.get("caller"), state.get("code")
        told = {"request_id": state["request_id"], "method": scope["method"], "route": route, "status": status}
        told |= {"milliseconds": round(milliseconds, 3), "key": None if caller is None else caller.name}
        if code is not None:
            told["code"] = code
        if code in AUDITED and self._audit.worth_a_line(int(time.monotonic())):
            log.warning("request", **told)
        else:
            log.info("request", **told)


class _Body:
    """The body of one request as it arrives, with its limits.

    Args:
        envelope: whose.
        source: where it comes from.
        most: bytes.
        declared: Content-Length, if there is one.
    """

    def __init__(self, envelope: Envelope, source: Receive, most: int, declared: str) -> None:
        self._envelope, self._source, self._most = envelope, source, most
        self._declared = int(declared) if declared.isdecimal() else 0
        self._began, self._whole, self.received = time.monotonic(), False, 0

    async def receive(self) -> Message:
        """The next piece; after the last one, that the client has gone.

        Raises:
            ServiceError: 408, 413 or 429.
        """
        if self._whole:
            return await self._source()
        self._check(self._declared)
        envelope = self._envelope
        message = await self._next()
        size = len(message.get("body", b""))
        self.received += size
        envelope.held += size
        self._check(self.received)
        if envelope.held > envelope.max_bodies and self.received > SMALL_BODY:
            raise ServiceError(429, "overloaded", "too many long bodies are under way: retry later", 1)
        self._whole = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        """The next piece that is not empty; the connection says twice a second that none has come, see `Guard`."""
        patience_s = self._envelope.body_timeout_s
        due = min(time.monotonic(), self._began + self.received / BODY_RATE) + patience_s
        while True:
            message = await self._source()
            if not message.get("more_body", False):
                return message
            if time.monotonic() >= due:
                detail = f"after {self.received:,} bytes of the body nothing, or too little, came"
                raise ServiceError(408, "too_slow", detail)
            if message.get("body"):
                return message

    def _check(self, size: int) -> None:
        if size > self._most:
            raise ServiceError(413, "too_many_bytes", f"the body has more than {self._most:,} bytes")
