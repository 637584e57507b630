"""One parse process and the socket to it: files go in, answers come out in the same order."""

import asyncio
import multiprocessing
import socket
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from typing import Protocol, cast

from service import metrics
from service.parse_process import LENGTH, serve

SLOW_S = 0.1  # a file that takes longer does not keep those behind it waiting
LARGEST_ANSWER = 256 * 1024 * 1024
Answer = tuple[bytes, memoryview]  # JSON and bytes; without JSON the bytes say why there is none


class File:
    """A file on its way through the pool.

    Args:
        frame: its bytes in pieces, which are not joined: to copy 16 MiB holds the event loop for long.
    """

    def __init__(self, frame: Sequence[bytes]) -> None:
        self.frame = frame
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.came = time.perf_counter()
        self.sent: float | None = None

    def answer(self, head: bytes, content: memoryview) -> None:
        """Tell whoever waits, unless somebody was faster or nobody does."""
        if not self.future.done():
            self.future.set_result((head, content))


class Owner(Protocol):
    """Who has channels."""

    def delayed(self, files: Sequence[File]) -> None:
        """Files wait behind a slow one."""

    def finished(self, channel: "Channel") -> None:
        """A file is answered."""

    def lost(self, channel: "Channel") -> None:
        """The process is gone, and with it the file that it was at."""


class Channel(asyncio.Protocol):
    """A process; the first of `pending` is what it is at.

    Args:
        process: that was started.
        timeout_s: wall time of one file.
        owner: is told what happens.
    """

    def __init__(self, process: ForkServerProcess, timeout_s: float, owner: Owner) -> None:
        self.pending: deque[File] = deque()
        self.files = 0
        self._process, self._timeout_s, self._owner = process, timeout_s, owner
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._slow = False
        self._gone = False

    async def connect(self, ours: socket.socket) -> None:
        """Begin to talk to the process."""
        await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)

    @property
    def load(self) -> int:
        """Files it has; many while it is slow."""
        return 1_000_000 if self._slow else len(self.pending)

    def send(self, file: File) -> None:
        """Have a file parsed after those before it."""
        self.files += 1
        self.pending.append(file)
        if self._transport is not None:
            for piece in file.frame:
                self._transport.write(piece)
        if len(self.pending) == 1:
            self._watch()

    def kill(self) -> None:
        """End the process now."""
        self._gone = True
        self._quiet()
        if self._transport is not None:
            self._transport.abort()
        self._process.kill()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio's protocol."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the class

    def data_received(self, data: bytes) -> None:
        """Part of asyncio's protocol: answers, or parts of them."""
        self._received += data
        while len(self._received) >= LENGTH.size and not self._gone:
            head_size, content_size = LENGTH.unpack_from(self._received)
            end = LENGTH.size + head_size + content_size
            if end > LARGEST_ANSWER or not self.pending:
                self._lose("died", "reading the file broke the process that read it: post a plainer one")
                return
            if len(self._received) < end:
                return
            answer, self._received = memoryview(self._received)[LENGTH.size : end], self._received[end:]
            self._quiet()
            self.pending.popleft().answer(bytes(answer[:head_size]), answer[head_size:])
            if self.pending:
                self._watch()
            self._owner.finished(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Part of asyncio's protocol: the process is gone."""
        if not self._gone:
            self._lose("died", "reading the file took too much memory: post a smaller cell")

    def _watch(self) -> None:
        self._alarm = asyncio.get_running_loop().call_later(min(SLOW_S, self._timeout_s), self._slow_down)

    def _quiet(self) -> None:
        self._slow = False
        if self._alarm is not None:
            self._alarm.cancel()

    def _slow_down(self) -> None:
        """The file that the process is at takes long: those behind it go elsewhere too."""
        self._slow = True
        left = max(0.0, self._timeout_s - SLOW_S)
        detail = f"reading the file took more than {self._timeout_s:g} s: post a plain, smaller cell"
        self._alarm = asyncio.get_running_loop().call_later(left, self._lose, "time", detail)
        self._owner.delayed(list(self.pending)[1:])

    def _lose(self, cause: str, detail: str) -> None:
        metrics.PARSE_KILLED.labels(cause).inc()
        self.kill()
        if self.pending:
            self.pending.popleft().answer(b"", memoryview(detail.encode()))
        self._owner.lost(self)


def start_process(memory_mib: int, niceness: int, timeout_s: float) -> tuple[ForkServerProcess, socket.socket]:
    """A parse process and this end of the socket to it.

    The first one starts the server that forks all others, which then import nothing anew; that one takes seconds, the
    others milliseconds.
    """
    ours, theirs = socket.socketpair()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["service.parse_process"])
    process = context.Process(target=serve, args=(theirs, memory_mib, niceness, timeout_s), daemon=True)
    with theirs:
        process.start()
    ours.setblocking(False)  # noqa: FBT003 - the name of the method says it
    return process, ours


def stop_fork_server() -> None:
    """End the server that forks the processes, once they are killed: it lives as long as one of them does."""
    getattr(forkserver._forkserver, "_stop", lambda: None)()  # noqa: SLF001
