"""One parse process and the socket to it: files go in, answers come out in the same order.

What is said of a file goes by the processor time that its process spends on it, never by the clock on the wall: on a
host with much else to do a good file takes long too. A process that gets no processor time at all, since it was
stopped, is replaced, and its file has another try.

A process reads a few files before it answers them together, and notes in shared memory how many it has begun. So it is
known over which it dies, or takes long. Where it is not, since the graphs of all are being built, each is read alone in
another process, and one that is alone with its process answers for it. Files that it has not begun are recalled when
one before them takes long: no file is read by two processes.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from typing import Protocol, cast

from deepergatgnn.errors import DeeperGATGNNError, StructureError
from deepergatgnn.service.errors import parsing_delayed
from deepergatgnn.service.parsing.frames import LENGTHS, framed
from deepergatgnn.service.parsing.process import BEGUN, BUILDING, RECALLED, SINCE, Progress, serve
from deepergatgnn.service.scheduling.fairness import INTERNAL, Flow
from deepergatgnn.service.telemetry import metrics

SLOW_S = 0.1  # a file that takes longer does not keep those behind it waiting
GROUP_S = 0.3  # of processor time for the graphs of several files; then each is read alone
LARGE_S = 0.05  # of predicted processor time: a file that is sent to a process that has no other, and with no other
STOPPED_S = 2.0  # without any processor time, after which a process that has work is replaced
LEAST_S = 1e-5  # of processor time that tells a process that is slow from one that was stopped
GLANCE_S = 0.01
TRIES = 3  # processes that may be lost over a file through no fault of its own
LARGEST_ANSWER = 256 * 1024 * 1024
# How a process ends that its file ended: any other signal came from the host, such as one that is short of memory.
BROKEN = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP}
)
UNKNOWN_EXIT = 255  # of multiprocessing, when the fork server is gone
InferenceReply = tuple[bytes, memoryview]  # JSON and bytes


class File:
    """A file on its way through the pool.

    Args:
        head, content: of its frame.
        seconds: of processor time that it is predicted to take.
        alone: whether it must not share a process's attention with others.
        flow: whose it is.

    Attributes:
        took_s: processor time that it took.
        lost: processes, while they were at it.
    """

    def __init__(
        self,
        head: bytes,
        content: Sequence[bytes],
        *,
        seconds: float = 0.0,
        alone: bool = False,
        flow: Flow = INTERNAL,
    ) -> None:
        self.head, self.content, self.seconds, self.flow = head, content, seconds, flow
        self.alone = alone or self.is_large
        self.future: asyncio.Future[InferenceReply] = asyncio.get_running_loop().create_future()
        self.came = time.perf_counter()
        self.sent: float | None = None
        self.took_s = 0.0
        self.lost = 0

    @property
    def is_large(self) -> bool:
        """Whether it takes so long that others should not wait behind it."""
        return self.seconds > LARGE_S

    def answer(self, head: bytes, content: memoryview) -> None:
        """Set the result, unless it was cancelled."""
        if not self.future.done():
            self.future.set_result((head, content))

    def refuse(self, error: DeeperGATGNNError) -> None:
        """Set the error, unless it was cancelled."""
        if not self.future.done():
            self.future.set_exception(error)


class Owner(Protocol):
    """Who has channels."""

    def returned(self, files: Sequence[File]) -> None:
        """Files have to be sent again: they were recalled, or their process is gone."""

    def finished(self, channel: "Channel", files: Sequence[File], seconds: float) -> None:
        """Files are answered, or refused, after so much processor time for all of them."""

    def lost(self, channel: "Channel") -> None:
        """The process is gone."""


class Channel(asyncio.Protocol):
    """A process and the files that it has, in the order in which it answers.

    Args:
        process: that was started.
        progress: that it notes.
        timeout_s: processor time of one file.
        owner: is told what happens.
    """

    def __init__(self, process: ForkServerProcess, progress: Progress, timeout_s: float, owner: Owner) -> None:
        self.pending: deque[File | None] = deque()  # none: it was recalled
        self.files = 0
        self._process, self._progress, self._timeout_s, self._owner = process, progress, timeout_s, owner
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._answered_at = 0.0
        self._looked_at = self._ran_s = self._accounted_s = self._stopped_s = 0.0
        self._suspected: tuple[float, float] | None = None
        self._slow = False
        self._gone = False

    async def connect(self, ours: socket.socket) -> None:
        """Begin to talk to the process."""
        await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)

    @property
    def load(self) -> float:
        """Predicted seconds of the files that it has."""
        return sum(file.seconds for file in self.pending if file is not None)

    @property
    def takes_more(self) -> bool:
        """Whether it may have another file beside those it has."""
        return not self._slow and not self.has_large

    @property
    def has_large(self) -> bool:
        """Whether it is at a file that takes long."""
        return self._slow or any(file is not None and file.is_large for file in self.pending)

    def send(self, file: File) -> None:
        """Have a file parsed after those before it."""
        self.files += 1
        self.pending.append(file)
        if self._transport is not None:
            self._transport.writelines(framed(file.head, file.content, alone=file.alone))
        if len(self.pending) == 1:
            self._answered_at = self._looked_at = time.monotonic()
            self._ran_s = self._accounted_s = self._processor_s()
            self._stopped_s = 0.0
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(min(SLOW_S, self._timeout_s), self._look)

    def kill(self) -> None:
        """End the process now."""
        self._gone = True
        if self._alarm is not None:
            self._alarm.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._process.kill()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio's protocol."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the class

    def data_received(self, data: bytes) -> None:
        """Part of asyncio's protocol: answers, or parts of them."""
        self._received += data
        answered: list[File] = []
        came = False
        while len(self._received) >= LENGTHS.size and not self._gone:
            _, head_size, content_size = LENGTHS.unpack_from(self._received)
            end = LENGTHS.size + head_size + content_size
            if end > LARGEST_ANSWER or not self.pending:
                self._condemn("died", "reading the file broke the process that read it: post a plainer one")
                return
            if len(self._received) < end:
                break
            answer, self._received = memoryview(self._received)[LENGTHS.size : end], self._received[end:]
            file, came = self.pending.popleft(), True
            if file is not None:
                file.answer(bytes(answer[:head_size]), answer[head_size:])
                answered.append(file)
        if came:
            self._slow = False
            self._answered_at = time.monotonic()
            self._owner.finished(self, answered, self._spent())

    def connection_lost(self, _: Exception | None) -> None:
        """Part of asyncio's protocol: the process is gone; how it ended says whose fault that is."""
        if not self._gone:
            self.kill()  # it may have closed the socket alone
            asyncio.get_running_loop().add_reader(self._process.sentinel, self._ended)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        status = self._process.exitcode
        if status == -signal.SIGXCPU:
            self._condemn("time", self._too_long)
        elif status is None or status == UNKNOWN_EXIT or (status < 0 and -status not in BROKEN):
            self._excuse("died")
        else:
            self._condemn("died", "reading the file broke the process that read it: post a plainer one")

    @property
    def _too_long(self) -> str:
        return (
            f"reading the file took more than {self._timeout_s:g} s of processor time: post the structure alone, as a "
            "plain CIF or POSCAR file"
        )

    def _processor_s(self) -> float:
        """Processor time of the process so far."""
        try:
            return time.clock_gettime((~(self._process.pid or 0) << 3) | 2)  # as clock_getcpuclockid(3) makes it
        except OSError:  # it is gone, which the socket will say too
            return self._ran_s

    def _spent(self) -> float:
        """Processor time since this was last asked."""
        before, self._accounted_s = self._accounted_s, self._processor_s()
        return self._accounted_s - before

    def _look(self) -> None:
        """See what the process does: whether it takes long, too long, or nothing at all."""
        self._alarm = None
        if self._gone or not self.pending:
            return
        begun, building = int(self._progress[BEGUN]), bool(self._progress[BUILDING])
        since = self._progress[SINCE]  # read after the count, as it is written before
        now, ran_s = time.monotonic(), self._processor_s()
        if ran_s - self._ran_s > LEAST_S:
            self._stopped_s, self._ran_s = 0.0, ran_s
        else:
            self._stopped_s += min(now - self._looked_at, 2 * SLOW_S)  # less than was, if this process was stopped too
        self._looked_at = now
        if self._stopped_s > STOPPED_S:
            self._excuse("stopped")
            return
        used = ran_s - since if begun > self.files - len(self.pending) else 0.0
        limit = min(GROUP_S, self._timeout_s) if building else self._timeout_s
        if used > limit:
            if self._suspected == (begun, since):
                if building:
                    self._excuse("time")
                else:
                    self._condemn("time", self._too_long)
                return
            self._suspected = begun, since  # its answer may have come already: look again
        if used > SLOW_S or now - self._answered_at > SLOW_S:
            self._slow = True
            self._recall()
        delay = min(SLOW_S, max(GLANCE_S, limit - used))
        self._alarm = asyncio.get_running_loop().call_later(delay, self._look)

    def _recall(self) -> None:
        """Take back the files that the process has not begun; it passes over them."""
        self._progress[RECALLED] = self.files
        first = max(0, self._begun)  # read after that was written: what is not begun now never will be
        recalled = [file for file in list(self.pending)[first:] if file is not None]
        for place in range(first, len(self.pending)):
            self.pending[place] = None
        if recalled:
            self._owner.returned(recalled)

    @property
    def _begun(self) -> int:
        """How many of those pending the process has begun."""
        return int(self._progress[BEGUN]) - (self.files - len(self.pending))

    def _suspects(self) -> list[File]:
        """The files that the process may have been at: one alone, unless it was building the graphs of several."""
        begun = [file for file in list(self.pending)[: max(0, self._begun)] if file is not None]
        if begun and not self._progress[BUILDING] and self.pending[self._begun - 1] is begun[-1]:
            return begun[-1:]
        return begun

    def _condemn(self, cause: str, detail: str) -> None:
        """End the process because of the file that it is at, if it is known which."""
        suspects = self._suspects()
        if len(suspects) != 1:
            self._excuse(cause)
            return
        self._end(cause, suspects)
        suspects[0].refuse(StructureError("unreadable", detail))
        self._owner.finished(self, suspects, self._spent())

    def _excuse(self, cause: str) -> None:
        """End the process; the files that it was at have another try, each alone."""
        suspects = self._suspects()
        for file in suspects:
            file.alone = True
            file.lost += 1
        given_up = [file for file in suspects if file.lost >= TRIES]
        self._end(cause, given_up)
        for file in given_up:
            file.refuse(parsing_delayed("processes that read the file were stopped or killed several times"))

    def _end(self, cause: str, done: Sequence[File]) -> None:
        metrics.PARSE_KILLED.labels(cause).inc()
        self.kill()
        left = [file for file in self.pending if file is not None and file not in done]
        self.pending.clear()
        self._owner.lost(self)
        if left:
            self._owner.returned(left)


STOP_S = 2.0  # for the fork server, once its processes are killed
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
    context.set_forkserver_preload(["deepergatgnn.service.parsing.fork_server", "__main__"])
    progress: Progress = context.RawArray("d", 4)
    process = context.Process(target=serve, args=(theirs, progress, memory_mib, niceness, timeout_s), daemon=True)
    with theirs, _starting:
        process.start()
    ours.setblocking(False)  # noqa: FBT003 - the name of the method says it
    return process, progress, ours


def stop_fork_server() -> None:
    """End the server that forks the processes, once they are killed: it lives as long as one of them does."""
    server = forkserver._forkserver  # noqa: SLF001
    pid: int | None = getattr(server, "_forkserver_pid", None)
    if pid is None:
        return
    # Waiting for it holds the event loop: where something keeps it alive all the same, it is killed.
    rescue = threading.Timer(STOP_S, os.kill, (pid, signal.SIGKILL))
    rescue.daemon = True
    rescue.start()
    server._stop()  # type: ignore[attr-defined]  # noqa: SLF001
    rescue.cancel()
