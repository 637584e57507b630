"""Clients that misbehave, as bytes on sockets."""

import asyncio
import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from tests.support.processes import CIF

HEAD = (
    b"POST /predict?attention=none HTTP/1.1\r\nHost: localhost\r\nContent-Type: chemical/x-cif\r\n"
    b"Content-Length: %d\r\n\r\n" % len(CIF)
)
POST = HEAD + CIF
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def place(address: str) -> tuple[str, int]:
    """Return host and port of an address."""
    parts = urlsplit(address)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@dataclass
class Crowd:
    """Open connections to a service.

    Args:
        address: of the service.
    """

    address: str

    def __post_init__(self) -> None:
        self.members: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def join(self, count: int, sent: bytes) -> None:
        """Open connections and send the same bytes on each."""
        for _ in range(count):
            reader, writer = await asyncio.open_connection(*place(self.address))
            writer.write(sent)
            self.members.append((reader, writer))

    async def trickle(self, content: bytes, pause_s: float) -> None:
        """Send the content on every connection, a byte at a time."""
        await self.trickle_pieces([content[number : number + 1] for number in range(len(content))], pause_s)

    async def trickle_pieces(self, pieces: Sequence[bytes], pause_s: float) -> None:
        """Send each piece on every connection, one after the other."""
        for piece in pieces:
            for _, writer in self.members:
                if not writer.is_closing():
                    writer.write(piece)
            await asyncio.sleep(pause_s)

    async def endings(self, seconds: float) -> list[bytes | None]:
        """Return what each received until the service closed it; None if it did not in time."""
        return await asyncio.gather(*(self._ending(reader, seconds) for reader, _ in self.members))

    async def _ending(self, reader: asyncio.StreamReader, seconds: float) -> bytes | None:
        received = b""
        try:
            async with asyncio.timeout(seconds):
                while piece := await reader.read(1 << 16):
                    received += piece
        except TimeoutError:
            return None
        except OSError:
            pass  # reset by the service
        return received

    async def leave(self) -> None:
        """Close all at once."""
        for _, writer in self.members:
            writer.transport.abort()
        for _, writer in self.members:
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self.members.clear()


async def exchange(address: str, *sent: bytes, pause_s: float = 0.0, seconds: float = 30, ends: bool = False) -> bytes:
    """Send pieces; return what is received until the connection is closed or the time is over."""
    reader, writer = await asyncio.open_connection(*place(address))
    received = b""
    try:
        with contextlib.suppress(OSError):
            for piece in sent:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
            if ends:
                writer.write_eof()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(seconds):
                while piece := await reader.read(1 << 16):
                    received += piece
    finally:
        writer.transport.abort()
    return received


def statuses(received: bytes) -> list[int]:
    """Return the statuses of the responses in what was received."""
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) [A-Z]", received)]


@dataclass(frozen=True)
class Footprint:
    """Open files and memory of processes."""

    files: int
    mib: float

    @classmethod
    def of(cls, processes: Sequence[psutil.Process]) -> "Footprint":
        """Return the footprint of processes together; memory that they share is not counted."""
        return cls(
            sum(process.num_fds() for process in processes),
            sum(process.memory_full_info().uss for process in processes) / (1 << 20),
        )
