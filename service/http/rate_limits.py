"""Rate limits of API keys: a token bucket of crystals that one request may overdraw."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from deepergatgnn.service.errors import ServiceError

BURST_S = 10.0  # of the rate: the burst of a key whose line names none


@dataclass(frozen=True)
class Rate:
    """Rate limit of a key.

    Attributes:
        per_second: crystals a second in the long run.
        burst: crystals at once after a pause.

    Raises:
        ValueError: if one of them is not positive and finite, or the burst is less than one crystal.
    """

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.per_second) and self.per_second > 0):
            raise ValueError(f"rate is {self.per_second}: give crystals per second, more than 0")
        if not (math.isfinite(self.burst) and self.burst >= 1):
            raise ValueError(f"burst is {self.burst}: give crystals, at least 1")

    @classmethod
    def of(cls, per_second: float, burst: float | None = None) -> "Rate":
        """Return a rate; the default burst is ten seconds of it, and at least one crystal."""
        return cls(per_second, max(1.0, BURST_S * per_second) if burst is None else burst)


class Bucket:
    """Token bucket of one key, for one thread.

    A request for more than the burst is accepted once the bucket is full, and leaves a debt: so none is refused for
    ever, and in any time t at most `per_second` · t + burst + one request are accepted.

    Args:
        rate: at which it fills.
        clock: monotonic seconds.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._level, self._updated = rate.burst, clock()

    def take(self, crystals: int, paid: int = 0) -> float:
        """Take the crystals of a request, of which some are paid for, if there are as many.

        Returns:
            0 if they were taken; else the seconds until all can be.
        """
        now = self._clock()
        self._level = min(self.rate.burst, self._level + (now - self._updated) * self.rate.per_second)
        self._updated = now
        needed = min(crystals, self.rate.burst)
        if needed > self._level + paid:
            return (needed - self._level) / self.rate.per_second
        self._level -= crystals - paid
        return 0.0


@dataclass(frozen=True)
class Caller:
    """Sender of a request.

    Attributes:
        name: of the key; "anonymous" where none is needed.
        bucket: of the key; None: no limit.
        disabled: whether the key is.
    """

    name: str
    bucket: Bucket | None = None
    disabled: bool = False

    def check_enabled(self) -> None:
        """Raise a ServiceError, 403, if the key is disabled."""
        if self.disabled:
            raise ServiceError("key_disabled", f"the key {self.name!r} is disabled: ask for another one")

    def spend(self, n_crystals: int, paid: int = 0) -> None:
        """Count crystals of a request, of which some are paid for, before any work is done for them.

        Raises:
            ServiceError: 429 if the key may not have as many now; the rest is then not counted.
        """
        if self.bucket is None:
            return
        wait_s = self.bucket.take(n_crystals, paid)
        if wait_s > 0:
            rate = self.bucket.rate
            detail = (
                f"the key {self.name!r} may ask for {rate.per_second:g} crystals a second, {rate.burst:g} at once: "
                f"ask for {n_crystals} again in {max(1, math.ceil(wait_s))} s"
            )
            raise ServiceError("rate_limited", detail, math.ceil(wait_s))


ANONYMOUS = Caller("anonymous")
