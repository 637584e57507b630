"""Lanes: the classes of requests that queue apart from each other, as one table."""

from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Lane:
    """One class of requests. Lanes are compared by identity; `LANES` holds all of them.

    Attributes:
        name: of its stream in the broker and of its label in the metrics.
        priority: lanes of a smaller number are computed first; a client waits for every answer of priority 0.
        deadline_s: default seconds until a request fails.
        max_wait_s: default predicted seconds of queued work above which requests are refused.
        batch_share: share of a batch's predicted seconds that the lane may take.
        contended_share: the same while requests of priority 0 arrive, which wait until the batch ends.
    """

    name: str
    priority: int
    deadline_s: float
    max_wait_s: float
    batch_share: float = 1.0
    contended_share: float = 1.0

    def __str__(self) -> str:
        return self.name


INTERACTIVE = Lane("interactive", priority=0, deadline_s=30.0, max_wait_s=0.25)
BULK = Lane("bulk", priority=1, deadline_s=300.0, max_wait_s=20.0, batch_share=1 / 2, contended_share=1 / 20)
LANES = (INTERACTIVE, BULK)  # by priority
LANE_BY_NAME = {lane.name: lane for lane in LANES}
