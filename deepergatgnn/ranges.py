"""Range checks for configurations that are plain dataclasses and need no validation library."""

import math


def check_range(
    name: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Check that a number is finite and within its range.

    Raises:
        ValueError: with the name, the number and the violated bounds.
    """
    violated = [
        f"{word} {limit:g}"
        for word, limit, holds in (
            ("at least", least, least is None or value >= least),
            ("above", above, above is None or value > above),
            ("at most", most, most is None or value <= most),
            ("below", below, below is None or value < below),
        )
        if limit is not None and not holds
    ]
    if violated or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, it must be {' and '.join(violated) or 'finite'}")
