"""Who is let in: one rule in predicted seconds of work, for single crystals and for bulk, so that nobody waits in vain.

Every admitted crystal stands for seconds on a worker: at first what crystals cost on average, once its graph is known
what that costs. Their sum over the measured speed of all workers is how long a new one would wait. Single crystals
count single ones only, since bulk work stands behind them.
"""

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self

from service import metrics
from service.cost import Cost, price
from service.entries import LANES, Lane
from service.errors import ServiceError
from service.settings import Settings

SATURATED_S = 0.05  # work that workers must have all through a window for their speed to be believed
WINDOW_S = 0.25
FOLLOW = 0.3  # weight of a new window, and of a new crystal, in the running means
RECOVER = 0.03  # of what lacks to the nominal speed, while too little waits to measure it
RETRY_MOST_S = 60  # a client comes again by then, whatever was predicted
SLOWEST = 0.02  # of the workers' nominal speed: nothing is refused for longer because nothing was measured


class Ticket:
    """An admitted request: seconds of work that it stands for, crystal by crystal.

    Args:
        admission: what it counts in.
        lane: of its crystals.
        crystals: not yet parsed.
    """

    def __init__(self, admission: "Admission", lane: Lane, crystals: int) -> None:
        self._admission, self._lane = admission, lane
        self._crystals, self._unparsed, self._typical, self._known = crystals, crystals, admission.typical, 0.0
        admission.change(lane, crystals, self._typical * crystals)
        admission.unparsed[lane] += crystals

    def priced(self, seconds: float) -> None:
        """The cost of one of the crystals is known now."""
        self._parsed()
        self._known += seconds
        self._admission.computing(seconds)
        self._admission.change(self._lane, 0, seconds - self._typical)
        self._admission.typical += (seconds - self._admission.typical) * FOLLOW / 10

    def answered(self, seconds: float) -> None:
        """One of the crystals with that cost is done."""
        self.failed(seconds)
        self._admission.completed(seconds)

    def failed(self, seconds: float) -> None:
        """One of the crystals with that cost will not be computed any more."""
        self._crystals -= 1
        self._known -= seconds
        self._admission.computing(-seconds)
        self._admission.change(self._lane, -1, -seconds)

    def refused(self) -> None:
        """One of the crystals that were not parsed yet will not be computed."""
        self._crystals -= 1
        self._parsed()
        self._admission.change(self._lane, -1, -self._typical)

    def hold(self, crystals: int) -> None:
        """So many crystals, not yet parsed, wait for the client to take answers: they are in nobody's way."""
        self._crystals -= crystals
        self._unparsed -= crystals
        self._admission.unparsed[self._lane] -= crystals
        self._admission.change(self._lane, -crystals, -crystals * self._typical)

    def resume(self, crystals: int) -> None:
        """They do not any more."""
        self.hold(-crystals)

    def _parsed(self) -> None:
        self._unparsed -= 1
        self._admission.unparsed[self._lane] -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def close(self) -> None:
        """What is left of the request will not be computed."""
        self._admission.change(self._lane, -self._crystals, -self._known - self._unparsed * self._typical)
        self._admission.unparsed[self._lane] -= self._unparsed
        self._admission.computing(-self._known)
        self._crystals, self._unparsed, self._known = 0, 0, 0.0


class Admission:
    """The rule of one API process, which knows of the others what they report.

    Args:
        settings: of the service.

    Attributes:
        unparsed: admitted crystals of each lane whose cost is not known yet.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.unparsed: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self._costs: dict[str, Cost] = {}
        self._workers = 1
        self._here: dict[Lane, float] = dict.fromkeys(LANES, 0.0)
        self._crystals: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self._elsewhere: dict[Lane, float] = dict.fromkeys(LANES, 0.0)
        self._computing = 0.0  # seconds of those that workers have
        self._speed = 1.0  # measured over nominal
        self._window_began = time.monotonic()
        self._window_least = 0.0
        self._window_done = 0.0
        self._done = 0.0
        self._done_elsewhere: dict[str, float] = {}
        self.typical = price(("?",), 100, 10, {})
        for lane in LANES:
            metrics.ADMITTED.labels(lane).set_function(partial(self._crystals.__getitem__, lane))

    @property
    def report(self) -> dict[str, Any]:
        """For other processes: the predicted seconds that this one waits for, and those done for it so far."""
        return {"seconds": dict(self._here), "done": self._done}

    @property
    def crystals(self) -> int:
        """Crystals admitted and not yet answered."""
        return sum(self._crystals.values())

    def follow(self, costs: dict[str, Cost], workers: int, others: Mapping[str, Mapping[str, Any]]) -> None:
        """Take note of what the workers cost, how many they are, and of the reports of other API processes by name."""
        self._costs, self._workers = costs or self._costs, max(1, workers)
        self._elsewhere = {lane: sum(other["seconds"].get(lane, 0.0) for other in others.values()) for lane in LANES}
        done = {name: float(other.get("done", 0.0)) for name, other in others.items()}
        self._window_done += sum(max(0.0, now - self._done_elsewhere.get(name, now)) for name, now in done.items())
        self._done_elsewhere = done
        for lane in LANES:
            metrics.QUEUE_SECONDS.labels(lane).set(self.wait_s(lane))
        metrics.RATE.set(self._speed)

    def price(self, models: Sequence[str], edges: int, atoms: int) -> float:
        """Predicted seconds of a crystal on a worker."""
        return price(models, edges, atoms, self._costs)

    def wait_s(self, lane: Lane) -> float:
        """Predicted seconds until a new crystal of the lane is answered."""
        ahead = self._here["interactive"] + self._elsewhere["interactive"]
        if lane == "bulk":
            ahead += self._here["bulk"] + self._elsewhere["bulk"]
        return max(0.0, ahead) / self._rate

    @property
    def _rate(self) -> float:
        """Predicted seconds of work that are done in a second."""
        return self._workers * max(SLOWEST, self._speed)

    def check(self, lane: Lane) -> None:
        """Return if a new request of the lane is let in.

        Raises:
            ServiceError: 429 too much is waiting.
        """
        settings = self._settings
        if self._crystals[lane] < settings.min_waiting:
            return
        wait, most = self.wait_s(lane), settings.max_bulk_wait_s if lane == "bulk" else settings.max_wait_s
        if wait > most:
            detail = f"{wait:.1f} s of work are waiting, {most:.1f} s may: retry later"
            raise ServiceError(429, "overloaded", detail, min(RETRY_MOST_S, max(1, math.ceil(wait - most))))

    def admit(self, lane: Lane, crystals: int = 1) -> Ticket:
        """Let a request in, before any work is spent on it, and count it until the ticket, a context, is closed.

        Raises:
            ServiceError: 429 too much is waiting.
        """
        self.check(lane)
        return Ticket(self, lane, crystals)

    def change(self, lane: Lane, crystals: int, seconds: float) -> None:
        """Count work that came or went."""
        self._here[lane] = max(0.0, self._here[lane] + seconds)
        self._crystals[lane] += crystals

    def computing(self, seconds: float) -> None:
        """Count work that workers were given or have done; what waits for a parser or a client says nothing of them."""
        self._computing = max(0.0, self._computing + seconds)
        self._window_least = min(self._window_least, self._computing)

    def completed(self, seconds: float) -> None:
        """Measure the speed: work done in a window all through which workers had more of it."""
        self._done += seconds
        self._window_done += seconds
        now = time.monotonic()
        elapsed = now - self._window_began
        if elapsed < WINDOW_S:
            return
        if self._window_least > SATURATED_S:
            measured = self._window_done / elapsed / self._workers
            self._speed += FOLLOW * (measured - self._speed)
        else:
            self._speed += RECOVER * max(0.0, 1.0 - self._speed)
        self._window_began, self._window_done = now, 0.0
        self._window_least = self._computing
