"""What surrounds every request: its id, the limits of its body, the headers and the count of its answer."""

import re
import time
from collections.abc import Mapping
from secrets import token_hex

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.disconnect import PRESENCE
from deepergatgnn.service.http.progress import Progress
from deepergatgnn.service.http.rate_limits import ANONYMOUS
from deepergatgnn.service.http.security_headers import header, raw_headers_for
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.service.telemetry.logs import LineLimit

log = structlog.get_logger("api")
BODY_RATE = 64 * 1024  # bytes a second at which a body may take longer than its time
SMALL_BODY = 64 * 1024  # let in however much is under way
# Refusals of access, logged at `warning` for the operator whatever the level.
AUDITED = frozenset({"unauthorized", "key_disabled", "wrong_host", "wrong_origin", "rate_limited"})
SHARE = 0.5  # of what all bodies may have, for those of one client
PAUSE_S = 0.5  # of a client, after which its body gives way to others that keep coming
SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id_of(scope: Scope) -> str:
    """The id that the client gave its request, if it is one that logs can bear, or a new one."""
    given = header(scope, b"x-request-id")
    return given if given is not None and SAFE_ID.fullmatch(given) else token_hex(16)


class RequestContext:
    """ASGI middleware.

    Args:
        app: the rest of the application.
        max_body: bytes; counted as they arrive, so chunked bodies keep it too.
        others: paths with a limit of their own.
        max_bodies: bytes of all bodies of requests that are under way; a client's own, if it has several, may have half
            of them. Over that, a long body takes the place of the one that has kept the service waiting longest, or of
            one of the client that has most; else it is refused.
        body_timeout_s: for a body to arrive, and more for a long one as long as it keeps coming, see `Progress`.
    """

    def __init__(
        self, app: ASGIApp, max_body: int, others: Mapping[str, int], max_bodies: int, body_timeout_s: float
    ) -> None:
        self.app = app
        self.max_body, self.others = max_body, others
        self.max_bodies, self.body_timeout_s = max_bodies, body_timeout_s
        self.held = 0
        self._audit = LineLimit(log)
        self.bodies: dict[_Body, None] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        declared = header(scope, b"content-length") or "0"
        body = _Body(self, scope, receive, self.others.get(scope["path"], self.max_body), declared)
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
            body.release()

    def make_room(self, body: "_Body", now: float) -> bool:
        """Whether a long body may go on, where one of another client's may have to end for it."""
        while self.held > self.max_bodies or self._shares(body.client) > 1:
            victim = self._victim(body, now)
            if victim is None:
                return False
            victim.evict()
        return True

    def _shares(self, client: str) -> float:
        """What one client has of its share; no single body is too much."""
        own = [each.received for each in self.bodies if each.client == client]
        return sum(own) / (SHARE * self.max_bodies) if len(own) > 1 else 0.0

    def _victim(self, body: "_Body", now: float) -> "_Body | None":
        """The unfinished body that gives way to this one, if there is one."""
        own_only = self.held <= self.max_bodies
        others = [
            each
            for each in self.bodies
            if each is not body and not each.whole and (each.client == body.client or not own_only)
        ]
        if not others:
            return None
        slowest = max(others, key=lambda each: each.progress.lost_s(now))
        if slowest.progress.lost_s(now) > PAUSE_S:
            return slowest
        largest = max(others, key=lambda each: self._shares(each.client))
        return largest if self._shares(largest.client) > self._shares(body.client) else None

    def _note(self, scope: Scope, route: str, status: int, milliseconds: float) -> None:
        """Write the access log line, with the name of the key and the reason of a refusal."""
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
        scope: of the request.
        source: where it comes from.
        most: bytes.
        declared: Content-Length, if there is one.

    Attributes:
        received: bytes that are kept.
        whole: whether all of it has come.
        progress: of the client that sends it.
    """

    def __init__(self, envelope: RequestContext, scope: Scope, source: Receive, most: int, declared: str) -> None:
        self._envelope, self._scope, self._source, self._most = envelope, scope, source, most
        self._declared = int(declared) if declared.isdecimal() else 0
        self.received, self.whole, self._evicted = 0, False, False
        self.progress = Progress(envelope.body_timeout_s, BODY_RATE, time.monotonic())

    @property
    def client(self) -> str:
        """Who sends it: the name of its key or, without keys, its address."""
        caller = self._scope["state"].get("caller")
        if caller is not None and caller is not ANONYMOUS:
            return str(caller.name)
        return str((self._scope.get("client") or ("",))[0])

    async def receive(self) -> Message:
        """The next piece; after the last one, that the client has gone.

        Raises:
            ServiceError: 408, 413 or 429.
        """
        if self.whole:
            return await self._source()
        self._check(self._declared)
        envelope = self._envelope
        message = await self._next()
        size = len(message.get("body", b""))
        self.received += size
        envelope.held += size
        if self.received > SMALL_BODY:
            envelope.bodies[self] = None
        self._check(self.received)
        if self.received > SMALL_BODY and not envelope.make_room(self, time.monotonic()):
            raise ServiceError("overloaded", "too many long bodies are under way: retry later", 1)
        self.whole = not message.get("more_body", False)
        return message

    def evict(self) -> None:
        """Give the place to another body; the request ends as one that is too slow."""
        self._evicted = True
        self.release()
        self._scope["state"][PRESENCE].wake()

    def release(self) -> None:
        """Keep nothing any more."""
        self._envelope.bodies.pop(self, None)
        self._envelope.held -= self.received
        self.received = 0

    async def _next(self) -> Message:
        """The next piece that is not empty; the connection says twice a second that none has come, see `Guard`."""
        while True:
            message = await self._source()
            now, size = time.monotonic(), len(message.get("body", b""))
            if self._evicted:
                raise ServiceError("too_slow", "the body paused while others needed its place: post it again")
            if not message.get("more_body", False):
                return message
            if self.progress.left_s(now) <= 0:
                detail = f"after {self.received:,} bytes of the body nothing, or too little, came"
                raise ServiceError("too_slow", detail)
            if size:
                self.progress.earn(size, now)
                return message

    def _check(self, size: int) -> None:
        if size > self._most:
            raise ServiceError("too_many_bytes", f"the body has more than {self._most:,} bytes")
