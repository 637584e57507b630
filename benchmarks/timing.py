"""Fair comparisons on noisy machines."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has, for more to be added."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="fewer rounds and crystals")
    return made


def arguments(description: str | None) -> argparse.Namespace:
    """The options of a benchmark that has no others."""
    return parser(description).parse_args()


def interleaved(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each variant, run in turn A B A B after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if round_number:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in times.items()}
