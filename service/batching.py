"""What goes into a batch: by predicted seconds on the device, never by count. Pure."""

from collections import deque
from dataclasses import dataclass

from service.entries import LANES, Lane
from service.work_queue import Delivery

FULL = 0.5  # of its budget: a bulk batch that does not wait for more
Priced = tuple[Delivery, float]


@dataclass(frozen=True)
class Budget:
    """What the device computes at once, at most.

    Attributes:
        seconds: of a batch.
        bulk_seconds: of a batch of bulk entries.
        edges: of a batch, after merging: what fits into the memory.
    """

    seconds: float
    bulk_seconds: float
    edges: int


class Backlog:
    """Entries in a worker's hands that wait for its device, oldest first in each lane."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, deque[Priced]] = {lane: deque() for lane in LANES}
        self._seconds: dict[Lane, float] = dict.fromkeys(LANES, 0.0)
        self._suspects: deque[Priced] = deque()

    def __len__(self) -> int:
        return len(self._suspects) + sum(map(len, self._lanes.values()))

    def add(self, delivery: Delivery, seconds: float) -> None:
        """One more, with its predicted seconds.

        An entry that was delivered before may be what ended its worker, so it will be computed alone.
        """
        if delivery.times > 1:
            self._suspects.append((delivery, seconds))
        else:
            self._lanes[delivery.entry.lane].append((delivery, seconds))
            self._seconds[delivery.entry.lane] += seconds

    def seconds(self, lane: Lane) -> float:
        """Predicted seconds of what waits in a lane."""
        return self._seconds[lane]

    def count(self, lane: Lane) -> int:
        """Entries that wait in a lane."""
        return len(self._lanes[lane])

    def may_fill(self, budget: Budget) -> bool:
        """Whether a better batch is on its way: bulk entries alone wait, few, and say that more of them come."""
        bulk = self._lanes["bulk"]
        alone = not self._suspects and not self._lanes["interactive"]
        return bool(bulk) and alone and bulk[-1][0].entry.more and self._seconds["bulk"] < FULL * budget.bulk_seconds

    def take(self, budget: Budget) -> list[Delivery]:
        """The next batch.

        Interactive entries if there are any, with one bulk entry, so that these do not starve; else bulk entries. What
        does not fit stays at the front, so that a large crystal never starves.

        Args:
            budget: at least one entry is taken, even if it is larger alone.
        """
        if self._suspects:
            return [self._suspects.popleft()[0]]
        batch, _, edges = self._fill("interactive", budget.seconds, budget.edges)
        # Whoever waits for an answer waits for the whole batch: one bulk entry is company enough.
        bulk, _, _ = self._fill("bulk", 0.0 if batch else budget.bulk_seconds, budget.edges - edges)
        return batch + bulk

    def _fill(self, lane: Lane, most_seconds: float, most_edges: int) -> tuple[list[Delivery], float, int]:
        """Take from the front of a lane what fits, the first one in any case; what that takes."""
        taken: list[Delivery] = []
        waiting, seconds, edges = self._lanes[lane], 0.0, 0
        while waiting:
            delivery, price = waiting[0]
            links = delivery.entry.graph.n_links
            if taken and (seconds + price > most_seconds or edges + links > most_edges):
                break
            waiting.popleft()
            taken.append(delivery)
            seconds, edges = seconds + price, edges + links
        self._seconds[lane] = self._seconds[lane] - seconds if waiting else 0.0
        return taken, seconds, edges
