"""Tasks of the parse pool: files and JSON bodies, and the order in which one process replies to them."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from deepergatgnn.errors import DeeperGATGNNError
from deepergatgnn.service.parsing.wire import BEGUN, BUILDING, RECALLED, Progress, Reply
from deepergatgnn.service.scheduling.fairness import INTERNAL, Flow

MAX_SENT = 16  # tasks of a process: it goes on to the next while the event loop is busy
MAX_SENT_S = 0.05  # their predicted seconds, without the first
LARGE_S = 0.05  # predicted processor time above which a task has a process to itself


class ParseTask:
    """A file or a JSON body on its way through the pool.

    Args:
        header, payload: of its frame.
        seconds: predicted processor time.
        exclusive: whether it must not be grouped with other tasks.
        flow: client and connection that it belongs to.

    Attributes:
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
        flow: Flow = INTERNAL,
    ) -> None:
        self.header, self.payload, self.seconds, self.flow = header, payload, seconds, flow
        self.is_large = seconds > LARGE_S
        self.exclusive = exclusive or self.is_large
        self.future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.created_at = time.perf_counter()
        self.sent_at: float | None = None
        self.used_s = 0.0
        self.losses = 0

    def finish(self, result: Reply | DeeperGATGNNError) -> None:
        """Resolve the future, unless it was cancelled."""
        if self.future.done():
            return
        if isinstance(result, DeeperGATGNNError):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class SentTasks:
    """Tasks of one process in the order of its replies.

    The process reads several files before it replies to them together, and counts in `progress` those it has begun.

    Attributes:
        pending: without a reply; None stands for a recalled one.
        total: sent so far.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress, self.total = progress, 0
        self.pending: deque[ParseTask | None] = deque()

    @property
    def load(self) -> float:
        """Predicted seconds of the pending tasks."""
        return sum(task.seconds for task in self.pending if task is not None)

    def has_room(self, seconds: float) -> bool:
        """Whether a task of these predicted seconds may be sent too."""
        return not self.pending or (len(self.pending) < MAX_SENT and self.load + seconds <= MAX_SENT_S)

    @property
    def n_begun(self) -> int:
        """Number of pending tasks that the process has begun."""
        return max(0, int(self.progress[BEGUN]) - (self.total - len(self.pending)))

    def append(self, task: ParseTask) -> None:
        """Add a task that is being sent."""
        self.total += 1
        self.pending.append(task)

    def recall(self) -> list[ParseTask]:
        """Take back the tasks that the process has not begun; it skips them, so that none is done twice."""
        self.progress[RECALLED] = self.total
        first = self.n_begun  # read after the write: the process begins none of the others any more
        recalled = [task for task in list(self.pending)[first:] if task is not None]
        for index in range(first, len(self.pending)):
            self.pending[index] = None
        return recalled

    def suspects(self) -> list[ParseTask]:
        """Return the tasks that the process may be working on: one, unless it builds the graphs of several."""
        begun = list(self.pending)[: self.n_begun]
        if begun and begun[-1] is not None and not self.progress[BUILDING]:
            return [begun[-1]]
        return [task for task in begun if task is not None]
