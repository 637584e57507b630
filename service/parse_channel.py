"""One parse process and the socket to it: files go in, answers come out in the same order.

A process reads a few files before it answers them together, and notes in shared memory how many it has begun. So it is
known over which it dies, or takes long. Where it is not, since the graphs of all are being built, all go to other
processes, each to be read alone there, and one that is alone with its process answers for it.
"""

import asyncio
import multiprocessing
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from typing import Protocol, cast

from service import metrics
from service.frames import LENGTHS, framed
from service.parse_process import BEGUN, BUILDING, Progress, serve

SLOW_S = 0.1  # a file that takes longer does not keep those behind it waiting
LARGEST_ANSWER = 256 * 1024 * 1024
Answer = tuple[bytes, memoryview]  # JSON and bytes; without JSON the bytes say why there is none


class File:
    """A file on its way through the pool.

    Args:
        head, content: of its frame.
        alone: whether it must not share a process's attention with others.
    """

    def __init__(self, head: bytes, content: Sequence[bytes], *, alone: bool = False) -> None:
        self.head, self.content, self.alone = head, content, alone
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
    """A process and the files that it has, in the order in which it answers.

    Args:
        process: that was started.
        progress: that it notes.
        timeout_s: wall time of one file.
        owner: is told what happens.
    """

    def __init__(self, process: ForkServerProcess, progress: Progress, timeout_s: float, owner: Owner) -> None:
        self.pending: deque[File] = deque()
        self.files = 0
        self._process, self._progress, self._timeout_s, self._owner = process, progress, timeout_s, owner
        self._alone: set[File] = set()  # of those pending, sent to be read alone
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
        if file.alone:
            self._alone.add(file)
        if self._transport is not None:
            self._transport.writelines(framed(file.head, file.content, alone=file.alone))
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
        answered = False
        while len(self._received) >= LENGTHS.size and not self._gone:
            _, head_size, content_size = LENGTHS.unpack_from(self._received)
            end = LENGTHS.size + head_size + content_size
            if end > LARGEST_ANSWER or not self.pending:
                self._lose("died", "reading the file broke the process that read it: post a plainer one")
                return
            if len(self._received) < end:
                break
            answer, self._received = memoryview(self._received)[LENGTHS.size : end], self._received[end:]
            file = self.pending.popleft()
            self._alone.discard(file)
            file.answer(bytes(answer[:head_size]), answer[head_size:])
            answered = True
        if answered:
            self._quiet()
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
        """The file that the process is at takes long: the others go elsewhere too; all, if nobody knows which it is."""
        self._slow = True
        left = max(0.0, self._timeout_s - SLOW_S)
        detail = f"reading the file took more than {self._timeout_s:g} s: post a plain, smaller cell"
        self._alarm = asyncio.get_running_loop().call_later(left, self._lose, "time", detail)
        culprit = self._culprit()
        self._owner.delayed([file for file in self.pending if file is not culprit])

    def _culprit(self) -> File | None:
        """The file that the process is at; if nobody knows, none, and from now on each is to be read alone."""
        if self.pending and self.pending[0] in self._alone:
            return self.pending[0]
        place = self._progress[BEGUN] - (self.files - len(self.pending)) - 1
        if 0 <= place < len(self.pending) and not self._progress[BUILDING]:
            return self.pending[place]
        for file in self.pending:
            file.alone = True
        return None

    def _lose(self, cause: str, detail: str) -> None:
        metrics.PARSE_KILLED.labels(cause).inc()
        self.kill()
        culprit = self._culprit()
        if culprit is not None:
            self.pending.remove(culprit)
            culprit.answer(b"", memoryview(detail.encode()))
        self._owner.lost(self)


Started = tuple[ForkServerProcess, Progress, socket.socket]
_starting = threading.Lock()  # multiprocessing keeps a list of its processes that is not made for threads


def start_process(memory_mib: int, niceness: int, timeout_s: float) -> Started:
    """A parse process, the progress that it notes, and this end of the socket to it.

    The first one starts the server that forks all others, which then import nothing anew; that one takes seconds, the
    others milliseconds.
    """
    ours, theirs = socket.socketpair()
    context = multiprocessing.get_context("forkserver")
    # The command too: else every process would import it by itself before it reads its first file.
    context.set_forkserver_preload(["service.parse_server", "__main__"])
    progress: Progress = context.RawArray("I", 2)
    process = context.Process(target=serve, args=(theirs, progress, memory_mib, niceness, timeout_s), daemon=True)
    with theirs, _starting:
        process.start()
    ours.setblocking(False)  # noqa: FBT003 - the name of the method says it
    return process, progress, ours


def stop_fork_server() -> None:
    """End the server that forks the processes, once they are killed: it lives as long as one of them does."""
    getattr(forkserver._forkserver, "_stop", lambda: None)()  # noqa: SLF001
