"""Garbage collection of long-lived processes."""

import gc


def tune_garbage_collector() -> None:
    """Exempt all present objects from collection, and collect more rarely: a full collection stalls the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
