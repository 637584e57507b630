r"""Atoms that the network cannot tell apart, merged: the same answers from a smaller graph.

Message passing sees of an atom its element, the angles around it and, again and again, the multiset of (neighbour,
distance). Atoms that agree in all of that have equal features in every layer, so one of them is enough, if it counts
as many times as it stands for. The classes are the coarsest equitable partition of the graph, found by colour
refinement (Weisfeiler and Leman, 1968; Morris et al., doi:10.1609/aaai.v33i01.33014602 show that it bounds what
message passing can see). Copies of an atom in a supercell and atoms of one symmetry orbit always merge, and no
symmetry search is needed.

With :math:`m_i` atoms in class i and :math:`c_{ik}` equal edges from an atom of it, sums over atoms and edges become
weighted sums, :math:`\sum_i m_i` and :math:`\sum_k c_{ik}`.
"""

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.crystal_graph import CrystalGraph

_LABELS = 2**32
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def merge_equivalent(graph: CrystalGraph) -> CrystalGraph:
    """Merge the atoms that the network cannot tell apart.

    Args:
        graph: of a crystal, merged or not; it is not changed.

    Returns:
        A graph with one node for each class, in the order of their first atoms. Its `n_atoms` and `n_edges` are
        those of the crystal.
    """
    colours = _refine(graph)
    # Classes are numbered in the order of their first atoms: each raises the largest number so far.
    first = np.flatnonzero(np.diff(np.maximum.accumulate(colours), prepend=-1))
    own = np.flatnonzero(first[colours[graph.receivers]] == graph.receivers)  # edges of the first atom of each class
    keys = (colours[graph.receivers[own]] * len(first) + colours[graph.senders[own]]) * _LABELS + _labels(graph)[own]
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))  # of equal edges
    kept = own[order[starts]]
    return CrystalGraph(
        atomic_numbers=graph.atomic_numbers[first],
        senders=colours[graph.senders[kept]].astype(np.int32),
        degrees=np.bincount(colours[graph.receivers[kept]], minlength=len(first)).astype(np.int32),
        distances=graph.distances[kept],
        volume=graph.volume,
        multiplicities=np.bincount(colours, weights=graph.multiplicities).astype(np.int32),
        counts=np.add.reduceat(graph.counts[own[order]], starts).astype(np.int32),
        classes=colours[graph.classes].astype(np.int32),
        surroundings=graph.surroundings[first],
    )


def _labels(graph: CrystalGraph) -> NDArray[np.int64]:
    """A number below `_LABELS` for the distance of each edge [e], in the order of the distances."""
    return graph.distances.view(np.int32).astype(np.int64)  # the bits of positive floats sort as they do


def _refine(graph: CrystalGraph) -> NDArray[np.int64]:
    """Classes [n] of the coarsest equitable partition, numbered in the order of their first nodes."""
    starts = np.cumsum(graph.degrees) - graph.degrees
    labels, counts = _labels(graph), graph.counts.astype(np.uint64)
    colours, n_colours = _kinds(graph)
    while n_colours < graph.n_nodes:
        # A sum of 64-bit hashes stands for the multiset; unequal ones collide once in about 10^19.
        hashes = _mixed((colours[graph.senders] * _LABELS + labels).astype(np.uint64)) * counts
        surroundings = np.add.reduceat(hashes, starts)
        finer, n_finer = _renumbered(_mixed(surroundings) + _mixed(colours.astype(np.uint64)))
        if n_finer == n_colours:
            break
        colours, n_colours = finer, n_finer
    return colours


def _kinds(graph: CrystalGraph) -> tuple[NDArray[np.int64], int]:
    """What a node is before any message: its element and the angles around it."""
    if not graph.surroundings.shape[1]:
        return _renumbered(graph.atomic_numbers)
    angles = (graph.surroundings + np.float32(0)).view(np.uint32)  # the bits of a number; -0 becomes 0
    columns = np.arange(1, angles.shape[1] + 1, dtype=np.uint64) * np.uint64(_LABELS)
    hashes = _mixed(angles + columns).sum(axis=1) + _mixed(graph.atomic_numbers.astype(np.uint64))
    return _renumbered(hashes)


def _renumbered(values: NDArray[np.int64] | NDArray[np.uint64]) -> tuple[NDArray[np.int64], int]:
    """The same partition with numbers from 0, in the order of first appearance; and how many there are."""
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values.tolist()]), len(numbers)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele et al., doi:10.1145/2660193.2660195): a fixed random-looking number for each value."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
