"""How many threads compute on a CPU.

The networks are many small operators, and at the end of each all threads wait for the last. Beside other busy processes
that one may not have the processor for long, so that two threads do a fifth of what one does, and even alone they gain
little. So a few do, unless more are asked for, or were measured to be faster by a clear margin.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import median

import torch

FEW_CORES = 4  # on which one thread computes, unless more were measured to be faster
CORES_A_THREAD = 4  # on more
MARGIN = 1.25  # times as fast as fewer threads have to be overtaken by
ROUNDS = 5
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_chosen: int | None = None


@cache
def available_cores() -> int:
    """Cores that this process may use: of its affinity, and of the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text("ascii").split()
        return max(1, min(cores, math.floor(int(quota) / int(period))))
    except (OSError, ValueError):  # there is none, or it says "max"
        return cores


def default_threads() -> int:
    """Threads where nothing is measured: those of the environment, else one on few cores, a quarter of many."""
    if any(os.environ.get(name) for name in _VARIABLES):
        return torch.get_num_threads()
    cores = available_cores()
    return 1 if cores <= FEW_CORES else min(torch.get_num_threads(), cores // CORES_A_THREAD)


def torch_threads() -> int:
    """Threads that torch has now; before any were set, those of the environment, or as many as there are cores."""
    return torch.get_num_threads()


def set_threads(count: int) -> None:
    """Compute with so many threads from now on; to be called by the thread that computes, if there are several."""
    global _chosen  # noqa: PLW0603 - torch's number is one of the process too
    _chosen = count
    torch.set_num_threads(count)


@contextmanager
def few_threads() -> Iterator[None]:
    """Compute with no more threads than were set, or with the default; others of the process keep what they have."""
    before = torch.get_num_threads()
    most = default_threads() if _chosen is None else _chosen
    if before <= most:
        yield
        return
    torch.set_num_threads(most)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def candidates(cores: int, most: int) -> list[int]:
    """Numbers of threads worth a measurement: one, and powers of two that leave a core to others.

    Args:
        cores: that there are.
        most: that are allowed.
    """
    limit = max(1, min(most, cores - 1))
    return [2**power for power in range(limit.bit_length())]


def measured(compute: Callable[[], object], counts: Sequence[int], rounds: int = ROUNDS) -> dict[int, float]:
    """Median seconds of some work, by number of threads; in turns, so that others disturb all of them alike."""
    global _chosen  # noqa: PLW0603
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    before = _chosen, torch.get_num_threads()
    try:
        for round_ in range(rounds + 1):
            for count in counts:
                set_threads(count)
                started = time.perf_counter()
                compute()
                if round_:  # the first one warms up
                    seconds[count].append(time.perf_counter() - started)
    finally:
        _chosen = before[0]
        torch.set_num_threads(before[1])
    return {count: median(each) for count, each in seconds.items()}


def fastest(seconds: Mapping[int, float]) -> int:
    """The fewest threads that no greater number overtakes by a clear margin."""
    best = min(seconds)
    for count in sorted(seconds):
        if seconds[count] * MARGIN < seconds[best]:
            best = count
    return best
