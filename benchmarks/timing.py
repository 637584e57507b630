"""Interleaved timing for noisy machines."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="fewer rounds and crystals")
    return made


def arguments(description: str | None) -> argparse.Namespace:
    """Parse the options of a benchmark without others."""
    return parser(description).parse_args()


def interleaved(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Measure the median seconds of each variant, run in turn A B A B after a warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if round_number:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in times.items()}
