"""Admission control in predicted seconds of work, for single crystals and batches alike.

Every admitted crystal counts with its predicted seconds in two stages, parse processes and workers: first as estimated
from its file, then, once its graph is known, by the cost model. The sums over the measured speed of each stage predict
how long a new crystal waits, behind the work of its own lane and of the lanes before it.

While that exceeds the limit of the lane, a client is admitted only up to its fair share of the limit, so that the wait
of a client does not grow with the work of others.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Self

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.lanes import LANES, Lane
from deepergatgnn.service.messages import ApiReport
from deepergatgnn.service.scheduling.cost import Cost, price
from deepergatgnn.service.scheduling.fairness import Flow
from deepergatgnn.service.scheduling.parse_cost import Correction, Size
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry import metrics

SATURATED_S = 0.05  # work at the servers throughout a window for which the measured speed is valid
WINDOW_S = 0.25
FOLLOW = 0.3  # weight of a new window in the running mean of the speed
RECOVER = 0.03  # share of the gap to the nominal speed that is closed in a window too idle to measure
SLOWEST = 0.02  # least speed that predictions assume, so that refusals do not last when nothing is measured
BATCHES = 2  # of a worker that keep it busy: one on the device, one ready
FEW = 64  # crystals of a worker that cost little more than one: so many are admitted on a slow host
FEW_S = 1.0  # unless they take longer than this
PARSING_S = 0.1  # predicted, that keeps a parse process busy
EDGES_PER_SITE = 12  # estimate before the graph is known
SLOWEST_SHARED = 0.25  # least speed that shares assume: a slow host is slow for all clients
TYPICAL_WEIGHT = 0.03  # of a new crystal in the mean cost
REMEMBERED = 4096  # connections whose last demand is known
LONGEST_RETRY_S = 60
AHEAD = {lane: [each for each in LANES if each.priority <= lane.priority] for lane in LANES}


class Demand(NamedTuple):
    """Predicted seconds of one crystal.

    Attributes:
        parsing: of a parse process.
        computing: of a worker.
        plain: of a worker before the correction by measured costs; 0 where it was not predicted.
    """

    parsing: float
    computing: float
    plain: float = 0.0


class Stage:
    """Admitted work of one kind, and the speed at which it is done.

    Attributes:
        servers: that work in parallel.
        waiting: predicted seconds admitted and not done, by lane.
        elsewhere: the same for other API processes.
        done: predicted seconds so far.
        speed: measured over nominal.
    """

    def __init__(self, servers: int = 1) -> None:
        self.servers = servers
        self.waiting = dict.fromkeys(LANES, 0.0)
        self.elsewhere = dict.fromkeys(LANES, 0.0)
        self.done = 0.0
        self.speed = 1.0
        self._in_hand = 0.0  # of the waiting seconds, at the servers
        self._window_began = time.monotonic()
        self._window_least = self._window_done = 0.0

    def rate(self, slowest: float = SLOWEST) -> float:
        """Return the predicted seconds of work done per second, at least at the speed `slowest`."""
        return self.servers * max(slowest, self.speed)

    def ahead(self, lanes: Iterable[Lane]) -> float:
        """Return the predicted seconds of work of some lanes."""
        return max(0.0, sum(self.waiting[lane] + self.elsewhere[lane] for lane in lanes))

    def change(self, lane: Lane, seconds: float) -> None:
        """Add work, or subtract it."""
        self.waiting[lane] = max(0.0, self.waiting[lane] + seconds)

    def begin(self, seconds: float) -> None:
        """Count work as handed to the servers; only from here on does its duration measure their speed."""
        self._in_hand += seconds

    def end(self, seconds: float, *, done: bool) -> None:
        """Count work as finished or given up by the servers."""
        self._in_hand = max(0.0, self._in_hand - seconds)
        self._window_least = min(self._window_least, self._in_hand)
        if done:
            self.done += seconds
            self.measure(seconds)

    def measure(self, seconds: float) -> None:
        """Update the speed from the work done in a window throughout which the servers had more."""
        self._window_done += seconds
        now = time.monotonic()
        elapsed = now - self._window_began
        if elapsed < WINDOW_S:
            return
        if self._window_least > SATURATED_S:
            measured = self._window_done / elapsed / self.servers
            self.speed += FOLLOW * (measured - self.speed)
        else:
            self.speed += RECOVER * max(0.0, 1.0 - self.speed)
        self._window_began, self._window_done = now, 0.0
        self._window_least = self._in_hand


class LaneLoad:
    """Admitted work of one lane.

    Attributes:
        parsing: the stage of its parse processes.
        crystals: admitted and not answered.
        unparsed: of these, the crystals whose cost is not known yet.
        flows: crystals, seconds of parsing and of computing by flow.
        connections: number of flows by client.
    """

    def __init__(self, parse_processes: int) -> None:
        self.parsing = Stage(parse_processes)
        self.crystals = self.unparsed = 0
        self.flows: dict[Flow, tuple[int, float, float]] = {}
        self.connections: Counter[str] = Counter()

    def change(self, flow: Flow, crystals: int, parsing: float, computing: float) -> None:
        """Add work of a flow, or subtract it."""
        self.crystals += crystals
        if flow not in self.flows:
            self.connections[flow.client] += 1
        before = self.flows.get(flow, (0, 0.0, 0.0))
        self.flows[flow] = before[0] + crystals, before[1] + parsing, before[2] + computing
        if self.flows[flow][0] <= 0:
            del self.flows[flow]
            self.connections[flow.client] -= 1
            if not self.connections[flow.client]:
                del self.connections[flow.client]

    def sharers(self, flow: Flow) -> int:
        """Return the number of shares of the lane's limit: of clients first, then of this client's connections."""
        others = len(self.connections) - (flow.client in self.connections)
        connections = self.connections.get(flow.client, 0) + (flow not in self.flows)
        return (others + 1) * connections


class Crystal:
    """One crystal of an admitted request; `Ticket.crystal` makes and settles it."""

    def __init__(self, ticket: "Ticket") -> None:
        self._ticket = ticket
        self._seconds: float | None = None  # on workers, once they are known

    @contextmanager
    def parsing(self) -> Iterator[None]:
        """Count the crystal as being in a parse process within the context."""
        stage, seconds, done = self._ticket.load.parsing, self._ticket.demand.parsing, False
        stage.begin(seconds)
        try:
            yield
            done = True
        except ServiceError:
            raise
        except Exception:  # a refused structure, whose parsing took its time too
            done = True
            raise
        finally:
            stage.end(seconds, done=done)

    def price(self, seconds: float) -> None:
        """Replace the prediction by the seconds that workers are asked for; a later call adds to them."""
        ticket = self._ticket
        if self._seconds is None:
            ticket.load.unparsed -= 1
            ticket.change(0, -ticket.demand.parsing, seconds - ticket.demand.computing)
            ticket.admission.learn(ticket.flow, ticket.demand, seconds)
        else:
            ticket.change(0, 0.0, seconds)
        self._seconds = (self._seconds or 0.0) + seconds
        ticket.admission.computing.begin(seconds)

    def settle(self, *, done: bool) -> None:
        """Subtract the crystal, answered or not."""
        ticket = self._ticket
        if self._seconds is None:
            ticket.load.unparsed -= 1
            ticket.change(-1, -ticket.demand.parsing, -ticket.demand.computing)
        else:
            ticket.change(-1, 0.0, -self._seconds)
            ticket.admission.computing.end(self._seconds, done=done)


class Ticket:
    """An admitted request, a context; it ends after the contexts of its crystals, each of which has `demand`."""

    def __init__(self, admission: "Admission", lane: Lane, flow: Flow, demand: Demand, crystals: int = 1) -> None:
        self.admission, self.load = admission, admission.lanes[lane]
        self.flow, self.demand = flow, demand
        self._lane, self._waiting = lane, 0
        self.resume(crystals)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hold(self._waiting)

    @contextmanager
    def crystal(self) -> Iterator[Crystal]:
        """Begin a crystal, and subtract it at the end of the context: as answered, or as failed by an exception."""
        self._waiting -= 1
        crystal, done = Crystal(self), False
        try:
            yield crystal
            done = True
        finally:
            crystal.settle(done=done)

    def hold(self, crystals: int) -> None:
        """Subtract crystals that are not begun, while the client does not take answers."""
        self.resume(-crystals)

    def resume(self, crystals: int) -> None:
        """Add them again."""
        self._waiting += crystals
        self.load.unparsed += crystals
        self.change(crystals, crystals * self.demand.parsing, crystals * self.demand.computing)

    def change(self, crystals: int, parsing: float, computing: float) -> None:
        """Add work of the request, or subtract it."""
        self.load.parsing.change(self._lane, parsing)
        self.admission.computing.change(self._lane, computing)
        self.load.change(self.flow, crystals, parsing, computing)


class Admission:
    """Admission control of one API process, which includes the reported work of the others.

    Args:
        settings: of the service.

    Attributes:
        lanes: load of each lane.
        computing: the stage of the workers.
        typical: mean seconds of a crystal on a worker.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.lanes = {lane: LaneLoad(settings.parse_processes) for lane in LANES}
        self.computing = Stage()
        self.typical = price(("?",), 100, 10, {})
        self._costs: Mapping[str, Cost] = {}
        self._last: OrderedDict[str, tuple[Flow, Demand]] = OrderedDict()  # by connection
        self._correction = Correction()
        self._done_elsewhere: dict[str, float] = {}
        for lane, load in self.lanes.items():
            metrics.ADMITTED.labels(lane.name).set_function(partial(getattr, load, "crystals"))

    @property
    def waiting_s(self) -> dict[str, float]:
        """Predicted seconds of this process's unanswered crystals on workers, by the name of their lane."""
        return {lane.name: seconds for lane, seconds in self.computing.waiting.items()}

    def follow(self, costs: Mapping[str, Cost], workers: int, reports: Mapping[str, ApiReport]) -> None:
        """Update the state of the cluster.

        Args:
            costs: by version; the last ones stay if there are none.
            workers: that are alive.
            reports: of the other API processes, by name.
        """
        stage = self.computing
        self._costs, stage.servers = costs or self._costs, max(1, workers)
        stage.elsewhere = {lane: sum(each.seconds.get(lane.name, 0.0) for each in reports.values()) for lane in LANES}
        before, self._done_elsewhere = self._done_elsewhere, {name: each.done for name, each in reports.items()}
        stage.measure(sum(max(0.0, done - before.get(name, done)) for name, done in self._done_elsewhere.items()))
        for lane, load in self.lanes.items():
            metrics.QUEUE_SECONDS.labels(lane.name).set(self.wait_s(lane))
            metrics.PARSE_RATE.labels(lane.name).set(load.parsing.speed)
        metrics.RATE.set(stage.speed)

    def price(self, models: Sequence[str], edges: int, atoms: int) -> float:
        """Return the predicted seconds of a crystal on a worker, from its merged graph."""
        return price(models, edges, atoms, self._costs)

    def demand(self, models: Sequence[str], size: Size, parsing: float) -> Demand:
        """Return the predicted seconds of a crystal before it is parsed.

        Args:
            models: NAME@VERSION.
            size: of its file; equivalent atoms count once, so that sites are decisive.
            parsing: seconds of a parse process.
        """
        sites = max(1, round(min(size.sites, size.atoms)))
        plain = self.price(models, EDGES_PER_SITE * sites, sites)
        return Demand(parsing, self._correction.corrected(plain), plain)

    def learn(self, flow: Flow, demand: Demand, seconds: float) -> None:
        """Update the predictions, and the demand of the flow, with the seconds of a crystal on a worker."""
        if demand.plain > 0:
            self._correction.observe(demand.plain, seconds)
        self.typical += TYPICAL_WEIGHT * (seconds - self.typical)
        self._remember(flow, Demand(demand.parsing, seconds))

    def wait_s(self, lane: Lane) -> float:
        """Return the predicted seconds until a new crystal of the lane is answered: those of the slower stage."""
        parsing, computing = self.lanes[lane].parsing, self.computing
        return max(parsing.ahead((lane,)) / parsing.rate(), computing.ahead(AHEAD[lane]) / computing.rate())

    def check(self, lane: Lane, connection: str) -> None:
        """Return if a request may be read, by the last demand of its connection; if that is unknown, it may.

        Raises:
            ServiceError: 429 overloaded.
        """
        if (last := self._last.get(connection)) is not None:
            self._ensure_room(lane, *last)

    def admit(self, lane: Lane, flow: Flow, demand: Demand, crystals: int = 1) -> Ticket:
        """Admit a request of crystals that have `demand` each, and count it until its ticket's context ends.

        Raises:
            ServiceError: 429 overloaded.
        """
        self._remember(flow, demand)
        self._ensure_room(lane, flow, Demand(crystals * demand.parsing, crystals * demand.computing))
        return Ticket(self, lane, flow, demand, crystals)

    def _ensure_room(self, lane: Lane, flow: Flow, demand: Demand) -> None:
        wait, most = self.wait_s(lane), self._settings.max_wait_of(lane)
        if wait <= most or not self._busy(lane):
            return
        load = self.lanes[lane]
        _, parsing, computing = load.flows.get(flow, (0, 0.0, 0.0))
        own = (parsing + demand.parsing) / load.parsing.rate(SLOWEST_SHARED)
        own += (computing + demand.computing) / self.computing.rate(SLOWEST_SHARED)
        if own <= most / load.sharers(flow):
            return
        detail = f"{wait:.1f} s of work are waiting, {most:.1f} s may: retry later"
        raise ServiceError("overloaded", detail, min(LONGEST_RETRY_S, max(1, math.ceil(wait - most))))

    def _busy(self, lane: Lane) -> bool:
        """Whether the predicted work keeps a stage busy without a pause."""
        parsing, computing = self.lanes[lane].parsing, self.computing
        if parsing.ahead((lane,)) >= PARSING_S * parsing.servers:
            return True
        few = self.lanes[lane].crystals < FEW * computing.servers
        most = max(BATCHES * self._settings.batch_s, FEW_S if few else 0.0)
        return computing.ahead(AHEAD[lane]) >= most * computing.servers

    def _remember(self, flow: Flow, demand: Demand) -> None:
        if flow.connection:
            self._last[flow.connection] = flow, demand
            self._last.move_to_end(flow.connection)
            if len(self._last) > REMEMBERED:
                self._last.popitem(last=False)
