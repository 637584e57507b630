"""Progress of a client that sends a body or reads a response: bytes earn time, and without them it runs out."""


class Progress:
    """Time that a slow client has left.

    At first it is `patience_s`. Bytes add time at `rate`, but never beyond `patience_s` from now: a client that keeps
    the rate is never cut off, and neither a fast start nor an occasional byte buys a long pause.

    Args:
        patience_s: seconds without a byte, at most.
        rate: bytes a second that suffice.
        now: `time.monotonic()`.
    """

    def __init__(self, patience_s: float, rate: float, now: float) -> None:
        self._patience_s, self._rate = patience_s, rate
        self._due = now + patience_s

    def earn(self, size: int, now: float) -> None:
        """Count transferred bytes."""
        self._due = min(now + self._patience_s, self._due + size / self._rate)

    def left_s(self, now: float) -> float:
        """Return the seconds left; below zero, time has run out."""
        return self._due - now

    def lost_s(self, now: float) -> float:
        """Return the seconds lost by being slower than the rate, and not made up for."""
        return self._patience_s - self.left_s(now)
