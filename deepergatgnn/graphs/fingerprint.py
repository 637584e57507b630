"""One name for a crystal, whichever of its cells was posted: what the result cache goes by.

A node of a merged graph is named by its surroundings, those by theirs, and so on (colour refinement, as in
`symmetry_reduction`), with hashes of what they are instead of numbers in some order. Distances and angles are
rounded first: two descriptions of one crystal whose rounding falls on two sides of a boundary get two names, which
costs a computation and never gives a wrong answer.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.graphs.crystal_graph import CrystalGraph

DISTANCE_STEP = 1e-4  # Å
ANGLE_STEP = 1e-3
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def node_colours(graph: CrystalGraph, rounds: int) -> NDArray[np.uint64]:
    """A hash [n] of what surrounds each node of a merged graph; equal in every cell of the crystal.

    Args:
        graph: merged.
        rounds: shells of neighbours that a name sees: as many as the network has layers, which sees no further.
    """
    distances = np.round(graph.distances / DISTANCE_STEP).astype(np.uint64)
    counts = graph.counts.astype(np.uint64)
    starts = np.cumsum(graph.degrees) - graph.degrees
    angles = np.round(graph.surroundings / ANGLE_STEP).astype(np.int64).astype(np.uint64)
    columns = _mixed(np.arange(angles.shape[1], dtype=np.uint64))
    own = _mixed(graph.atomic_numbers.astype(np.uint64))
    colours: NDArray[np.uint64] = own + _mixed(angles + columns).sum(axis=1, dtype=np.uint64)
    for _ in range(rounds):
        messages = _mixed(colours[graph.senders] + _mixed(distances)) * counts
        colours = _mixed(_mixed(np.add.reduceat(messages, starts)) + colours)
    return colours


def crystal_digest(graph: CrystalGraph, colours: NDArray[np.uint64]) -> str:
    """Hexadecimal name of the crystal: its kinds of atoms, the share of each, the volume of an atom."""
    kinds, inverse = np.unique(colours, return_inverse=True)
    shares = np.bincount(inverse, weights=graph.multiplicities) / graph.n_atoms
    volume = f"{graph.volume / graph.n_atoms:.5g}"
    content = kinds.tobytes() + np.round(shares * 1e6).astype(np.int64).tobytes() + volume.encode()
    return hashlib.sha256(content).hexdigest()


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele et al., doi:10.1145/2660193.2660195)."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
