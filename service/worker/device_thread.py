"""The thread that computes on a worker's device."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

PATIENCE = 5.0  # times the predicted seconds of a batch, beside `stuck_s`
MAX_PATIENCE_S = 6.0  # of that: a hung worker is detected within ten seconds, unless its batch should take longer
T = TypeVar("T")


class DeviceThread:
    """Runs all work of one device in one thread, since torch keeps a team of threads for each thread that calls it.

    Args:
        device: of the worker.
        stuck_s: seconds that a batch may take beyond a multiple of its prediction.

    Attributes:
        computing_since: `time.monotonic()` of the start of the current batch; None without one.
        predicted_s: predicted seconds of the current batch.
        responded_at: `time.monotonic()` of the last sign of life.
    """

    def __init__(self, device: torch.device, stuck_s: float) -> None:
        self.device = device
        self.computing_since: float | None = None
        self.predicted_s = 0.0
        self.responded_at = time.monotonic()
        self._stuck_s = stuck_s
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")

    async def run(self, work: Callable[[], T]) -> T:
        """Run a function in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def compute(self, work: Callable[[], T], predicted_s: float) -> T:
        """Run the computation of a batch in the thread."""
        self.computing_since, self.predicted_s = time.monotonic(), predicted_s
        try:
            return await self.run(work)
        finally:
            self.computing_since, self.responded_at = None, time.monotonic()

    @property
    def hangs(self) -> bool:
        """Whether the current batch takes much longer than predicted."""
        if self.computing_since is None:
            return False
        allowed = self._stuck_s + PATIENCE * self.predicted_s
        allowed = min(allowed, max(self._stuck_s, MAX_PATIENCE_S, 2 * self.predicted_s))
        return time.monotonic() - self.computing_since > allowed
