r"""Atoms that the network cannot tell apart, merged: the same answers from a smaller graph.

Message passing sees of an atom its element and, again and again, the multiset of (neighbour, distance). Atoms that
agree in all of that have equal features in every layer, so one of them is enough, if it counts as many times as it
stands for. The classes are the coarsest equitable partition of the graph, found by colour refinement (Weisfeiler and
Leman, 1968; Morris et al., doi:10.1609/aaai.v33i01.33014602 show that it bounds what message passing can see). Copies
of an atom in a supercell and atoms of one symmetry orbit always merge, and no symmetry search is needed.

With :math:`m_i` atoms in class i and :math:`c_{ik}` equal edges from an atom of it, sums over atoms and edges become
weighted sums, :math:`\sum_i m_i` and :math:`\sum_k c_{ik}`.
"""

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.graph import CrystalGraph

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def merge_equivalent(graph: CrystalGraph) -> CrystalGraph:
    """Merge the atoms that the network cannot tell apart.

    Args:
        graph: of a crystal, merged or not; it is not changed.

    Returns:
        A graph with one node for each class, in the order of their first atoms. Its `n_atoms` and `n_edges` are
        those of the crystal.
    """
    labels = np.unique(graph.distances, return_inverse=True)[1].astype(np.int64)
    n_labels = int(labels.max()) + 1
    colours = _refine(graph, labels, n_labels)
    n_classes = int(colours.max()) + 1
    first = np.full(n_classes, graph.n_nodes)
    np.minimum.at(first, colours, np.arange(graph.n_nodes))
    own = np.flatnonzero(first[colours[graph.receivers]] == graph.receivers)  # edges of the first atom of each class
    keys = (colours[graph.receivers[own]] * n_classes + colours[graph.senders[own]]) * n_labels + labels[own]
    _, where, inverse = np.unique(keys, return_index=True, return_inverse=True)
    kept = own[where]
    return CrystalGraph(
        atomic_numbers=graph.atomic_numbers[first],
        senders=colours[graph.senders[kept]].astype(np.int32),
        degrees=np.bincount(colours[graph.receivers[kept]], minlength=n_classes).astype(np.int32),
        distances=graph.distances[kept],
        volume=graph.volume,
        multiplicities=np.bincount(colours, weights=graph.multiplicities).astype(np.int32),
        counts=np.bincount(inverse, weights=graph.counts[own]).astype(np.int32),
        classes=colours[graph.classes].astype(np.int32),
    )


def _refine(graph: CrystalGraph, labels: NDArray[np.int64], n_labels: int) -> NDArray[np.int64]:
    """Classes [n] of the coarsest equitable partition, numbered in the order of their first nodes."""
    starts = np.cumsum(graph.degrees) - graph.degrees
    colours = _renumbered(graph.atomic_numbers.astype(np.uint64))
    n_colours = int(colours.max()) + 1
    counts = graph.counts.astype(np.uint64)
    while n_colours < graph.n_nodes:
        # A sum of 64-bit hashes stands for the multiset; unequal ones collide once in about 10^19.
        hashes = _mixed((colours[graph.senders] * n_labels + labels).astype(np.uint64)) * counts
        surroundings = np.add.reduceat(hashes, starts)
        finer = _renumbered(_mixed(surroundings) + _mixed(colours.astype(np.uint64)))
        n_finer = int(finer.max()) + 1
        if n_finer == n_colours:
            break
        colours, n_colours = finer, n_finer
    return colours


def _renumbered(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The same partition with numbers from 0, in the order of first appearance."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele et al., doi:10.1145/2660193.2660195): a fixed random-looking number for each value."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
