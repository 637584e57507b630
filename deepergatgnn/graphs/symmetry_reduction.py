r"""Symmetry reduction: merges equivalent atoms into one node; the smaller graph gives the same predictions.

A layer of message passing depends on the element of an atom, its angular features, and the multiset of (neighbour,
distance). Atoms that agree in all of these have equal features in every layer, so one node can represent them, with
their number as its multiplicity. The classes are the coarsest equitable partition of the graph, found by colour
refinement (Weisfeiler and Leman, 1968; Morris et al., doi:10.1609/aaai.v33i01.33014602 show that it bounds what
message passing distinguishes). Copies of an atom in a supercell and atoms of one symmetry orbit always merge; no
symmetry search is needed.

With :math:`m_i` atoms in class i and :math:`c_{ik}` equal edges of each of them, sums over atoms and edges become
weighted sums, :math:`\sum_i m_i` and :math:`\sum_k c_{ik}`.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import StructureError
from deepergatgnn.graphs.build import HasCell, build_graphs
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.union import disjoint_union, split_union

_GROUP_CRYSTALS, _GROUP_ATOMS = 16, 512  # limits of a group of crystals whose graphs are built at once
_LABELS = 2**32
_LARGEST = 2**63  # end of the range of an edge key
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST_SHIFT = np.uint64(31)


def reduce_graphs(crystals: Sequence[HasCell], config: GraphConfig) -> list[CrystalGraph | StructureError]:
    """Build and reduce the graphs of crystals, in groups for speed.

    Args:
        crystals: any number of checked structures; they are not changed.
        config: constants of the featuriser.

    Returns:
        For each crystal the reduced graph, or the error that `build_graph` raises.
    """
    merged: list[CrystalGraph | StructureError] = []
    for group in _groups(crystals):
        found = build_graphs(group, config)
        graphs = iter(merge_all([graph for graph in found if isinstance(graph, CrystalGraph)]))
        merged += [next(graphs) if isinstance(graph, CrystalGraph) else graph for graph in found]
    return merged


def _groups(crystals: Sequence[HasCell]) -> Iterator[Sequence[HasCell]]:
    """Split crystals into groups of limited size."""
    start, atoms = 0, 0
    for index, crystal in enumerate(crystals):
        if index > start and (index - start == _GROUP_CRYSTALS or atoms >= _GROUP_ATOMS):
            yield crystals[start:index]
            start, atoms = index, 0
        atoms += len(crystal.atomic_numbers)
    if start < len(crystals):
        yield crystals[start:]


def reduce_graph(graph: CrystalGraph) -> CrystalGraph:
    """Merge equivalent atoms of a graph.

    Args:
        graph: reduced or not; it is not changed.

    Returns:
        A graph with one node for each class, in the order of their first atoms; `n_atoms` and `n_edges` are the same.
    """
    return merge_all([graph])[0]


def merge_all(graphs: Sequence[CrystalGraph]) -> list[CrystalGraph]:
    """Merge equivalent atoms in each of several graphs at once, which is faster for small crystals.

    Args:
        graphs: any number, reduced or not, of one featuriser; they are not changed.

    Returns:
        For each graph, bit for bit, the result of `reduce_graph`. Arrays of different graphs may be views of one
        array.
    """
    if not graphs:
        return []
    union = disjoint_union(graphs)
    sizes = [graph.n_nodes for graph in graphs]
    colours, n_colours = _refine(union, sizes)
    starts = np.array([0, *accumulate(n_colours[:-1])])
    classes = colours + starts.repeat(sizes)  # numbered over all crystals
    first = np.empty(sum(n_colours), dtype=np.int64)  # first node of each class: the last assignment wins
    first[classes[::-1]] = np.arange(len(classes) - 1, -1, -1)
    is_first = np.zeros(len(classes), dtype=bool)
    is_first[first] = True
    own = is_first.repeat(union.degrees).nonzero()[0]  # edges of the first atom of each class
    receivers, senders = np.arange(len(first)).repeat(union.degrees[first]), colours[union.senders[own]]
    keys = _keys(receivers, senders, _labels(union)[own], (len(first), max(n_colours)))
    order = keys.argsort(kind="stable")
    begins = np.empty(len(keys), dtype=bool)
    begins[0] = True
    np.not_equal(keys[order[1:]], keys[order[:-1]], out=begins[1:])
    equal = begins.nonzero()[0]  # start of each run of equal edges
    kept = order[equal]
    degrees = np.bincount(receivers[kept], minlength=len(first))
    merged = CrystalGraph(
        atomic_numbers=union.atomic_numbers[first],
        senders=senders[kept].astype(np.int32),
        degrees=degrees.astype(np.int32),
        distances=union.distances[own[kept]],
        volume=union.volume,
        multiplicities=np.bincount(classes, weights=union.multiplicities).astype(np.int32),
        counts=np.add.reduceat(union.counts[own[order]], equal).astype(np.int32),
        node_of_atom=colours[union.node_of_atom].astype(np.int32),
        angular_features=union.angular_features[first],
    )
    links = np.add.reduceat(degrees, starts).tolist()
    atoms, volumes = [graph.n_atoms for graph in graphs], [graph.volume for graph in graphs]
    return split_union(merged, n_colours, links, atoms, volumes)


def _keys(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], labels: NDArray[np.int64], sizes: tuple[int, int]
) -> NDArray[np.int64]:
    """Key of each edge, ordered by receiver, sender and distance.

    If the keys exceed 64 bits, ranks replace the distance labels; then 10^6 edges of 10^6 classes fit.
    """
    n_labels = _LABELS
    if sizes[0] * sizes[1] * n_labels > _LARGEST:
        found, labels = np.unique(labels, return_inverse=True)
        n_labels = len(found)
    return (receivers * sizes[1] + senders) * n_labels + labels


def _labels(graph: CrystalGraph) -> NDArray[np.int64]:
    """Label of the distance of each edge [e], below `_LABELS` and ordered as the distances are."""
    return graph.distances.view(np.int32).astype(np.int64)  # the bits of positive floats are ordered as the floats


def _refine(union: CrystalGraph, sizes: Sequence[int]) -> tuple[NDArray[np.int64], list[int]]:
    """Find the coarsest equitable partition of each crystal.

    Args:
        union: disjoint union of the graphs.
        sizes: number of nodes of each graph.

    Returns:
        Class of each node [n], numbered from 0 in each crystal in the order of the first nodes, and the number of
        classes of each crystal.
    """
    starts = union.degrees.cumsum() - union.degrees
    senders, labels, counts = union.senders.astype(np.int64), _labels(union), union.counts.astype(np.uint64)
    bounds = list(pairwise(accumulate(sizes, initial=0)))
    labels_of_nodes = _node_labels(union).tolist()
    colours: list[int] = []
    n_colours: list[int] = []
    for start, end in bounds:
        own, n_own = _renumbered(labels_of_nodes[start:end])
        colours += own
        n_colours.append(n_own)
    coarse = [index for index, size in enumerate(sizes) if n_colours[index] < size]  # may become finer
    while coarse:
        # A sum of 64-bit hashes represents the multiset; different multisets collide with probability near 10^-19.
        numbers = np.array(colours)
        hashes = _mixed((numbers[senders] * _LABELS + labels).view(np.uint64)) * counts
        neighbourhoods = np.add.reduceat(hashes, starts)
        finer = (_mixed(neighbourhoods) + _mixed(numbers.view(np.uint64))).tolist()
        refinable = []
        for index in coarse:
            start, end = bounds[index]
            own, n_own = _renumbered(finer[start:end])
            if n_own != n_colours[index]:
                colours[start:end], n_colours[index] = own, n_own
                if n_own < sizes[index]:
                    refinable.append(index)
        coarse = refinable
    return np.array(colours), n_colours


def _node_labels(union: CrystalGraph) -> NDArray[np.int64] | NDArray[np.uint64]:
    """Label of each node before any message: its element and its angular features."""
    if not union.angular_features.shape[1]:
        return union.atomic_numbers
    angles = (union.angular_features + np.float32(0)).view(np.uint32)  # the bits of a number; -0 becomes 0
    columns = np.arange(1, angles.shape[1] + 1, dtype=np.uint64) * np.uint64(_LABELS)
    result: NDArray[np.uint64] = _mixed(angles + columns).sum(axis=1) + _mixed(union.atomic_numbers.astype(np.uint64))
    return result


def _renumbered(values: Iterable[int]) -> tuple[list[int], int]:
    """Renumber a partition from 0 in the order of first appearance; return it with the number of classes."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return [numbers[value] for value in values], len(numbers)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele et al., doi:10.1145/2660193.2660195)."""
    values = values + _GOLDEN
    for shift, factor in _MIXERS:
        values ^= values >> shift
        values *= factor
    return values ^ (values >> _LAST_SHIFT)
