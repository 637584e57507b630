"""Limits of request bodies: size, total size of all bodies, and time to arrive."""

import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.disconnect import CLIENT
from deepergatgnn.service.http.progress import Progress
from deepergatgnn.service.http.rate_limits import ANONYMOUS
from deepergatgnn.service.http.security_headers import header

BODY_RATE = 64 * 1024  # bytes a second at which a body may take longer than the timeout
SMALL_BODY = 64 * 1024  # bytes that are accepted whatever the total is
CLIENT_SHARE = 0.5  # of the total, for the bodies of one client
PAUSE_S = 0.5  # of a client, after which its body may be evicted for one that keeps arriving


class BodyLimits:
    """ASGI middleware that limits bodies while the application receives them.

    Over the total, or over a client's share of it, a long body evicts the unfinished one that has paused longest, or
    one of the client with the most bytes; if there is none, it is refused.

    Args:
        app: the rest of the application.
        max_bytes: of a body, counted as it arrives, so that chunked bodies are limited too.
        by_path: limits of paths with one of their own.
        max_total: bytes of all bodies of requests that are being served.
        timeout_s: for a body to arrive; a long one has more time as long as it keeps arriving, see `Progress`.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, by_path: Mapping[str, int], max_total: int, timeout_s: float
    ) -> None:
        self.app = app
        self.max_bytes, self.by_path = max_bytes, by_path
        self.max_total, self.timeout_s = max_total, timeout_s
        self.total = 0
        self.long_bodies: dict[_Body, None] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(self, scope, receive)
        try:
            await self.app(scope, body.receive, send)
        finally:
            body.release()

    def make_room(self, body: "_Body", now: float) -> bool:
        """Return whether a long body may go on, after evicting others if need be."""
        while self.total > self.max_total or self._share(body.client) > 1:
            evicted = self._body_to_evict(body, now)
            if evicted is None:
                return False
            evicted.evict()
        return True

    def _share(self, client: str) -> float:
        """Return the bytes of a client over its share; a single body is never too much."""
        sizes = [each.received for each in self.long_bodies if each.client == client]
        return sum(sizes) / (CLIENT_SHARE * self.max_total) if len(sizes) > 1 else 0.0

    def _body_to_evict(self, body: "_Body", now: float) -> "_Body | None":
        own_only = self.total <= self.max_total
        others = [
            each
            for each in self.long_bodies
            if each is not body and not each.complete and (each.client == body.client or not own_only)
        ]
        if not others:
            return None
        slowest = max(others, key=lambda each: each.progress.lost_s(now))
        if slowest.progress.lost_s(now) > PAUSE_S:
            return slowest
        largest = max(others, key=lambda each: self._share(each.client))
        return largest if self._share(largest.client) > self._share(body.client) else None


class _Body:
    """Body of one request as it arrives.

    Attributes:
        client: name of the key or, without keys, address.
        received: bytes so far.
        complete: whether all of it has arrived.
        progress: of the client that sends it.
    """

    def __init__(self, limits: BodyLimits, scope: Scope, source: Receive) -> None:
        self._limits, self._scope, self._source = limits, scope, source
        self._max_bytes = limits.by_path.get(scope["path"], limits.max_bytes)
        caller = scope["state"].get("caller", ANONYMOUS)
        self.client = str((scope.get("client") or ("",))[0] if caller is ANONYMOUS else caller.name)
        self.received, self.complete, self._evicted = 0, False, False
        self.progress = Progress(limits.timeout_s, BODY_RATE, time.monotonic())

    async def receive(self) -> Message:
        """Return the next piece; after the last one, the disconnection of the client.

        Raises:
            ServiceError: 408, 413 or 429.
        """
        if self.complete:
            return await self._source()
        if not self.received:
            declared = header(self._scope, b"content-length") or "0"
            self._check_size(int(declared) if declared.isdecimal() else 0)
        limits, message = self._limits, await self._next_piece()
        size = len(message.get("body", b""))
        self.received += size
        limits.total += size
        self._check_size(self.received)
        if self.received > SMALL_BODY:
            limits.long_bodies[self] = None
            if not limits.make_room(self, time.monotonic()):
                raise ServiceError("overloaded", "too many long bodies are being received: retry later", 1)
        self.complete = not message.get("more_body", False)
        return message

    def evict(self) -> None:
        """End the request as one that is too slow."""
        self._evicted = True
        self.release()
        self._scope["state"][CLIENT].wake()

    def release(self) -> None:
        """Count the bytes no longer."""
        self._limits.long_bodies.pop(self, None)
        self._limits.total -= self.received
        self.received = 0

    async def _next_piece(self) -> Message:
        """Return the next piece that is not empty; the connection sends an empty one twice a second, see `protocol`."""
        while True:
            message = await self._source()
            now, size = time.monotonic(), len(message.get("body", b""))
            if self._evicted:
                raise ServiceError("too_slow", "the body paused while others needed its place: post it again")
            if not message.get("more_body", False):
                return message
            if self.progress.left_s(now) <= 0:
                raise ServiceError("too_slow", f"the body stalled after {self.received:,} bytes")
            if size:
                self.progress.earn(size, now)
                return message

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise ServiceError("too_many_bytes", f"the body has more than {self._max_bytes:,} bytes")
