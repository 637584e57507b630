"""Connections of clients that nobody would call well-behaved, as bytes on sockets."""

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
    """Host and port of an address."""
    parts = urlsplit(address)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@dataclass
class Crowd:
    """Open connections.

    Args:
        address: of the service.
    """

    address: str

    def __post_init__(self) -> None:
        self.members: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def join(self, count: int, sent: bytes) -> None:
        """Connect and send the same, then say nothing."""
        for _ in range(count):
            reader, writer = await asyncio.open_connection(*place(self.address))
            writer.write(sent)
            self.members.append((reader, writer))

    async def trickle(self, content: bytes, pause_s: float) -> None:
        """Send a byte on every connection, again and again."""
        await self.trickle_pieces([content[number : number + 1] for number in range(len(content))], pause_s)

    async def trickle_pieces(self, pieces: Sequence[bytes], pause_s: float) -> None:
        """Send each piece on every connection, one after the other."""
        for piece in pieces:
            for _, writer in self.members:
                if not writer.is_closing():
                    writer.write(piece)
            await asyncio.sleep(pause_s)

    async def endings(self, seconds: float) -> list[bytes | None]:
        """What each was told until the service closed it; None where it did not in time."""
        return await asyncio.gather(*(self._ending(reader, seconds) for reader, _ in self.members))

    async def _ending(self, reader: asyncio.StreamReader, seconds: float) -> bytes | None:
        said = b""
        try:
            async with asyncio.timeout(seconds):
                while piece := await reader.read(1 << 16):
                    said += piece
        except TimeoutError:
            return None
        except OSError:
            pass  # closed, not very politely
        return said

    async def leave(self) -> None:
        """Close all at once."""
        for _, writer in self.members:
            writer.transport.abort()
        for _, writer in self.members:
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self.members.clear()


async def exchange(address: str, *sent: bytes, pause_s: float = 0.0, seconds: float = 30, ends: bool = False) -> bytes:
    """Send pieces; what came until the service closed the connection or said nothing more."""
    reader, writer = await asyncio.open_connection(*place(address))
    said = b""
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
                    said += piece
    finally:
        writer.transport.abort()
    return said


def statuses(said: bytes) -> list[int]:
    """Of the answers in what a service said."""
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) [A-Z]", said)]


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    files: int
    mib: float

    @classmethod
    def of(cls, processes: Sequence[psutil.Process]) -> "Footprint":
        """Of some processes together; memory that they share is counted once."""
        return cls(
            sum(process.num_fds() for process in processes),
            sum(process.memory_full_info().uss for process in processes) / (1 << 20),
        )
