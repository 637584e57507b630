"""uvicorn protocol with limits against slow and greedy clients, in place of a proxy's.

Limits: time for a request head, its size, pauses in reading a response, bytes of all unread responses, and number of
connections; over the last, the connection that has kept the service waiting longest is closed for the new one. Input is
parsed in small slices between turns of the event loop. Bodies have their limits in `body_limits`.
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
from secrets import token_hex
from typing import Any, ClassVar, cast

from httptools import HttpParserError

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.disconnect import CLIENT, ClientConnection
from deepergatgnn.service.http.problems import problem_of
from deepergatgnn.service.http.progress import Progress
from deepergatgnn.service.http.request_reader import RequestReader, TooLongError
from deepergatgnn.service.http.security_headers import raw_headers_for
from deepergatgnn.service.settings import Settings

CHECK_INTERVAL_S = 0.5
SPARE_FILES = 256  # descriptors for everything but clients: broker, parse processes, models
GATHERED = 64 * 1024  # bytes that may wait for the end of a turn of the event loop
FRAMING = 16  # bytes around each byte of a body, at most
SLICE = 8 * 1024  # bytes that are parsed at once
PIECES_A_TURN = 2048  # headers and body pieces of one connection in a turn of the event loop
CHECKED_A_TURN = 256  # connections
SMALL_REST = 64 * 1024  # of a body: its connection is kept when the response comes first
LINGERING = 16 * 1024 * 1024  # bytes discarded after a response, so that a client that still sends can read it
RESPONSE_RATE = 1024  # bytes a second at which a client may read a response
GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
HEAD_TOO_LARGE = ServiceError("head_too_large", "the request line and the headers are too long together")
HEAD_TOO_SLOW = ServiceError("too_slow", "the request line and the headers did not arrive in time")
NOT_HTTP = ServiceError("malformed", "this is not an HTTP/1.1 request")
FULL = ServiceError("too_many_connections", "every connection is in use: retry soon")


@dataclass(eq=False)
class ConnectionLimits:
    """Limits and connections of one process.

    Attributes:
        head_timeout_s: for a head.
        max_head: bytes of a head.
        max_connections: at once.
        response_timeout_s: for more of a response to be read.
        max_unsent: bytes of all responses that are not read yet.
        waiting: connections that the service waits for, the longest wait first.
        open: all connections.
    """

    head_timeout_s: float
    max_head: int
    max_connections: int
    response_timeout_s: float = 30.0
    max_unsent: int = 256 * 1024 * 1024
    waiting: dict["Connection", None] = field(default_factory=dict)
    open: set["Connection"] = field(default_factory=set)

    @classmethod
    def of(cls, settings: Settings) -> "ConnectionLimits":
        """Return the limits of the settings, as far as the system allows them."""
        return cls(
            settings.header_timeout_s,
            settings.max_head_kib * 1024,
            allowed_connections(settings.max_connections),
            settings.answer_timeout_s,
            int(settings.max_answers_mib * 1024 * 1024),
        )

    def protocol(self) -> type["Connection"]:
        """Return the protocol class for uvicorn."""
        return type("LimitedConnection", (Connection,), {"limits": self})

    def admit(self, connection: "Connection") -> bool:
        """Return whether there is room for a new connection, after closing another if need be."""
        self.open.add(connection)
        while len(self.open) > self.max_connections:
            oldest = next(iter(self.waiting), None)
            if oldest is None:
                return False
            oldest.end()
        return True

    async def watch(self) -> None:
        """Check every connection twice a second, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            now = time.monotonic()
            for number, connection in enumerate(list(self.open)):
                connection.check(now)
                if number % CHECKED_A_TURN == CHECKED_A_TURN - 1:
                    await asyncio.sleep(0)
            self._bound_unsent(now)

    def _bound_unsent(self, now: float) -> None:
        """Close the slowest readers while unread responses exceed the limit."""
        slow = sorted((each for each in self.open if each.unsent), key=lambda each: each.reading.left_s(now))
        unsent = sum(each.unsent for each in slow)
        for connection in slow:
            if unsent <= self.max_unsent:
                return
            unsent -= connection.unsent
            connection.end()


class _Transport:
    """Transport that gathers writes until the end of a turn of the event loop.

    A system call for each of a head, its body and NDJSON lines would wake the client as often. It also measures how
    much the client has read, pauses reading for several reasons at once, and can linger before it closes.

    Args:
        transport: of the connection.

    Attributes:
        lingers: whether the client may still be sending when it is closed.
        lingering: whether it is closed but for discarding what the client still sends.
        written: bytes passed to the system's transport.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._size = 0
        self.written = 0
        self._pauses: set[str] = set()
        self.lingers = self.lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data at the end of the turn."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size > GATHERED:
            self._flush()

    def close(self) -> None:
        """Send what was written, then close; closed at once, a client that still sends would lose the response."""
        self._flush()
        if self._transport.is_closing():
            return
        if self.lingers and not self.lingering and self._transport.can_write_eof():
            self.lingering = True
            self._transport.write_eof()
            self._pauses.clear()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        """Return whether nothing more is read or written."""
        return self.lingering or self._transport.is_closing()

    def pause_reading(self, reason: str = "flow") -> None:
        """Stop reading until `resume_reading` for the same reason."""
        if not self._pauses and not self.is_closing():
            self._transport.pause_reading()
        self._pauses.add(reason)

    def resume_reading(self, reason: str = "flow") -> None:
        """Read again unless another reason holds."""
        if reason in self._pauses:
            self._pauses.discard(reason)
            if not self._pauses and not self._transport.is_closing():
                self._transport.resume_reading()

    @property
    def unsent(self) -> int:
        """Bytes that the system has not accepted."""
        return self._size + self._transport.get_write_buffer_size()

    @property
    def read_by_client(self) -> int:
        """Bytes that the client's system has acknowledged; this one's socket buffer holds megabytes more."""
        buffered = self._transport.get_write_buffer_size()
        with suppress(OSError, ValueError):
            queued = fcntl.ioctl(self._descriptor, termios.TIOCOUTQ, bytes(4))
            return int(self.written - buffered - struct.unpack("i", queued)[0])
        return int(self.written - buffered)

    @property
    def is_gone(self) -> bool:
        """Whether the client has disconnected while reading is paused."""
        if not self._pauses or self.is_closing():
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
    """Connection that is closed when its client is too slow or sends too large a head."""

    PIPELINED: ClassVar[int] = 16  # requests that may wait behind the one that is served
    limits: ClassVar[ConnectionLimits]
    transport: Any  # a `_Transport`

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        now = time.monotonic()
        self._idle_since = now
        self.reading = Progress(self.limits.response_timeout_s, RESPONSE_RATE, now)
        self._read = 0  # bytes of responses that `reading` has counted
        self._client = ClientConnection(self._wake)
        self._overhead = 0  # bytes outside bodies, less what the framing of chunks may take
        self._arrived = b""  # and not parsed yet
        self._pieces = 0  # parsed in this turn
        self._discarded = 0
        self._keep_alive = False  # whether the connection is kept when the body is complete

    @property
    def idle(self) -> bool:
        """Whether no request is being served."""
        return not self.pipeline and (self.cycle is None or self.cycle.response_complete)

    @property
    def unfinished(self) -> bool:
        """Whether the body of a request is incomplete."""
        return self.cycle is not None and self.cycle.more_body

    @property
    def unsent(self) -> int:
        """Bytes of responses that the client has yet to read."""
        return int(self.transport.unsent)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection or refuse it with 503."""
        super().connection_made(cast("asyncio.Transport", _Transport(transport)))
        self._settle()
        if not self.limits.admit(self):
            self.transport.write(_response(FULL))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the requests that the client has disconnected."""
        self.limits.open.discard(self)
        self.limits.waiting.pop(self, None)
        self.pipeline.clear()
        self._arrived = b""
        super().connection_lost(exc)
        self._client.disconnect()

    def data_received(self, data: bytes) -> None:
        """Parse data, or discard it after the last response."""
        if self.transport.lingering:
            self._discarded += len(data)
            if self._discarded > LINGERING:
                self.end()
        elif self._arrived:
            self._arrived += data
        else:
            self._parse_some(data)

    def _parse_on(self) -> None:
        data, self._arrived = self._arrived, b""
        self.transport.resume_reading("turn")
        if not self.transport.is_closing():
            self._parse_some(data)

    def _parse_some(self, data: bytes) -> None:
        """Parse as much as fits into a turn of the event loop, and leave the rest to the next one."""
        self._pieces, at = 0, 0
        while at < len(data) and not self.transport.is_closing():
            if self._pieces > PIECES_A_TURN:
                self._arrived = data[at:]
                self.transport.pause_reading("turn")
                self.loop.call_soon(self._parse_on)
                return
            self._parse_slice(data[at : at + SLICE])
            at += SLICE

    def _parse_slice(self, data: bytes) -> None:
        """Parse bytes; those outside bodies, trailers too, are kept in memory and therefore counted."""
        self._overhead += len(data)
        try:
            self.read(data)
        except HttpParserError as error:
            if isinstance(error.__context__, TooLongError):
                self._overhead = self.limits.max_head + 1
            self._refuse(HEAD_TOO_LARGE if self._overhead > self.limits.max_head else NOT_HTTP)
            return
        if self._overhead > self.limits.max_head and not self.transport.is_closing():
            self._refuse(HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Give the request its client connection."""
        super().on_message_begin()
        self.scope["state"][CLIENT] = self._client

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header."""
        self._pieces += 1
        super().on_header(name, value)

    def serve(self) -> None:
        """Serve or queue the request; a TooLongError if its head is too long or too many are queued."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.max_head or len(self.pipeline) >= self.PIPELINED:
            raise TooLongError
        super().serve()
        self._keep_alive = self.cycle.keep_alive
        if not self._has_small_rest():
            self.cycle.keep_alive = False  # until the body is complete
        self.transport.lingers = True
        self._settle()

    def _has_small_rest(self) -> bool:
        """Return whether a body that is still arriving at the response is worth reading to keep the connection."""
        if self.expect_100_continue:
            return False
        for name, value in self.headers:
            if name == b"transfer-encoding":
                return False
            if name == b"content-length":
                return int(value) <= SMALL_REST
        return True

    def on_body(self, body: bytes) -> None:
        """Count a piece of a body; its framing, in the smallest chunks many times its length, is no overhead."""
        self._pieces += 1
        self._overhead = max(0, self._overhead - (1 + FRAMING) * len(body))  # a long body buys no long trailers
        super().on_body(body)

    def complete(self) -> None:
        """Note that a request is complete."""
        super().complete()
        self._overhead = 0
        self.transport.lingers = self.cycle.more_body = False
        if not self.pipeline:
            self.flow.resume_reading()  # otherwise a disconnection would go unnoticed
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keep_alive
        self._settle()

    def on_response_complete(self) -> None:
        """Note that a response is written."""
        super().on_response_complete()
        self._idle_since = time.monotonic()
        self._settle()

    def shutdown(self) -> None:
        """Close the connection after the current response."""
        self._keep_alive = False
        super().shutdown()

    def check(self, now: float) -> None:
        """Close the connection if the client has disconnected or is too slow."""
        if self.transport.is_gone:
            self.end()
            return
        if self._read < self.transport.written:
            read = self.transport.read_by_client
            self.reading.earn(read - self._read, now)
            self._read = read
        elif not self.transport.is_closing():
            self.reading = Progress(self.limits.response_timeout_s, RESPONSE_RATE, now)
        if self.reading.left_s(now) <= 0:
            self.end()
        elif self.idle and self._read == self.transport.written:
            if now - self._idle_since > self.limits.head_timeout_s:
                self._time_out()
        elif self.unfinished:
            self._wake()  # without data, so that `body_limits` sees the time

    def _wake(self) -> None:
        if self.cycle is not None:
            self.cycle.message_event.set()

    def _time_out(self) -> None:
        if self._overhead > 0 and not self.unfinished and not self.transport.is_closing():
            self._refuse(HEAD_TOO_SLOW)
        else:
            self.end()

    def end(self) -> None:
        """Close the connection at once, whatever is still unsent."""
        self.limits.open.discard(self)
        self.limits.waiting.pop(self, None)
        self.transport.abort()

    def _settle(self) -> None:
        """Note whether the service now waits for the client: for a request, or for the rest of one."""
        self.limits.waiting.pop(self, None)
        if self.idle or self.unfinished:
            self.limits.waiting[self] = None

    def _refuse(self, error: ServiceError) -> None:
        """Write a problem, unless another response is being written, and close."""
        if self.unfinished and not self.pipeline and not self.cycle.response_started:
            self.cycle.disconnected = True  # the problem is its response: its task must not write one
            self.cycle.message_event.set()
            self.transport.write(_response(error))
        elif self.idle and not self.unfinished:
            self.transport.write(_response(error))
        self._arrived = b""
        self._idle_since = time.monotonic()
        self.transport.lingers = True
        self.transport.close()


def _response(error: ServiceError) -> bytes:
    """Return a whole response to what could not be parsed as a request."""
    request_id = token_hex(16)
    response = problem_of({"state": {"request_id": request_id}}, error)
    response.headers["connection"] = "close"
    headers = [*response.raw_headers, (b"x-request-id", request_id.encode()), *raw_headers_for("")]
    lines = [f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}".encode()]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])


def allowed_connections(wanted: int) -> int:
    """Return the number of connections that the limit of open files allows, which is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - SPARE_FILES))
