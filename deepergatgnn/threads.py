"""Number of torch threads on a CPU.

The networks consist of many small operators, and all threads synchronize after each. Beside other busy processes the
slowest thread may wait long for a core: two threads then compute at a fifth of the speed of one, and on an idle machine
they gain little. The default is therefore few threads, unless more are requested or measured to be clearly faster.
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

FEW_CORES = 4  # up to this number of cores the default is one thread
CORES_A_THREAD = 4  # cores for each thread on larger machines
MARGIN = 1.25  # speed-up over fewer threads that justifies more
ROUNDS = 5
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_chosen: int | None = None


@cache
def available_cores() -> int:
    """Number of cores available to this process by its affinity and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text("ascii").split()
        return max(1, min(cores, math.floor(int(quota) / int(period))))
    except (OSError, ValueError):  # no quota, or "max"
        return cores


def default_threads() -> int:
    """Default number of threads: from the environment, else one on few cores and a quarter of many cores."""
    if any(os.environ.get(name) for name in _VARIABLES):
        return torch.get_num_threads()
    cores = available_cores()
    return 1 if cores <= FEW_CORES else min(torch.get_num_threads(), cores // CORES_A_THREAD)


def torch_threads() -> int:
    """Current number of torch threads; before the first call of `set_threads` that of the environment or the cores."""
    return torch.get_num_threads()


def set_threads(count: int) -> None:
    """Set the number of threads; to be called in the thread that computes."""
    global _chosen  # noqa: PLW0603 - torch's number is one of the process too
    _chosen = count
    torch.set_num_threads(count)


@contextmanager
def few_threads() -> Iterator[None]:
    """Compute with at most the threads that were set, or the default, and restore the number afterwards."""
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
    """Return numbers of threads to measure: one, and powers of two that leave a core to other processes.

    Args:
        cores: number of cores.
        most: largest allowed number of threads.
    """
    limit = max(1, min(most, cores - 1))
    return [2**power for power in range(limit.bit_length())]


def measured(compute: Callable[[], object], counts: Sequence[int], rounds: int = ROUNDS) -> dict[int, float]:
    """Measure the median seconds of `compute` for each number of threads, in turn, so that other load affects all."""
    global _chosen  # noqa: PLW0603
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    before = _chosen, torch.get_num_threads()
    try:
        for round_ in range(rounds + 1):
            for count in counts:
                set_threads(count)
                started = time.perf_counter()
                compute()
                if round_:  # the first round warms up
                    seconds[count].append(time.perf_counter() - started)
    finally:
        _chosen = before[0]
        torch.set_num_threads(before[1])
    return {count: median(each) for count, each in seconds.items()}


def fastest(seconds: Mapping[int, float]) -> int:
    """Return the smallest number of threads that no larger number exceeds by the margin."""
    best = min(seconds)
    for count in sorted(seconds):
        if seconds[count] * MARGIN < seconds[best]:
            best = count
    return best
