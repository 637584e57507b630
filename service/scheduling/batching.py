"""Batches by predicted seconds on the device, never by count."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from deepergatgnn.service.lanes import LANES, Lane
from deepergatgnn.service.scheduling.cost import Cost, batch_overhead

FULL = 0.5  # share of its budget with which a batch of a later lane starts at once
WORTH_IT = 0.25  # share of the overhead of a batch with which a batch of the first lane starts at once
LINGER_S = 0.03  # for which a batch of a later lane waits for more
PASSED_OVER = 8  # batches of lanes before it after which a lane has a turn of its own
SHRINK, GROW = 0.7, 1.01


class _Item(Protocol):
    """A crystal to compute; `messages.Delivery` explains its attributes."""

    lane: Lane
    since: float

    @property
    def models(self) -> Sequence[str]: ...
    @property
    def edges(self) -> int: ...
    @property
    def suspect(self) -> bool: ...
    @property
    def more(self) -> bool: ...


T = TypeVar("T", bound=_Item)


@dataclass(frozen=True)
class Budget:
    """Upper bounds of a batch; its first crystal may exceed them.

    Attributes:
        seconds: predicted, of a batch.
        edges: of the merged graphs, which bound the memory.
        linger_s: for which a small batch of the first lane waits for more crystals.
        contended: whether requests of the first lane arrive.
    """

    seconds: float
    edges: int
    linger_s: float = 0.0
    contended: bool = False

    def of(self, lane: Lane) -> float:
        """Return the predicted seconds that a lane may take of a batch."""
        return self.seconds * (lane.contended_share if self.contended else lane.batch_share)


class EdgeLimit:
    """Edges of a batch that fit into the memory of the device; shrinks after a failure and recovers slowly.

    Args:
        most: that should fit.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.edges = most

    def exceeded(self, edges: int) -> None:
        """Shrink, since a batch of several crystals with these edges did not fit."""
        self.edges = max(1, int(SHRINK * min(self.edges, edges)))

    def kept(self) -> None:
        """Recover, since a batch fitted."""
        self.edges = min(self.most, int(self.edges * GROW) + 1)


class _LaneQueue(Generic[T]):
    """Waiting crystals of one lane, oldest first, with their predicted seconds."""

    def __init__(self) -> None:
        self.items: deque[tuple[T, float]] = deque()
        self.suspects: deque[T] = deque()
        self.seconds = 0.0
        self.passed_over = 0

    def __len__(self) -> int:
        return len(self.items) + len(self.suspects)

    def add(self, item: T, seconds: float) -> None:
        if item.suspect:
            self.suspects.append(item)
        else:
            self.items.append((item, seconds))
            self.seconds += seconds

    def take(self, most_seconds: float, most_edges: int) -> list[T]:
        """Take items from the front that fit; the first one in any case."""
        taken: list[T] = []
        seconds, edges = 0.0, 0
        while self.items:
            item, cost = self.items[0]
            if taken and (seconds + cost > most_seconds or edges + item.edges > most_edges):
                break
            self.items.popleft()
            taken.append(item)
            seconds, edges = seconds + cost, edges + item.edges
        self.seconds = self.seconds - seconds if self.items else 0.0
        return taken

    def take_beside(self, most_seconds: float, most_edges: int) -> list[T]:
        """Take one item that fits beside a batch of a lane before this one, so that this lane does not starve."""
        fits = bool(self.items) and self.items[0][1] <= most_seconds and self.items[0][0].edges <= most_edges
        if self.suspects or not fits:
            self.passed_over += 1
        return self.take(0.0, most_edges) if fits else []


class Backlog(Generic[T]):
    """Crystals that wait in a worker for its device."""

    def __init__(self) -> None:
        self._queues: dict[Lane, _LaneQueue[T]] = {lane: _LaneQueue() for lane in LANES}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, item: T, seconds: float) -> None:
        """Add a crystal with its predicted seconds."""
        self._queues[item.lane].add(item, seconds)

    def seconds(self, lane: Lane) -> float:
        """Return the predicted seconds of the crystals of a lane, without suspects."""
        return self._queues[lane].seconds

    def count(self, lane: Lane) -> int:
        """Return the number of crystals of a lane, without suspects."""
        return len(self._queues[lane].items)

    def patience_s(self, budget: Budget, costs: Mapping[str, Cost], now: float) -> float:
        """Return the seconds to hold a small batch open for crystals that follow soon.

        A batch of few crystals costs nearly as much as one of many. A batch of the first lane is held until its oldest
        crystal has waited for `budget.linger_s`, or its predicted seconds are worth the overhead of a batch; one of a
        later lane until it fills half of its budget.
        """
        if any(queue.suspects for queue in self._queues.values()):
            return 0.0
        lane, queue = next(((lane, queue) for lane, queue in self._queues.items() if queue.items), (None, None))
        if lane is None or queue is None or not queue.items[-1][0].more:
            return 0.0
        if lane.priority:
            return LINGER_S if queue.seconds < FULL * budget.of(lane) else 0.0
        oldest = queue.items[0][0]
        few = queue.seconds < WORTH_IT * batch_overhead(oldest.models, costs)
        return max(0.0, oldest.since + budget.linger_s - now) if few else 0.0

    def take(self, budget: Budget) -> list[T]:
        """Take the next batch; a suspect is a batch of its own.

        The batch is of the first lane that has crystals, with one crystal of each later lane that fits, so that these
        do not starve. A later lane whose crystals do not fit, large ones and suspects, has a turn of its own after
        `PASSED_OVER` batches. A crystal that does not fit stays at the front of its lane.
        """
        waiting = [lane for lane, queue in self._queues.items() if queue]
        if not waiting:
            return []
        first = waiting[0]
        if not self._queues[first].suspects:
            first = next((lane for lane in waiting if self._queues[lane].passed_over >= PASSED_OVER), first)
        queue = self._queues[first]
        queue.passed_over = 0
        if queue.suspects:
            return [queue.suspects.popleft()]
        batch = queue.take(budget.of(first), budget.edges)
        edges = budget.edges - sum(item.edges for item in batch)
        for lane in waiting[waiting.index(first) + 1 :]:
            beside = self._queues[lane].take_beside(budget.of(lane), edges)
            edges -= sum(item.edges for item in beside)
            batch += beside
        return batch
