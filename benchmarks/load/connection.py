"""HTTP/1.1 over a kept connection, with just enough parsing to tell answers apart."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

HEAD_END = b"\r\n\r\n"
LOST = 0  # status of a request whose connection broke
NOT_YET, CHUNKED = -1, -2  # lengths of a body before its head, and of one in chunks


@dataclass(slots=True)
class Reply:
    """What came back.

    Attributes:
        status: of HTTP, or LOST.
        head: header lines, lower case.
        body: without its transfer coding.
    """

    status: int
    head: bytes
    body: bytes


Done = Callable[[Reply], None]


class Connection(asyncio.Protocol):
    """One kept connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._done: Done | None = None
        self._head = b""
        self._status = LOST
        self._wanted = NOT_YET  # bytes of the body
        self._chunks: list[bytes] = []

    @property
    def usable(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits is told."""
        del exc
        self._transport = None
        self._finish(Reply(LOST, b"", b""))

    def send(self, request: bytes, done: Done) -> None:
        """Send a request; `done` is called with the reply, once."""
        self._buffer.clear()
        self._chunks.clear()
        self._wanted, self._done = NOT_YET, done
        if self._transport is None or self._transport.is_closing():
            self._finish(Reply(LOST, b"", b""))
        else:
            self._transport.write(request)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take bytes until the reply is whole."""
        buffer = self._buffer
        buffer += data
        if self._wanted == NOT_YET:
            end = buffer.find(HEAD_END)
            if end < 0:
                return
            self._head = bytes(buffer[:end]).lower()
            self._status = int(self._head[9:12])
            del buffer[: end + 4]
            length = header(self._head, b"content-length")
            self._wanted = CHUNKED if length is None else int(length)
        if self._wanted == CHUNKED:
            if self._dechunk():
                self._finish(Reply(self._status, self._head, b"".join(self._chunks)))
        elif len(buffer) >= self._wanted:
            self._finish(Reply(self._status, self._head, bytes(buffer[: self._wanted])))

    def _dechunk(self) -> bool:
        """Take whole chunks off the buffer; true after the last."""
        buffer = self._buffer
        while (line := buffer.find(b"\r\n")) >= 0:
            size = int(bytes(buffer[:line]).split(b";")[0], 16)
            if len(buffer) < line + 2 + size + 2:
                return False
            if size:
                self._chunks.append(bytes(buffer[line + 2 : line + 2 + size]))
            del buffer[: line + 2 + size + 2]
            if not size:
                return True
        return False

    def _finish(self, reply: Reply) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(reply)


def header(head: bytes, name: bytes) -> bytes | None:
    """A header's value; `name` in lower case."""
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def post(host: str, path: str, body: bytes, *headers: str) -> bytes:
    """A whole POST request with a JSON body."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
