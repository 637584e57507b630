"""Python's cyclic garbage collector, told to leave what was imported to itself."""

import gc


def tune_garbage_collector() -> None:
    """Freeze what is there: the collector would go over it again and again, and each time hold everything for long."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
