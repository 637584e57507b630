"""API side of one parse process: tasks go in through a socket, replies come out in the same order.

Time limits count processor time of the process, never wall-clock time: on a busy host a good file takes long too. A
process that gets no processor time at all is replaced, and its files are retried.

If a process that builds the graphs of several files dies or takes long, each of them is retried alone in another
process, where it is the only suspect. Files behind a slow one are recalled before the process begins them, so that no
file is parsed by two processes.
"""

import asyncio
import signal
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from typing import Protocol, cast

from deepergatgnn.errors import StructureError
from deepergatgnn.service.errors import parsing_delayed
from deepergatgnn.service.parsing.fork_server import StartedProcess
from deepergatgnn.service.parsing.parse_tasks import ParseTask, SentTasks
from deepergatgnn.service.parsing.wire import BEGUN, BUILDING, CRASHED, SINCE, Frames, WireError, decode_reply, frame
from deepergatgnn.service.telemetry import metrics

SLOW_S = 0.1  # of a task, after which those behind it are recalled
GROUP_S = 0.3  # of processor time for the graphs of several files, after which each is retried alone
STALLED_S = 2.0  # without processor time, after which a process that has work is replaced
MIN_PROGRESS_S = 1e-5  # of processor time that tells a slow process from a stopped one
MIN_INTERVAL_S = 0.01  # between two checks
TRIES = 3  # processes that may be lost over a task through no fault of its own
MAX_REPLY_BYTES = 256 * 1024 * 1024
# Signals that a file can cause. Any other came from the host, for example one that is short of memory.
CRASH_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP}
)
UNKNOWN_EXIT = 255  # of multiprocessing, when the fork server is gone


class WorkerObserver(Protocol):
    """Receives the events of a worker."""

    def returned(self, tasks: Sequence[ParseTask]) -> None:
        """Send these tasks again: they were recalled, or their process is gone."""

    def finished(self, worker: "ParseWorker", tasks: Sequence[ParseTask], seconds: float) -> None:
        """Account for tasks that have a reply or an error, and their processor time altogether."""

    def lost(self, worker: "ParseWorker") -> None:
        """Replace a process that has ended."""


class ProcessorClock:
    """Processor time of one process; `stalled_s` is the time since it last had any."""

    def __init__(self, pid: int) -> None:
        self._id = (~pid << 3) | 2  # as clock_getcpuclockid(3) makes it
        self.reset()

    def reset(self) -> None:
        """Begin anew with a process that was idle."""
        self._checked_at, self.stalled_s = time.monotonic(), 0.0
        self._seconds = self._accounted_s = self._read(default=0.0)

    def check(self) -> float:
        """Return the processor time, and update `stalled_s`."""
        now, seconds = time.monotonic(), self._read(self._seconds)
        if seconds - self._seconds > MIN_PROGRESS_S:
            self.stalled_s, self._seconds = 0.0, seconds
        else:
            self.stalled_s += min(now - self._checked_at, 2 * SLOW_S)  # less, if the API was stopped too
        self._checked_at = now
        return seconds

    def lap(self) -> float:
        """Return the processor time since the last lap."""
        before, self._accounted_s = self._accounted_s, self._read(self._seconds)
        return self._accounted_s - before

    def _read(self, default: float) -> float:
        try:
            return time.clock_gettime(self._id)
        except OSError:  # the process is gone, which closes its socket too
            return default


class ParseWorker(asyncio.Protocol):
    """A parse process and the tasks that it has.

    Args:
        started: the process.
        timeout_s: processor time of one task.
        observer: of its events.
    """

    def __init__(self, started: StartedProcess, timeout_s: float, observer: WorkerObserver) -> None:
        self.tasks = SentTasks(started.progress)
        self._process: ForkServerProcess = started.process
        self._timeout_s, self._observer = timeout_s, observer
        self._clock = ProcessorClock(started.process.pid or 0)
        self._frames = Frames(MAX_REPLY_BYTES)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._replied_at = 0.0
        self._overdue: tuple[int, float] | None = None
        self._is_slow = self._is_closed = False

    @property
    def has_large(self) -> bool:
        """Whether one of its tasks takes long, so that no other should wait behind it."""
        return self._is_slow or any(task is not None and task.is_large for task in self.tasks.pending)

    def send(self, task: ParseTask) -> None:
        """Send a task to the process."""
        self.tasks.append(task)
        if self._transport is not None:
            self._transport.writelines(frame(task.header, task.payload, exclusive=task.exclusive))
        if len(self.tasks.pending) == 1:
            self._replied_at = time.monotonic()
            self._clock.reset()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(min(SLOW_S, self._timeout_s), self._check)

    def kill(self) -> None:
        """End the process now."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._process.kill()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the class

    def data_received(self, data: bytes) -> None:
        """Pass replies on to their tasks."""
        self._frames.feed(data)
        finished: list[ParseTask] = []
        replied = False
        try:
            while not self._is_closed and (received := self._frames.take()) is not None:
                finished += self._take_reply(received.header)
                replied = True
        except WireError:
            self._blame("died", CRASHED)
            return
        if replied:
            self._is_slow = False
            self._replied_at = time.monotonic()
            self._observer.finished(self, finished, self._clock.lap())

    def _take_reply(self, header: memoryview) -> list[ParseTask]:
        reply = decode_reply(header) if header else None
        if not self.tasks.pending:
            raise WireError("a reply to no task")
        task = self.tasks.pending.popleft()
        if task is None:
            return []
        if reply is not None:
            task.finish(reply)
            return [task]
        # Skipped: the process counted the task as begun just when the others behind it were recalled.
        task.losses += 1
        if task.losses >= TRIES:
            raise WireError("no reply to a task")
        self._observer.returned([task])
        return []

    def connection_lost(self, _: Exception | None) -> None:
        """Wait for the exit status of the process, which tells whether a task is to blame."""
        if not self._is_closed:
            self.kill()  # it may have closed the socket only
            asyncio.get_running_loop().add_reader(self._process.sentinel, self._exited)

    def _exited(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        status = self._process.exitcode
        if status == -signal.SIGXCPU:
            self._blame("time", self._too_long)
        elif status is None or status == UNKNOWN_EXIT or (status < 0 and -status not in CRASH_SIGNALS):
            self._retry("died")
        else:
            self._blame("died", CRASHED)

    @property
    def _too_long(self) -> str:
        return (
            f"the file took more than {self._timeout_s:g} s of processor time to parse: post the structure alone, as a "
            "plain CIF or POSCAR file"
        )

    def _check(self) -> None:
        """Look whether the process is slow, has passed a limit, or is stalled."""
        self._timer = None
        if self._is_closed or not self.tasks.pending:
            return
        progress = self.tasks.progress
        building, begun = bool(progress[BUILDING]), int(progress[BEGUN])
        since = progress[SINCE]  # read after the count, since it is written before
        seconds = self._clock.check()
        if self._clock.stalled_s > STALLED_S:
            self._retry("stopped")
            return
        used = seconds - since if begun > self.tasks.total - len(self.tasks.pending) else 0.0
        limit = min(GROUP_S, self._timeout_s) if building else self._timeout_s
        if used > limit:
            if self._overdue == (begun, since):
                if building:
                    self._retry("time")
                else:
                    self._blame("time", self._too_long)
                return
            self._overdue = begun, since  # its reply may have arrived already: check again
        if used > SLOW_S or time.monotonic() - self._replied_at > SLOW_S:
            self._is_slow = True
            if recalled := self.tasks.recall():
                self._observer.returned(recalled)
        delay = min(SLOW_S, max(MIN_INTERVAL_S, limit - used))
        self._timer = asyncio.get_running_loop().call_later(delay, self._check)

    def _blame(self, cause: str, detail: str) -> None:
        """End the process, and refuse the suspect if there is a single one."""
        suspects = self.tasks.suspects()
        if len(suspects) != 1:
            self._retry(cause)
            return
        self._end(cause, suspects)
        suspects[0].finish(StructureError("unreadable", detail))
        self._observer.finished(self, suspects, self._clock.lap())

    def _retry(self, cause: str) -> None:
        """End the process; its suspects are retried, each alone."""
        suspects = self.tasks.suspects()
        for task in suspects:
            task.exclusive = True
            task.losses += 1
        given_up = [task for task in suspects if task.losses >= TRIES]
        self._end(cause, given_up)
        for task in given_up:
            task.finish(parsing_delayed("the host stopped or killed the parser several times"))

    def _end(self, cause: str, done: Sequence[ParseTask]) -> None:
        metrics.PARSE_KILLED.labels(cause).inc()
        self.kill()
        left = [task for task in self.tasks.pending if task is not None and task not in done]
        self.tasks.pending.clear()
        self._observer.lost(self)
        if left:
            self._observer.returned(left)
