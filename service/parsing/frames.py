"""Frames on the socket of a parse process, both ways: lengths, JSON, then bytes.

Nothing is unpickled, so that a parser that a file has taken over cannot take over who reads its answers.
"""

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

LENGTHS = struct.Struct("<?II")  # whether a file is to be read alone; of the JSON, of the bytes after it
RECEIVED = 256 * 1024  # bytes taken from the socket at once


def framed(head: bytes, content: Sequence[bytes], *, alone: bool = False) -> list[bytes]:
    """A frame in pieces, which are not joined: to copy 16 MiB holds an event loop for long."""
    return [LENGTHS.pack(alone, len(head), sum(map(len, content))) + head, *content]


class Frame(NamedTuple):
    """What a process is asked to do."""

    alone: bool
    head: bytes
    content: bytes


class Frames:
    """What comes in through a socket, frame by frame.

    Args:
        connection: that blocks.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()

    def wait(self) -> Frame | None:
        """The next frame; none once the other end has closed."""
        while (frame := self._whole()) is None:
            if not self._receive():
                return None
        return frame

    def at_hand(self) -> Frame | None:
        """The next frame, if it is here already and need not be read alone."""
        if len(self._received) < LENGTHS.size:
            with suppress(BlockingIOError):
                self._receive(socket.MSG_DONTWAIT)
        if len(self._received) < LENGTHS.size or LENGTHS.unpack_from(self._received)[0]:
            return None
        return self._whole()

    def _receive(self, flags: int = 0) -> int:
        data = self._connection.recv(RECEIVED, flags)
        self._received += data
        return len(data)

    def _whole(self) -> Frame | None:
        if len(self._received) < LENGTHS.size:
            return None
        alone, head_size, content_size = LENGTHS.unpack_from(self._received)
        begin, end = LENGTHS.size + head_size, LENGTHS.size + head_size + content_size
        if len(self._received) < end:
            return None
        with memoryview(self._received) as view:
            frame = Frame(alone, bytes(view[LENGTHS.size : begin]), bytes(view[begin:end]))
        del self._received[:end]
        return frame
