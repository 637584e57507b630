"""Fingerprint of a crystal, independent of the cell that describes it: the key of the result cache.

Colour refinement, as in `symmetry_reduction`, with hashes instead of consecutive numbers: the colour of a node is
updated from the colours of its neighbours. Distances and angles are rounded first. Two descriptions of one crystal
that round differently get two fingerprints, which costs one computation and never gives a wrong answer.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.graphs.crystal_graph import CrystalGraph

DISTANCE_STEP = 1e-4  # Å
ANGLE_STEP = 1e-3
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def node_colours(graph: CrystalGraph, rounds: int) -> NDArray[np.uint64]:
    """Hash the neighbourhood of each node [n]; the hashes are the same for every cell of the crystal.

    Args:
        graph: reduced.
        rounds: shells of neighbours that a hash covers: the number of layers of the network.
    """
    distances = np.round(graph.distances / DISTANCE_STEP).astype(np.uint64)
    counts = graph.counts.astype(np.uint64)
    starts = np.cumsum(graph.degrees) - graph.degrees
    angles = np.round(graph.angular_features / ANGLE_STEP).astype(np.int64).astype(np.uint64)
    columns = _mixed(np.arange(angles.shape[1], dtype=np.uint64))
    own = _mixed(graph.atomic_numbers.astype(np.uint64))
    colours: NDArray[np.uint64] = own + _mixed(angles + columns).sum(axis=1, dtype=np.uint64)
    for _ in range(rounds):
        messages = _mixed(colours[graph.senders] + _mixed(distances)) * counts
        colours = _mixed(_mixed(np.add.reduceat(messages, starts)) + colours)
    return colours


def crystal_digest(graph: CrystalGraph, colours: NDArray[np.uint64]) -> str:
    """Hexadecimal digest of a crystal: its node colours, their fractions of the atoms, and the volume of an atom."""
    labels, inverse = np.unique(colours, return_inverse=True)
    fractions = np.bincount(inverse, weights=graph.multiplicities) / graph.n_atoms
    volume = f"{graph.volume / graph.n_atoms:.5g}"
    content = labels.tobytes() + np.round(fractions * 1e6).astype(np.int64).tobytes() + volume.encode()
    return hashlib.sha256(content).hexdigest()


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele et al., doi:10.1145/2660193.2660195)."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
