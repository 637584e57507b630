"""Connections of strangers: a limit, beside uvicorn's own, for each thing that a client can make one wait for.

A connection that is not being served must bring a whole head within a time, of a bounded size; an answer must be taken
within a time. Over the highest number of connections, the one that has kept the service waiting longest gives its place
to the newcomer. Bodies have their limits in `envelope`, where there is a request to answer.
"""

import asyncio
import resource
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar, cast
from uuid import uuid4

import orjson
from httptools import HttpParserError

from service.errors import PROBLEM_JSON, problem_document
from service.headers import headers_for
from service.http_reading import RequestReader, TooLongError
from service.presence import PRESENCE, Presence
from service.settings import Settings

LOOK_S = 0.5
SPARE_FILES = 256  # descriptors for all that is no client: broker, parse processes, models
GATHERED = 64 * 1024  # bytes that may wait for the end of a turn
FRAMING = 16  # bytes around each byte of a body, at most
HEAD_TOO_LARGE = 431, "head_too_large", "the request line and the headers are too long together"
HEAD_TOO_SLOW = 408, "too_slow", "the request line and the headers did not arrive in time"
NOT_HTTP = 400, "malformed", "this is not an HTTP/1.1 request"
FULL = 503, "too_many_connections", "every connection is in use: retry soon"


@dataclass(eq=False)
class Guard:
    """What the connections of one process share.

    Attributes:
        patience_s: for a head, and for an answer to be taken.
        max_head: bytes of a head.
        max_connections: at once.
        waiting: connections that the service waits for, by how long: the first came first.
        open: all connections.
    """

    patience_s: float
    max_head: int
    max_connections: int
    waiting: dict["Connection", None] = field(default_factory=dict)
    open: set["Connection"] = field(default_factory=set)

    @classmethod
    def of(cls, settings: Settings) -> "Guard":
        """The limits of the settings, or what the system allows of them."""
        return cls(
            settings.header_timeout_s, settings.max_head_kib * 1024, allowed_connections(settings.max_connections)
        )

    def protocol(self) -> type["Connection"]:
        """The class that uvicorn makes of each connection."""
        return type("GuardedConnection", (Connection,), {"guard": self})

    def admit(self, newcomer: "Connection") -> bool:
        """Whether there is a place for one more, made by ending another if need be."""
        self.open.add(newcomer)
        while len(self.open) > self.max_connections:
            oldest = next(iter(self.waiting), None)
            if oldest is None:
                return False
            oldest.end()
        return True

    async def watch(self) -> None:
        """End what is overdue, and wake who waits for a body, for as long as the service runs."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            for connection in list(self.open):
                connection.check(now)


class _Gathering:
    """A transport whose writes leave together at the end of a turn of the event loop: a head and its body, lines.

    Each by itself would cost a system call here and wake the client twice.

    Args:
        transport: of the connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send something, soon."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size > GATHERED:
            self._flush()

    def close(self) -> None:
        """Send what was written, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces, self._size = self._pieces, [], 0
        if pieces and not self._transport.is_closing():
            self._transport.writelines(pieces)


class Connection(RequestReader):
    """A connection that is ended when its client takes too long or sends too much of a head."""

    PIPELINED: ClassVar[int] = 16  # requests that may wait behind the one that is served
    guard: ClassVar[Guard]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._since = time.monotonic()  # nothing is being served since
        self._stalled: float | None = None  # since when the client does not take what is written
        self._presence = Presence()
        self._beside = 0  # bytes that are not of a body, less those that the framing of its chunks may take

    @property
    def idle(self) -> bool:
        """Whether no request is being served."""
        return not self.pipeline and (self.cycle is None or self.cycle.response_complete)

    @property
    def unfinished(self) -> bool:
        """Whether the body of a request is not whole."""
        return self.cycle is not None and self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(cast("asyncio.Transport", _Gathering(transport)))
        self._settle()
        if not self.guard.admit(self):
            self._refuse(*FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.guard.open.discard(self)
        self.guard.waiting.pop(self, None)
        self.pipeline.clear()
        super().connection_lost(exc)
        self._presence.leave()

    def data_received(self, data: bytes) -> None:
        """Bytes of requests; what is not of a body, a trailer too, is kept in memory and so is counted."""
        if self.transport.is_closing():
            return
        self._beside += len(data)
        try:
            self.read(data)
        except HttpParserError as error:
            if isinstance(error.__context__, TooLongError):
                self._beside = self.guard.max_head + 1
            self._refuse(*(HEAD_TOO_LARGE if self._beside > self.guard.max_head else NOT_HTTP))
            return
        if self._beside > self.guard.max_head and not self.transport.is_closing():
            self._refuse(*HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["state"][PRESENCE] = self._presence

    def serve(self) -> None:
        """Serve the request of this head or, behind the one that is served, queue it.

        Raises:
            TooLongError: the head is too long, or too many wait already.
        """
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.guard.max_head or len(self.pipeline) >= self.PIPELINED:
            raise TooLongError
        super().serve()
        self._settle()

    def on_body(self, body: bytes) -> None:
        """A piece of a body, which in the smallest chunks comes with many times its length."""
        self._beside = max(0, self._beside - (1 + FRAMING) * len(body))  # a long body buys no long trailers
        super().on_body(body)

    def complete(self) -> None:
        """A request is whole."""
        super().complete()
        self._beside = 0
        self._settle()

    def on_response_complete(self) -> None:
        """An answer is written."""
        super().on_response_complete()
        self._since = time.monotonic()
        self._settle()

    def pause_writing(self) -> None:
        """The client does not take its answer."""
        self._stalled = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._stalled = None
        super().resume_writing()

    def check(self, now: float) -> None:
        """End the connection if the client took too long."""
        if self.transport.is_closing():
            self._stalled = self._stalled or now  # closed with something left to write
        if self._stalled is not None:
            if now - self._stalled > self.guard.patience_s:
                self.end()
        elif self.idle:
            if now - self._since > self.guard.patience_s:
                self._give_up()
        elif self.unfinished:
            self.cycle.message_event.set()  # with nothing new, for `envelope` to see how long that has been so

    def _give_up(self) -> None:
        """No request came in time."""
        if self._beside > 0 and not self.unfinished:
            self._refuse(*HEAD_TOO_SLOW)
        else:
            self.end()

    def end(self) -> None:
        """End it now, whatever is still to be written."""
        self.guard.open.discard(self)
        self.guard.waiting.pop(self, None)
        self.transport.abort()

    def _settle(self) -> None:
        """Note whether the service waits for the client now: for a request, or for the rest of one."""
        self.guard.waiting.pop(self, None)
        if self.idle or self.unfinished:
            self.guard.waiting[self] = None

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Say why, where no other answer is under way, and close."""
        if self.unfinished and not self.pipeline and not self.cycle.response_started:
            self.cycle.disconnected = True  # this is its answer: whoever waits for its body need not
            self.cycle.message_event.set()
            self.transport.write(_answer(status, code, detail))
        elif self.idle and not self.unfinished:
            self.transport.write(_answer(status, code, detail))
        self.transport.close()


def _answer(status: int, code: str, detail: str) -> bytes:
    """A whole answer, for what no request can be made of."""
    request_id = uuid4().hex
    content = orjson.dumps(problem_document(status, code, detail, request_id))
    headers = {
        "Content-Type": PROBLEM_JSON,
        "Content-Length": str(len(content)),
        "Connection": "close",
        "X-Request-ID": request_id,
        **headers_for(""),
        **({"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}),
    }
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {headers[name]}" for name in headers)]
    return "\r\n".join([*lines, "", ""]).encode() + content


def allowed_connections(wanted: int) -> int:
    """As many connections as are wanted, or as the limit of open files leaves when it is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - SPARE_FILES))
