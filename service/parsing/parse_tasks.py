"""Tasks of the parse pool: files and JSON bodies, and the order in which one process replies to them."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from deepergatgnn.errors import DeeperGATGNNError
from deepergatgnn.service.parsing.wire import BEGUN, BUILDING, RECALLED, SINCE, Progress, Reply
from deepergatgnn.service.scheduling.fairness import NOBODY, Flow

LARGE_S = 0.05  # predicted processor time above which a task has a process to itself


class ParseTask:
    """A file or a JSON body on its way through the pool.

    Args:
        header, payload: of its frame.
        seconds: predicted processor time.
        exclusive: whether it must not be grouped with other tasks.
        flow: client and connection that it belongs to.

    Attributes:
        future: of the reply.
        created_at, sent_at: of `time.perf_counter()`.
        used_s: processor time that it took.
        losses: processes that ended while they may have worked on it.
    """

    def __init__(
        self,
        header: bytes,
        payload: Sequence[bytes],
        *,
        seconds: float = 0.0,
        exclusive: bool = False,
        flow: Flow = NOBODY,
    ) -> None:
        self.header, self.payload, self.seconds, self.flow = header, payload, seconds, flow
        self.exclusive = exclusive or self.is_large
        self.future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.created_at = time.perf_counter()
        self.sent_at: float | None = None
        self.used_s = 0.0
        self.losses = 0

    @property
    def is_large(self) -> bool:
        """Whether no other task should wait behind it."""
        return self.seconds > LARGE_S

    def set_reply(self, reply: Reply) -> None:
        """Resolve the future, unless it was cancelled."""
        if not self.future.done():
            self.future.set_result(reply)

    def fail(self, error: DeeperGATGNNError) -> None:
        """Fail the future, unless it was cancelled."""
        if not self.future.done():
            self.future.set_exception(error)


class SentTasks:
    """Tasks of one process without a reply, in the order of their replies.

    The process reads several files before it replies to them together, and counts in shared memory those it has begun.

    Args:
        progress: of the process.

    Attributes:
        total: tasks sent so far.
    """

    def __init__(self, progress: Progress) -> None:
        self.total = 0
        self._progress = progress
        self._pending: deque[ParseTask | None] = deque()  # None: recalled

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def load(self) -> float:
        """Predicted seconds of all of them."""
        return sum(task.seconds for task in self._pending if task is not None)

    @property
    def has_large(self) -> bool:
        """Whether one of them is large."""
        return any(task is not None and task.is_large for task in self._pending)

    @property
    def is_building(self) -> bool:
        """Whether the process builds the graphs of several files."""
        return bool(self._progress[BUILDING])

    @property
    def stage(self) -> tuple[int, float]:
        """Number of tasks that the process has begun, and its processor time when it began its current work."""
        return int(self._progress[BEGUN]), self._progress[SINCE]  # written in the reverse order

    @property
    def n_replied(self) -> int:
        """Number of tasks that have a reply."""
        return self.total - len(self._pending)

    @property
    def n_begun(self) -> int:
        """Number of pending tasks that the process has begun."""
        return max(0, int(self._progress[BEGUN]) - self.n_replied)

    def append(self, task: ParseTask) -> None:
        """Add a task that is being sent."""
        self.total += 1
        self._pending.append(task)

    def popleft(self) -> ParseTask | None:
        """Remove the task that was replied to; None if it was recalled."""
        return self._pending.popleft()

    def recall(self) -> list[ParseTask]:
        """Take back the tasks that the process has not begun; it skips them, so that none is done twice."""
        self._progress[RECALLED] = self.total
        first = self.n_begun  # read after the write: the process begins none of the others any more
        recalled = [task for task in list(self._pending)[first:] if task is not None]
        for index in range(first, len(self._pending)):
            self._pending[index] = None
        return recalled

    def suspects(self) -> list[ParseTask]:
        """Return the tasks that the process may be working on: one, unless it builds the graphs of several."""
        begun = list(self._pending)[: self.n_begun]
        if begun and begun[-1] is not None and not self.is_building:
            return [begun[-1]]
        return [task for task in begun if task is not None]

    def clear(self, but: Sequence[ParseTask]) -> list[ParseTask]:
        """Remove all tasks, and return those that are not in `but`."""
        left = [task for task in self._pending if task is not None and task not in but]
        self._pending.clear()
        return left
