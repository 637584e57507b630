"""Fixed features of the elements: physical properties on fixed scales, no statistics of any data set."""

import json
import math
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUPS, PERIODS, BLOCKS = 18, 7, "spdf"
SUBSHELL_CAPACITY = {"s": 2, "p": 6, "d": 10, "f": 14}
GAUSSIANS = 10

# name: (low, high, logarithmic). The range covers the elements; outside it the Gaussians vanish.
SCALES: dict[str, tuple[float, float, bool]] = {
    "electronegativity": (0.7, 4.0, False),
    "radius": (0.25, 2.6, False),
    "ionization_energy": (3.8, 24.6, True),
    "electron_affinity": (-1.0, 3.6, False),
    "molar_volume": (4.4, 72.0, True),
    "melting_point": (14.0, 3800.0, True),
    "mendeleev_number": (1.0, 103.0, False),
}

FEATURES = GROUPS + PERIODS + len(BLOCKS) + len(SUBSHELL_CAPACITY) + GAUSSIANS * len(SCALES)


@cache
def _table() -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = json.loads(files("deepergatgnn").joinpath("element_features.json").read_text("utf-8"))
    return table


@cache
def element_symbols() -> frozenset[str]:
    """Symbols of all elements."""
    return frozenset(str(entry["symbol"]) for entry in _table())


def element_symbol(atomic_number: int) -> str:
    """Symbol of an element, for example 26 → Fe."""
    return str(_table()[atomic_number - 1]["symbol"])


def element_features(max_atomic_number: int) -> NDArray[np.float32]:
    """Features of the elements 1 to `max_atomic_number`, one row each.

    One-hot group, period and block, filling of the valence subshells, and seven properties smoothed on ten
    Gaussians each; a property that is not known is all zeros.

    Returns:
        float32 [max_atomic_number, FEATURES], all within [0, 1].
    """
    return np.stack([_features(entry) for entry in _table()[:max_atomic_number]])


def _features(entry: dict[str, Any]) -> NDArray[np.float32]:
    parts = [
        np.eye(GROUPS)[entry["group"] - 1],
        np.eye(PERIODS)[entry["period"] - 1],
        np.eye(len(BLOCKS))[BLOCKS.index(entry["block"])],
        np.array([entry["valence"][shell] / capacity for shell, capacity in SUBSHELL_CAPACITY.items()]),
    ]
    parts += [_smooth(entry[name], *scale) for name, scale in SCALES.items()]
    return np.concatenate(parts).astype(np.float32)


def _smooth(value: float | None, low: float, high: float, logarithmic: bool) -> NDArray[np.float64]:
    if value is None:
        return np.zeros(GAUSSIANS)
    if logarithmic:
        value, low, high = math.log(value), math.log(low), math.log(high)
    centres = np.linspace(low, high, GAUSSIANS)
    width = centres[1] - centres[0]
    smoothed: NDArray[np.float64] = np.exp(-0.5 * ((value - centres) / width) ** 2)
    return smoothed
