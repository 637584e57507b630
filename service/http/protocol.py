"""Connections of strangers: a limit, beside uvicorn's own, for each thing that a client can make one wait for.

A connection that is not being served must bring a whole head within a time, of a bounded size; an answer must be taken
without a long pause, and what all clients together have not taken yet is bounded. Over the highest number of
connections, the one that has kept the service waiting longest gives its place to the newcomer. What arrives is read a
little at a time. Bodies have their limits in `envelope`, where there is a request to answer.
"""

import asyncio
import fcntl
import resource
import select
import struct
import termios
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar, cast
from uuid import uuid4

import orjson
from httptools import HttpParserError

from deepergatgnn.service.http.disconnect import PRESENCE, ClientPresence
from deepergatgnn.service.http.problems import PROBLEM_JSON, problem_document, status_of
from deepergatgnn.service.http.progress import Progress
from deepergatgnn.service.http.request_reader import RequestReader, TooLongError
from deepergatgnn.service.http.security_headers import headers_for
from deepergatgnn.service.settings import Settings

LOOK_S = 0.5
SPARE_FILES = 256  # descriptors for all that is no client: broker, parse processes, models
GATHERED = 64 * 1024  # bytes that may wait for the end of a turn
FRAMING = 16  # bytes around each byte of a body, at most
SLICE = 8 * 1024  # bytes that are read at once
PIECES_A_TURN = 2048  # headers and pieces of bodies of one connection, before others have their turn
CHECKED_A_TURN = 256  # connections
SMALL_REST = 64 * 1024  # of a body: its connection is kept when the answer comes first
LINGERING = (
    16 * 1024 * 1024
)  # bytes that are thrown away after an answer, so that a client that still sends may read it
ANSWER_RATE = 1024  # bytes a second at which an answer may be taken
GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
HEAD_TOO_LARGE = "head_too_large", "the request line and the headers are too long together"
HEAD_TOO_SLOW = "too_slow", "the request line and the headers did not arrive in time"
NOT_HTTP = "malformed", "this is not an HTTP/1.1 request"
FULL = "too_many_connections", "every connection is in use: retry soon"


@dataclass(eq=False)
class Guard:
    """What the connections of one process share.

    Attributes:
        patience_s: for a head.
        max_head: bytes of a head.
        max_connections: at once.
        answer_patience_s: for some more of an answer to be taken.
        max_unsent: bytes of all answers that are not taken yet.
        waiting: connections that the service waits for, by how long: the first came first.
        open: all connections.
    """

    patience_s: float
    max_head: int
    max_connections: int
    answer_patience_s: float = 30.0
    max_unsent: int = 256 * 1024 * 1024
    waiting: dict["Connection", None] = field(default_factory=dict)
    open: set["Connection"] = field(default_factory=set)

    @classmethod
    def of(cls, settings: Settings) -> "Guard":
        """The limits of the settings, or what the system allows of them."""
        return cls(
            settings.header_timeout_s,
            settings.max_head_kib * 1024,
            allowed_connections(settings.max_connections),
            settings.answer_timeout_s,
            int(settings.max_answers_mib * 1024 * 1024),
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
            for number, connection in enumerate(list(self.open)):
                connection.check(now)
                if number % CHECKED_A_TURN == CHECKED_A_TURN - 1:
                    await asyncio.sleep(0)
            self._bound_unsent(now)

    def _bound_unsent(self, now: float) -> None:
        """End those that have not taken their answers for longest while all of these are too much to keep."""
        slow = sorted((each for each in self.open if each.unsent), key=lambda each: each.taken.left_s(now))
        unsent = sum(each.unsent for each in slow)
        for connection in slow:
            if unsent <= self.max_unsent:
                return
            unsent -= connection.unsent
            connection.end()


class _Transport:
    """A transport whose writes leave together at the end of a turn of the event loop: a head and its body, lines.

    Each by itself would cost a system call here and wake the client twice. It also knows how much of them the client
    has taken, does not read while one of several reasons holds, and may linger before it closes.

    Args:
        transport: of the connection.

    Attributes:
        lingers: whether the client may still be sending when it is closed.
        lingering: whether it is closed but for what the client still sends, which is thrown away.
        written: bytes, whether the client has taken them or not.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._size = 0
        self.written = 0
        self._paused: set[str] = set()
        self.lingers = self.lingering = False

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
        """Send what was written, then close; a client that still sends would lose it if that were not read."""
        self._flush()
        if self._transport.is_closing():
            return
        if self.lingers and not self.lingering and self._transport.can_write_eof():
            self.lingering = True
            self._transport.write_eof()
            self._paused.clear()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        """Whether nothing more will be read or written."""
        return self.lingering or self._transport.is_closing()

    def pause_reading(self, why: str = "flow") -> None:
        """Read no more until `resume_reading` for the same reason."""
        if not self._paused and not self.is_closing():
            self._transport.pause_reading()
        self._paused.add(why)

    def resume_reading(self, why: str = "flow") -> None:
        """Read on, if nothing else is in the way."""
        if why in self._paused:
            self._paused.discard(why)
            if not self._paused and not self._transport.is_closing():
                self._transport.resume_reading()

    @property
    def unsent(self) -> int:
        """Bytes that the system has not taken."""
        return self._size + self._transport.get_write_buffer_size()

    @property
    def taken(self) -> int:
        """Bytes that the client's system has taken; this one has megabytes more, and tells of them in large steps."""
        buffered = self._transport.get_write_buffer_size()
        with suppress(OSError, ValueError):
            queued = fcntl.ioctl(self._descriptor, termios.TIOCOUTQ, bytes(4))
            return int(self.written - buffered - struct.unpack("i", queued)[0])
        return int(self.written - buffered)

    @property
    def is_gone(self) -> bool:
        """Whether the client has disconnected while reading is paused."""
        if not self._paused or self.is_closing():
            return False
        with suppress(OSError, ValueError):
            poll = select.poll()
            poll.register(self._descriptor, GONE)
            return any(event & GONE for _, event in poll.poll(0))
        return True

    @property
    def _descriptor(self) -> int:
        return int(self._transport.get_extra_info("socket").fileno())

    def _flush(self) -> None:
        pieces, size = self._pieces, self._size
        self._pieces, self._size = [], 0
        if pieces and not self._transport.is_closing() and not self.lingering:
            self.written += size
            self._transport.writelines(pieces)


class Connection(RequestReader):
    """A connection that is ended when its client takes too long or sends too much of a head."""

    PIPELINED: ClassVar[int] = 16  # requests that may wait behind the one that is served
    guard: ClassVar[Guard]
    transport: Any  # a `_Transport`

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        now = time.monotonic()
        self._since = now  # nothing is being served since
        self.taken = Progress(self.guard.answer_patience_s, ANSWER_RATE, now)
        self._taken = 0  # bytes of answers that `taken` knows of
        self._presence = ClientPresence(self._wake)
        self._beside = 0  # bytes that are not of a body, less those that the framing of its chunks may take
        self._arrived = b""  # and not read yet
        self._pieces = 0  # read in this turn
        self._thrown_away = 0
        self._keep_alive = False  # whether the connection is kept when the body is whole

    @property
    def idle(self) -> bool:
        """Whether no request is being served."""
        return not self.pipeline and (self.cycle is None or self.cycle.response_complete)

    @property
    def unfinished(self) -> bool:
        """Whether the body of a request is not whole."""
        return self.cycle is not None and self.cycle.more_body

    @property
    def unsent(self) -> int:
        """Bytes of answers that the client has yet to take."""
        return int(self.transport.unsent)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(cast("asyncio.Transport", _Transport(transport)))
        self._settle()
        if not self.guard.admit(self):
            self.transport.write(_answer(*FULL))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.guard.open.discard(self)
        self.guard.waiting.pop(self, None)
        self.pipeline.clear()
        self._arrived = b""
        super().connection_lost(exc)
        self._presence.leave()

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        if self.transport.lingering:
            self._thrown_away += len(data)
            if self._thrown_away > LINGERING:
                self.end()
        elif self._arrived:
            self._arrived += data
        else:
            self._read_some(data)

    def _read_on(self) -> None:
        """Go on with what arrived, after others had their turn."""
        data, self._arrived = self._arrived, b""
        self.transport.resume_reading("turn")
        if not self.transport.is_closing():
            self._read_some(data)

    def _read_some(self, data: bytes) -> None:
        """Read what arrived until it is enough for a turn."""
        self._pieces, at = 0, 0
        while at < len(data) and not self.transport.is_closing():
            if self._pieces > PIECES_A_TURN:
                self._arrived = data[at:]
                self.transport.pause_reading("turn")
                self.loop.call_soon(self._read_on)
                return
            self._read_slice(data[at : at + SLICE])
            at += SLICE

    def _read_slice(self, data: bytes) -> None:
        """Read bytes; what is not of a body, a trailer too, is kept in memory and so is counted."""
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

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._pieces += 1
        super().on_header(name, value)

    def serve(self) -> None:
        """Serve the request of this head or, behind the one that is served, queue it.

        Raises:
            TooLongError: the head is too long, or too many wait already.
        """
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.guard.max_head or len(self.pipeline) >= self.PIPELINED:
            raise TooLongError
        super().serve()
        self._keep_alive = self.cycle.keep_alive
        if not self._reads_rest_on():
            self.cycle.keep_alive = False  # until the body is whole
        self.transport.lingers = True
        self._settle()

    def _reads_rest_on(self) -> bool:
        """Whether a body may still come when its request is answered: a short one, from a client that will send it."""
        if self.expect_100_continue:
            return False
        for name, value in self.headers:
            if name == b"transfer-encoding":
                return False
            if name == b"content-length":
                return int(value) <= SMALL_REST
        return True

    def on_body(self, body: bytes) -> None:
        """A piece of a body, which in the smallest chunks comes with many times its length."""
        self._pieces += 1
        self._beside = max(0, self._beside - (1 + FRAMING) * len(body))  # a long body buys no long trailers
        super().on_body(body)

    def complete(self) -> None:
        """A request is whole."""
        super().complete()
        self._beside = 0
        self.transport.lingers = self.cycle.more_body = False
        if not self.pipeline:
            self.flow.resume_reading()  # otherwise a disconnect would go unnoticed
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keep_alive
        self._settle()

    def on_response_complete(self) -> None:
        """An answer is written."""
        super().on_response_complete()
        self._since = time.monotonic()
        self._settle()

    def shutdown(self) -> None:
        """The service ends: keep no connection."""
        self._keep_alive = False
        super().shutdown()

    def check(self, now: float) -> None:
        """End the connection if the client has left or took too long."""
        if self.transport.is_gone:
            self.end()
            return
        if self._taken < self.transport.written:
            taken = self.transport.taken
            self.taken.earn(taken - self._taken, now)
            self._taken = taken
        elif not self.transport.is_closing():
            self.taken = Progress(self.guard.answer_patience_s, ANSWER_RATE, now)
        if self.taken.left_s(now) <= 0:
            self.end()
        elif self.idle and self._taken == self.transport.written:
            if now - self._since > self.guard.patience_s:
                self._give_up()
        elif self.unfinished:
            self._wake()  # with nothing new, for `envelope` to see how long that has been so

    def _wake(self) -> None:
        """Wake the task that waits for the body."""
        if self.cycle is not None:
            self.cycle.message_event.set()

    def _give_up(self) -> None:
        """No request came in time, or what is thrown away does not end."""
        if self._beside > 0 and not self.unfinished and not self.transport.is_closing():
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

    def _refuse(self, code: str, detail: str) -> None:
        """Say why, where no other answer is under way, and close."""
        if self.unfinished and not self.pipeline and not self.cycle.response_started:
            self.cycle.disconnected = True  # this is its answer: whoever waits for its body need not
            self.cycle.message_event.set()
            self.transport.write(_answer(code, detail))
        elif self.idle and not self.unfinished:
            self.transport.write(_answer(code, detail))
        self._arrived = b""
        self._since = time.monotonic()
        self.transport.lingers = True
        self.transport.close()


def _answer(code: str, detail: str) -> bytes:
    """A whole answer, for what no request can be made of."""
    request_id, status = uuid4().hex, status_of(code)
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
