"""Who is let in: one rule in predicted seconds of work, for single crystals and for bulk, so that nobody waits in vain.

Every admitted crystal stands for seconds of two stages: of parse processes, and of workers. At first both are predicted
from what is known before it is parsed; once its graph is known, so is what that costs. Their sums over the measured
speed of each stage say how long a new one would wait. Single crystals count single ones only, since bulk work stands
behind them.

While that is longer than it may be, a client is let in only as far as its own work is no more than its share of it: so
a client's wait does not grow with the work that another client posts.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Self

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.messages import LANES, Lane
from deepergatgnn.service.scheduling.cost import Cost, price
from deepergatgnn.service.scheduling.fairness import NOBODY, Flow
from deepergatgnn.service.scheduling.parse_cost import Correction, Size
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry import metrics

SATURATED_S = 0.05  # work that workers must have all through a window for their speed to be believed
WINDOW_S = 0.25
FOLLOW = 0.3  # weight of a new window, and of a new crystal, in the running means
RECOVER = 0.03  # of what lacks to the nominal speed, while too little waits to measure it
SLOWEST = 0.02  # of the nominal speed: nothing is refused for longer because nothing was measured
BATCHES = 2  # of a worker that keep it busy: one is computed, one is ready
FEW = 64  # crystals of a worker, which together cost little more than each of them: so many are let in on a slow host
FEW_S = 1.0  # unless they take longer than this
PARSING_S = 0.1  # predicted, that keeps a parse process busy
EDGES_PER_SITE = 12  # of the graph, before it is known
SLOWEST_SHARED = 0.25  # of the nominal speed: on a host that is slower all are, and each may have its share yet
REMEMBERED = 4096  # connections whose last crystal is known
LONGEST_RETRY_S = 60
AHEAD: Mapping[Lane, Sequence[Lane]] = {"interactive": ("interactive",), "bulk": LANES}  # whose work goes before


class Demand(NamedTuple):
    """Predicted seconds of one crystal.

    Attributes:
        parsing: of a parse process.
        computing: of a worker.
        plain: the same before it was corrected by what others took; 0 where it was not predicted.
    """

    parsing: float
    computing: float
    plain: float = 0.0


class Stage:
    """Work of one kind that was let in, and the speed at which it is done.

    Args:
        servers: that do it.

    Attributes:
        waiting: predicted seconds that were let in and are not done, by lane.
        elsewhere: the same, of other API processes.
        done: predicted seconds so far.
    """

    def __init__(self, servers: int = 1) -> None:
        self.servers = servers
        self.waiting: dict[Lane, float] = dict.fromkeys(LANES, 0.0)
        self.elsewhere: dict[Lane, float] = dict.fromkeys(LANES, 0.0)
        self.done = 0.0
        self.speed = 1.0  # measured over nominal
        self._at_work = 0.0  # of what is waiting, that the servers have in hand
        self._window_began = time.monotonic()
        self._window_least = self._window_done = 0.0

    def rate(self, slowest: float = SLOWEST) -> float:
        """Predicted seconds of work that are done in a second; of a speed that is no less than some."""
        return self.servers * max(slowest, self.speed)

    def ahead(self, lanes: Sequence[Lane]) -> float:
        """Predicted seconds of work that wait in some lanes."""
        return max(0.0, sum(self.waiting[lane] + self.elsewhere[lane] for lane in lanes))

    def change(self, lane: Lane, seconds: float) -> None:
        """Count work that was let in, or is done, or will not be."""
        self.waiting[lane] = max(0.0, self.waiting[lane] + seconds)

    def begin(self, seconds: float) -> None:
        """The servers have some of it in hand now: only from here on do they answer for how long it takes."""
        self._at_work += seconds

    def end(self, seconds: float, *, done: bool) -> None:
        """They have it no longer."""
        self._at_work = max(0.0, self._at_work - seconds)
        self._window_least = min(self._window_least, self._at_work)
        if done:
            self.done += seconds
            self.measure(seconds)

    def measure(self, seconds: float) -> None:
        """Follow the speed: work done in a window all through which more of it was at hand."""
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
        self._window_least = self._at_work


class Ticket:
    """An admitted request: seconds of work that it stands for, crystal by crystal.

    Args:
        admission: what it counts in.
        lane: of its crystals.
        flow: whose it is.
        demand: predicted of each crystal.
        crystals: not yet parsed.
    """

    def __init__(self, admission: "Admission", lane: Lane, flow: Flow, demand: Demand, crystals: int = 1) -> None:
        self.flow = flow
        self._admission, self._lane, self._demand = admission, lane, demand
        self._crystals, self._unparsed, self._known = crystals, crystals, 0.0
        self._change(crystals, demand.parsing * crystals, demand.computing * crystals)
        admission.unparsed[lane] += crystals

    @contextmanager
    def parsing(self) -> Iterator[None]:
        """While a parse process has one of the crystals."""
        stage, seconds, done = self._admission.parsing[self._lane], self._demand.parsing, False
        stage.begin(seconds)
        try:
            yield
            done = True
        except ServiceError:
            raise
        except Exception:  # it was refused, which took its time too
            done = True
            raise
        finally:
            stage.end(seconds, done=done)

    def priced(self, seconds: float) -> None:
        """The cost of one of the crystals is known now, and workers are asked."""
        self._parsed(seconds - self._demand.computing)
        self._known += seconds
        self._admission.computing.begin(seconds)
        self._admission.learn(self.flow, self._demand, seconds)

    def answered(self, seconds: float) -> None:
        """One of the crystals with that cost is done."""
        self._computed(seconds, done=True)

    def failed(self, seconds: float) -> None:
        """One of the crystals with that cost will not be computed any more."""
        self._computed(seconds, done=False)

    def refused(self) -> None:
        """One of the crystals that were not parsed yet will not be computed."""
        self._parsed(-self._demand.computing)
        self._crystals -= 1
        self._change(-1, 0.0, 0.0)

    def hold(self, crystals: int) -> None:
        """Exclude unparsed crystals from the counts while the client does not take answers."""
        demand = self._demand
        self._crystals -= crystals
        self._unparsed -= crystals
        self._admission.unparsed[self._lane] -= crystals
        self._change(-crystals, -crystals * demand.parsing, -crystals * demand.computing)

    def resume(self, crystals: int) -> None:
        """Count them again."""
        self.hold(-crystals)

    def _parsed(self, computing: float) -> None:
        self._unparsed -= 1
        self._admission.unparsed[self._lane] -= 1
        self._change(0, -self._demand.parsing, computing)

    def _computed(self, seconds: float, *, done: bool) -> None:
        self._crystals -= 1
        self._known -= seconds
        self._change(-1, 0.0, -seconds)
        self._admission.computing.end(seconds, done=done)

    def _change(self, crystals: int, parsing: float, computing: float) -> None:
        self._admission.change(self._lane, self.flow, crystals, Demand(parsing, computing))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def close(self) -> None:
        """What is left of the request will not be computed."""
        demand, left = self._demand, self._unparsed
        self._change(-self._crystals, -demand.parsing * left, -self._known - demand.computing * left)
        self._admission.computing.end(self._known, done=False)
        self._admission.unparsed[self._lane] -= left
        self._crystals, self._unparsed, self._known = 0, 0, 0.0


class _Held:
    """What a flow has of a lane."""

    def __init__(self) -> None:
        self.crystals = 0
        self.parsing = self.computing = 0.0


class Admission:
    """The rule of one API process, which knows of the others what they report.

    Args:
        settings: of the service.

    Attributes:
        parsing, computing: the stages; each lane has parse processes of its own.
        unparsed: admitted crystals of each lane whose cost is not known yet.
        typical: seconds of a worker for a crystal, of late.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.parsing: dict[Lane, Stage] = {lane: Stage(settings.parse_processes) for lane in LANES}
        self.computing = Stage()
        self.unparsed: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self.typical = price(("?",), 100, 10, {})
        self._costs: dict[str, Cost] = {}
        self._crystals: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self._held: dict[Lane, dict[Flow, _Held]] = {lane: {} for lane in LANES}
        self._connections: dict[Lane, Counter[str]] = {lane: Counter() for lane in LANES}  # by client
        self._last: OrderedDict[str, tuple[Flow, Demand]] = OrderedDict()  # by connection
        self._correction = Correction()
        self._done_elsewhere: dict[str, float] = {}
        for lane in LANES:
            metrics.ADMITTED.labels(lane).set_function(partial(self._crystals.__getitem__, lane))

    @property
    def report(self) -> dict[str, Any]:
        """For other processes: the predicted seconds that this one waits for, and those done for it so far."""
        return {"seconds": dict(self.computing.waiting), "done": self.computing.done}

    @property
    def crystals(self) -> int:
        """Crystals admitted and not yet answered."""
        return sum(self._crystals.values())

    def follow(self, costs: dict[str, Cost], workers: int, others: Mapping[str, Mapping[str, Any]]) -> None:
        """Take note of what the workers cost, how many they are, and of the reports of other API processes by name."""
        stage = self.computing
        self._costs, stage.servers = costs or self._costs, max(1, workers)
        stage.elsewhere = {lane: sum(other["seconds"].get(lane, 0.0) for other in others.values()) for lane in LANES}
        done = {name: float(other.get("done", 0.0)) for name, other in others.items()}
        stage.measure(sum(max(0.0, now - self._done_elsewhere.get(name, now)) for name, now in done.items()))
        self._done_elsewhere = done
        for lane in LANES:
            metrics.QUEUE_SECONDS.labels(lane).set(self.wait_s(lane))
            metrics.PARSE_RATE.labels(lane).set(self.parsing[lane].speed)
        metrics.RATE.set(stage.speed)

    def price(self, models: Sequence[str], edges: int, atoms: int) -> float:
        """Predicted seconds of a crystal on a worker, once its graph is known."""
        return price(models, edges, atoms, self._costs)

    def demand(self, models: Sequence[str], size: Size, parsing: float) -> Demand:
        """Predicted seconds of a crystal before it is parsed; of its sites, since equivalent atoms count once.

        Args:
            models: NAME@VERSION.
            size: of its file.
            parsing: seconds of a parse process.
        """
        sites = max(1, round(min(size.sites, size.atoms)))
        plain = self.price(models, EDGES_PER_SITE * sites, sites)
        return Demand(parsing, self._correction.corrected(plain), plain)

    def learn(self, flow: Flow, demand: Demand, seconds: float) -> None:
        """Correct what is predicted of workers, now that it is known for a crystal, and remember it for its flow."""
        if demand.plain > 0:
            self._correction.observe(demand.plain, seconds)
        self.typical += FOLLOW / 10 * (seconds - self.typical)
        self._remember(flow, Demand(demand.parsing, seconds))

    def wait_s(self, lane: Lane) -> float:
        """Predicted seconds until a new crystal of the lane is answered: of the stage that takes longer."""
        parsing, computing = self.parsing[lane], self.computing
        return max(parsing.ahead((lane,)) / parsing.rate(), computing.ahead(AHEAD[lane]) / computing.rate())

    def check(self, lane: Lane, flow: Flow = NOBODY, demand: Demand | None = None) -> None:
        """Return if a new request is let in.

        Args:
            lane: of the request.
            flow: whose it is.
            demand: of all its crystals.

        Raises:
            ServiceError: 429 too much is waiting.
        """
        settings = self._settings
        wait, most = self.wait_s(lane), settings.max_bulk_wait_s if lane == "bulk" else settings.max_wait_s
        if wait <= most or not self._busy(lane):
            return
        if demand is not None:
            held = self._held[lane].get(flow)
            own = self._seconds(lane, demand) + (
                self._seconds(lane, Demand(held.parsing, held.computing)) if held is not None else 0.0
            )
            if own <= most / self._sharers(lane, flow):
                return
        detail = f"{wait:.1f} s of work are waiting, {most:.1f} s may: retry later"
        raise ServiceError("overloaded", detail, min(LONGEST_RETRY_S, max(1, math.ceil(wait - most))))

    def check_early(self, lane: Lane, connection: str) -> None:
        """The same before the request is read, by what its connection sent last; where that is not known, return.

        Raises:
            ServiceError: 429 too much is waiting.
        """
        last = self._last.get(connection)
        if last is not None:
            self.check(lane, *last)

    def admit(self, lane: Lane, flow: Flow, demand: Demand, crystals: int = 1) -> Ticket:
        """Let a request in, before any work is spent on it, and count it until the ticket, a context, is closed.

        Args:
            lane: of the request.
            flow: whose it is.
            demand: of each of its crystals.
            crystals: of the request.

        Raises:
            ServiceError: 429 too much is waiting.
        """
        self._remember(flow, demand)
        self.check(lane, flow, Demand(crystals * demand.parsing, crystals * demand.computing))
        return Ticket(self, lane, flow, demand, crystals)

    def change(self, lane: Lane, flow: Flow, crystals: int, seconds: Demand) -> None:
        """Count work that came or went."""
        self.parsing[lane].change(lane, seconds.parsing)
        self.computing.change(lane, seconds.computing)
        self._crystals[lane] += crystals
        held = self._held[lane].get(flow)
        if held is None:
            held = self._held[lane][flow] = _Held()
            self._connections[lane][flow.client] += 1
        held.crystals += crystals
        held.parsing, held.computing = held.parsing + seconds.parsing, held.computing + seconds.computing
        if held.crystals <= 0:
            del self._held[lane][flow]
            self._connections[lane][flow.client] -= 1
            if not self._connections[lane][flow.client]:
                del self._connections[lane][flow.client]

    def _busy(self, lane: Lane) -> bool:
        """Whether a stage has, by what is predicted, all that its servers need to have no pause."""
        parsing, computing = self.parsing[lane], self.computing
        if parsing.ahead((lane,)) >= PARSING_S * parsing.servers:
            return True
        few = self._crystals[lane] < FEW * computing.servers
        most = max(BATCHES * self._settings.batch_s, FEW_S if few else 0.0)
        return computing.ahead(AHEAD[lane]) >= most * computing.servers

    def _seconds(self, lane: Lane, demand: Demand) -> float:
        """How long others wait for it."""
        parsing, computing = self.parsing[lane], self.computing
        return demand.parsing / parsing.rate(SLOWEST_SHARED) + demand.computing / computing.rate(SLOWEST_SHARED)

    def _sharers(self, lane: Lane, flow: Flow) -> int:
        """Into how many parts the time is shared: first by clients, then by the connections of this one."""
        clients = self._connections[lane]
        others = len(clients) - (flow.client in clients)
        connections = clients.get(flow.client, 0) + (flow not in self._held[lane])
        return (others + 1) * connections

    def _remember(self, flow: Flow, demand: Demand) -> None:
        if flow.connection:
            self._last[flow.connection] = flow, demand
            self._last.move_to_end(flow.connection)
            if len(self._last) > REMEMBERED:
                self._last.popitem(last=False)
