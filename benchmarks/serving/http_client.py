"""Minimal HTTP/1.1 client over a persistent connection."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

HEAD_END = b"\r\n\r\n"
LOST = 0  # status of a request whose connection broke
UNKNOWN, CHUNKED = -1, -2  # length of a body before its header is read, and of a chunked body


@dataclass(slots=True)
class Reply:
    """Reply of the server.

    Attributes:
        status: of HTTP, or LOST.
        head: header lines, lower case.
        body: decoded from its transfer coding.
    """

    status: int
    head: bytes
    body: bytes


Done = Callable[[Reply], None]


class Connection(asyncio.Protocol):
    """One persistent connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._done: Done | None = None
        self._head = b""
        self._status = LOST
        self._length = UNKNOWN  # bytes of the body
        self._chunks: list[bytes] = []

    @property
    def usable(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish the pending request with the status `LOST`."""
        del exc
        self._transport = None
        self._finish(Reply(LOST, b"", b""))

    def send(self, request: bytes, done: Done) -> None:
        """Send a request; `done` is called with the reply, once."""
        self._buffer.clear()
        self._chunks.clear()
        self._length, self._done = UNKNOWN, done
        if self._transport is None or self._transport.is_closing():
            self._finish(Reply(LOST, b"", b""))
        else:
            self._transport.write(request)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collect bytes until the reply is complete."""
        buffer = self._buffer
        buffer += data
        if self._length == UNKNOWN:
            end = buffer.find(HEAD_END)
            if end < 0:
                return
            self._head = bytes(buffer[:end]).lower()
            self._status = int(self._head[9:12])
            del buffer[: end + 4]
            length = header(self._head, b"content-length")
            self._length = CHUNKED if length is None else int(length)
        if self._length == CHUNKED:
            if self._dechunk():
                self._finish(Reply(self._status, self._head, b"".join(self._chunks)))
        elif len(buffer) >= self._length:
            self._finish(Reply(self._status, self._head, bytes(buffer[: self._length])))

    def _dechunk(self) -> bool:
        """Remove complete chunks from the buffer; return True after the last."""
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
    """Return the value of a header; `name` in lower case."""
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def post(host: str, path: str, body: bytes, *headers: str) -> bytes:
    """Build a POST request with a JSON body."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
