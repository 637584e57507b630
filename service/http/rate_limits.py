"""Rates of callers: a bucket of crystals that fills evenly and may be overdrawn by one request."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from deepergatgnn.service.errors import ServiceError

BURST_S = 10.0  # of its rate that a key may spend at once, if its line does not say


@dataclass(frozen=True)
class Rate:
    """What a key may spend.

    Attributes:
        per_second: crystals a second in the long run.
        burst: crystals at once after a pause.
    """

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        """Refuse what is no rate.

        Raises:
            ValueError: if one of them is not positive and finite, or less than one crystal fits.
        """
        if not (math.isfinite(self.per_second) and self.per_second > 0):
            raise ValueError(f"rate is {self.per_second}: give crystals per second, more than 0")
        if not (math.isfinite(self.burst) and self.burst >= 1):
            raise ValueError(f"burst is {self.burst}: give crystals, at least 1")

    @classmethod
    def of(cls, per_second: float, burst: float | None = None) -> "Rate":
        """A rate; `burst` is ten seconds of it, and at least one crystal, if not given.

        Raises:
            ValueError: as the class.
        """
        return cls(per_second, max(1.0, BURST_S * per_second) if burst is None else burst)


class Bucket:
    """What is left of a rate. Not for several threads: the event loop's alone.

    A request for more than the burst is let in once the bucket is full, and its debt is waited for afterwards: so none
    is refused for ever, and in any time t no more than `per_second` · t + burst + one request is let in.

    Args:
        rate: how it fills.
        clock: seconds, never backwards.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._level, self._at = rate.burst, clock()

    def take(self, crystals: int, paid: int = 0) -> float:
        """Take crystals, if there are as many.

        Args:
            crystals: of the request.
            paid: of them, taken before; they stay taken if the others cannot be.

        Returns:
            0 if they were taken; else nothing more was, and this is the seconds until all can be.
        """
        now = self._clock()
        self._level = min(self.rate.burst, self._level + (now - self._at) * self.rate.per_second)
        self._at = now
        wanted = min(crystals, self.rate.burst)
        if wanted > self._level + paid:
            return (wanted - self._level) / self.rate.per_second
        self._level -= crystals - paid
        return 0.0


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        name: of the key; "anonymous" where none is asked for.
        bucket: of the key; None: no rate.
        disabled: known, and not let in.
    """

    name: str
    bucket: Bucket | None = None
    disabled: bool = False

    def admit(self) -> None:
        """Return if the caller is let in.

        Raises:
            ServiceError: 403, for a disabled key.
        """
        if self.disabled:
            raise ServiceError("key_disabled", f"the key {self.name!r} is disabled: ask for another one")

    def spend(self, n_crystals: int, paid: int = 0) -> None:
        """Count crystals that the caller asks for, before any work is done for them.

        Args:
            n_crystals: of the request.
            paid: of them, counted before.

        Raises:
            ServiceError: 429 `rate_limited` if they are more than the key may have now; no other is then counted.
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
