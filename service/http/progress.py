"""Progress of a client that sends a body or takes an answer: time that bytes earn, and that runs out without them."""


class Progress:
    """When a client has kept the service waiting for too long.

    It has `patience_s` at first. Bytes earn time at `rate`, but never more than `patience_s` from now: so a client that
    keeps to the rate may go on for ever, and neither a fast start nor a byte now and then buys a long pause.

    Args:
        patience_s: without a byte, at most.
        rate: bytes a second that are enough.
        now: `time.monotonic()`.
    """

    def __init__(self, patience_s: float, rate: float, now: float) -> None:
        self._patience_s, self._rate = patience_s, rate
        self._due = now + patience_s

    def earn(self, size: int, now: float) -> None:
        """Count bytes that went over the wire."""
        self._due = min(now + self._patience_s, self._due + size / self._rate)

    def left_s(self, now: float) -> float:
        """Seconds until the time has run out; below zero, it has."""
        return self._due - now

    def lost_s(self, now: float) -> float:
        """Seconds that the client has kept the service waiting for beyond the rate, and has not made good."""
        return self._patience_s - self.left_s(now)
