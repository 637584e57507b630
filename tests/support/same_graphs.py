"""When two graphs are the same to the bit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.graphs.crystal_graph import CrystalGraph


def same_array(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def assert_same_graph(one: CrystalGraph, other: CrystalGraph) -> None:
    for name, value in vars(other).items():
        found = getattr(one, name)
        assert type(found) is type(value), name
        assert same_array(found, value) if isinstance(value, np.ndarray) else found == value, name
