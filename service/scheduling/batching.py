"""What goes into a batch: by predicted seconds on the device, never by count. Pure."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from deepergatgnn.service.messages import LANES, Delivery, Lane
from deepergatgnn.service.scheduling.cost import Cost, once

FULL = 0.5  # of its budget: a bulk batch that does not wait for more
WORTH_IT = 0.25  # of what a batch costs once, whatever is in it: a batch of single crystals that does not either
BULK_LINGER_S = 0.03
PASSED_OVER = 8  # interactive batches that bulk work stands back for when it cannot be company
SHRINK, GROW = 0.7, 1.01
Priced = tuple[Delivery, float]


@dataclass(frozen=True)
class Budget:
    """What the device computes at once, at most.

    Attributes:
        seconds: of a batch.
        bulk_seconds: of a batch of bulk entries.
        edges: of a batch, after merging: what fits into the memory.
        linger_s: that a single crystal may wait for company.
    """

    seconds: float
    bulk_seconds: float
    edges: int
    linger_s: float = 0.0


class EdgeLimit:
    """Edges of a batch that the memory of the device holds: less after it did not, more again while it does.

    Args:
        most: what should fit.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.edges = most

    def exceeded(self, edges: int) -> None:
        """Several crystals with these edges together did not fit."""
        self.edges = max(1, int(SHRINK * min(self.edges, edges)))

    def kept(self) -> None:
        """A batch was computed."""
        self.edges = min(self.most, int(self.edges * GROW) + 1)


class Backlog:
    """Entries in a worker's hands that wait for its device, oldest first in each lane."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, deque[Priced]] = {lane: deque() for lane in LANES}
        self._seconds: dict[Lane, float] = dict.fromkeys(LANES, 0.0)
        self._suspects: dict[Lane, deque[Delivery]] = {lane: deque() for lane in LANES}
        self._passed_over = 0

    def __len__(self) -> int:
        return sum(len(self._suspects[lane]) + len(self._lanes[lane]) for lane in LANES)

    def add(self, delivery: Delivery, seconds: float) -> None:
        """One more, with its predicted seconds.

        An entry that was delivered before may be what ended its worker, so it will be computed alone.
        """
        lane = delivery.entry.lane
        if delivery.times > 1:
            self._suspects[lane].append(delivery)
        else:
            self._lanes[lane].append((delivery, seconds))
            self._seconds[lane] += seconds

    def seconds(self, lane: Lane) -> float:
        """Predicted seconds of what waits in a lane."""
        return self._seconds[lane]

    def count(self, lane: Lane) -> int:
        """Entries that wait in a lane."""
        return len(self._lanes[lane])

    def patience_s(self, budget: Budget, costs: Mapping[str, Cost], now: float) -> float:
        """How long the device had better wait for company of what waits, since a batch of few costs nearly as much.

        Not at all where none is known to be on its way, and not where the batch is worth what it costs already. Who
        screens does not wait for this batch; a single crystal waits for no longer than the budget says.

        Args:
            budget: of the batch.
            costs: of the models.
            now: `time.monotonic()`.
        """
        lane: Lane = "interactive" if self._lanes["interactive"] else "bulk"
        waiting = self._lanes[lane]
        if any(self._suspects.values()) or not waiting or not waiting[-1][0].entry.more:
            return 0.0
        if lane == "bulk":
            return BULK_LINGER_S if self._seconds[lane] < FULL * budget.bulk_seconds else 0.0
        oldest = waiting[0][0]
        few = self._seconds[lane] < WORTH_IT * once(oldest.entry.models, costs)
        return max(0.0, oldest.since + budget.linger_s - now) if few else 0.0

    def take(self, budget: Budget) -> list[Delivery]:
        """The next batch.

        Interactive entries if there are any, with one bulk entry that fits, so that these do not starve; else bulk
        entries. Bulk work that cannot be company, a large crystal or a suspect, has a turn of its own after some
        interactive batches. What does not fit stays at the front, so that a large crystal never starves.

        Args:
            budget: at least one entry is taken, even if it is larger alone.
        """
        if self._suspects["interactive"]:
            return [self._suspects["interactive"].popleft()]
        if not self._lanes["interactive"] or self._passed_over >= PASSED_OVER:
            self._passed_over = 0
            if self._suspects["bulk"]:
                return [self._suspects["bulk"].popleft()]
            if self._lanes["bulk"]:
                return self._fill("bulk", budget.bulk_seconds, budget.edges)
        batch = self._fill("interactive", budget.seconds, budget.edges)
        edges = budget.edges - sum(delivery.entry.graph.n_links for delivery in batch)
        return batch + self._company(budget.bulk_seconds, edges)

    def _company(self, seconds: float, edges: int) -> list[Delivery]:
        """One bulk entry for an interactive batch: whoever waits for an answer waits for the whole batch."""
        fits = False
        if bulk := self._lanes["bulk"]:
            delivery, price = bulk[0]
            fits = price <= seconds and delivery.entry.graph.n_links <= edges
        if self._suspects["bulk"] or (bulk and not fits):
            self._passed_over += 1
        return self._fill("bulk", 0.0, edges) if fits else []

    def _fill(self, lane: Lane, most_seconds: float, most_edges: int) -> list[Delivery]:
        """Take from the front of a lane what fits, the first one in any case."""
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
        return taken
