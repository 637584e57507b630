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

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import StructureError
from deepergatgnn.graphs.build import HasCell, build_graphs
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.union import cut_whole, side_by_side

_TOGETHER, _ATOMS_TOGETHER = 16, 512  # crystals whose graphs are built at once, and their atoms
_LABELS = 2**32
_LARGEST = 2**63  # what fits into the keys of edges
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST_SHIFT = np.uint64(31)


def reduce_graphs(crystals: Sequence[HasCell], config: GraphConfig) -> list[CrystalGraph | StructureError]:
    """The graphs that networks compute: built, equivalent atoms merged; some crystals at once, which is faster.

    Args:
        crystals: any number of checked structures; they are not changed.
        config: the constants.

    Returns:
        In their order a graph, or the error that `build_graph` raises of that crystal.
    """
    merged: list[CrystalGraph | StructureError] = []
    for group in _groups(crystals):
        found = build_graphs(group, config)
        graphs = iter(merge_all([graph for graph in found if isinstance(graph, CrystalGraph)]))
        merged += [next(graphs) if isinstance(graph, CrystalGraph) else graph for graph in found]
    return merged


def _groups(crystals: Sequence[HasCell]) -> Iterator[Sequence[HasCell]]:
    """Crystals in runs that memory bears."""
    start, atoms = 0, 0
    for index, crystal in enumerate(crystals):
        if index > start and (index - start == _TOGETHER or atoms >= _ATOMS_TOGETHER):
            yield crystals[start:index]
            start, atoms = index, 0
        atoms += len(crystal.atomic_numbers)
    if start < len(crystals):
        yield crystals[start:]


def reduce_graph(graph: CrystalGraph) -> CrystalGraph:
    """Merge the atoms that the network cannot tell apart.

    Args:
        graph: of a crystal, merged or not; it is not changed.

    Returns:
        A graph with one node for each class, in the order of their first atoms. Its `n_atoms` and `n_edges` are
        those of the crystal.
    """
    return merge_all([graph])[0]


def merge_all(graphs: Sequence[CrystalGraph]) -> list[CrystalGraph]:
    """Merge in each of several crystals, which for small ones costs less than one by one.

    Args:
        graphs: any number, merged or not, of one featuriser; they are not changed.

    Returns:
        In their order what `reduce_graph` gives of each alone, to the bit. Arrays of a graph may be views into
        those of all.
    """
    if not graphs:
        return []
    whole = side_by_side(graphs)
    sizes = [graph.n_nodes for graph in graphs]
    colours, n_colours = _refine(whole, sizes)
    starts = np.array([0, *accumulate(n_colours[:-1])])
    classes = colours + starts.repeat(sizes)  # numbered through
    first = np.empty(sum(n_colours), dtype=np.int64)  # node of each class: of several values the last one stays
    first[classes[::-1]] = np.arange(len(classes) - 1, -1, -1)
    is_first = np.zeros(len(classes), dtype=bool)
    is_first[first] = True
    own = is_first.repeat(whole.degrees).nonzero()[0]  # edges of the first atom of each class
    receivers, senders = np.arange(len(first)).repeat(whole.degrees[first]), colours[whole.senders[own]]
    keys = _keys(receivers, senders, _labels(whole)[own], (len(first), max(n_colours)))
    order = keys.argsort(kind="stable")
    begins = np.empty(len(keys), dtype=bool)
    begins[0] = True
    np.not_equal(keys[order[1:]], keys[order[:-1]], out=begins[1:])
    equal = begins.nonzero()[0]  # where equal edges begin
    kept = order[equal]
    degrees = np.bincount(receivers[kept], minlength=len(first))
    merged = CrystalGraph(
        atomic_numbers=whole.atomic_numbers[first],
        senders=senders[kept].astype(np.int32),
        degrees=degrees.astype(np.int32),
        distances=whole.distances[own[kept]],
        volume=whole.volume,
        multiplicities=np.bincount(classes, weights=whole.multiplicities).astype(np.int32),
        counts=np.add.reduceat(whole.counts[own[order]], equal).astype(np.int32),
        classes=colours[whole.classes].astype(np.int32),
        surroundings=whole.surroundings[first],
    )
    links = np.add.reduceat(degrees, starts).tolist()
    atoms, volumes = [graph.n_atoms for graph in graphs], [graph.volume for graph in graphs]
    return cut_whole(merged, n_colours, links, atoms, volumes)


def _keys(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], labels: NDArray[np.int64], sizes: tuple[int, int]
) -> NDArray[np.int64]:
    """A number for each edge that grows with its receiver, its sender and its distance, in that order.

    With ranks for labels it has room for any edges that memory has, such as 10^6 of as many classes.
    """
    n_labels = _LABELS
    if sizes[0] * sizes[1] * n_labels > _LARGEST:
        found, labels = np.unique(labels, return_inverse=True)
        n_labels = len(found)
    return (receivers * sizes[1] + senders) * n_labels + labels


def _labels(graph: CrystalGraph) -> NDArray[np.int64]:
    """A number below `_LABELS` for the distance of each edge [e], in the order of the distances."""
    return graph.distances.view(np.int32).astype(np.int64)  # the bits of positive floats sort as they do


def _refine(whole: CrystalGraph, sizes: Sequence[int]) -> tuple[NDArray[np.int64], list[int]]:
    """The coarsest equitable partition of each crystal.

    Args:
        whole: the crystals side by side.
        sizes: nodes of each.

    Returns:
        The class of each node [n], in each crystal from 0 in the order of their first nodes; how many each has.
    """
    starts = whole.degrees.cumsum() - whole.degrees
    senders, labels, counts = whole.senders.astype(np.int64), _labels(whole), whole.counts.astype(np.uint64)
    places = list(pairwise(accumulate(sizes, initial=0)))
    kinds = _kinds(whole).tolist()
    colours: list[int] = []
    n_colours: list[int] = []
    for start, end in places:
        own, n_own = _renumbered(kinds[start:end])
        colours += own
        n_colours.append(n_own)
    coarse = [index for index, size in enumerate(sizes) if n_colours[index] < size]  # may become finer
    while coarse:
        # A sum of 64-bit hashes stands for the multiset; unequal ones collide once in about 10^19.
        numbers = np.array(colours)
        hashes = _mixed((numbers[senders] * _LABELS + labels).view(np.uint64)) * counts
        surroundings = np.add.reduceat(hashes, starts)
        finer = (_mixed(surroundings) + _mixed(numbers.view(np.uint64))).tolist()
        still = []
        for index in coarse:
            start, end = places[index]
            own, n_own = _renumbered(finer[start:end])
            if n_own != n_colours[index]:
                colours[start:end], n_colours[index] = own, n_own
                if n_own < sizes[index]:
                    still.append(index)
        coarse = still
    return np.array(colours), n_colours


def _kinds(whole: CrystalGraph) -> NDArray[np.int64] | NDArray[np.uint64]:
    """What a node is before any message: a number for its element and the angles around it."""
    if not whole.surroundings.shape[1]:
        return whole.atomic_numbers
    angles = (whole.surroundings + np.float32(0)).view(np.uint32)  # the bits of a number; -0 becomes 0
    columns = np.arange(1, angles.shape[1] + 1, dtype=np.uint64) * np.uint64(_LABELS)
    result: NDArray[np.uint64] = _mixed(angles + columns).sum(axis=1) + _mixed(whole.atomic_numbers.astype(np.uint64))
    return result


def _renumbered(values: Iterable[int]) -> tuple[list[int], int]:
    """The same partition with numbers from 0, in the order of first appearance; and how many there are."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return [numbers[value] for value in values], len(numbers)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele et al., doi:10.1145/2660193.2660195): a fixed random-looking number for each value."""
    values = values + _GOLDEN
    for shift, factor in _MIXERS:
        values ^= values >> shift
        values *= factor
    return values ^ (values >> _LAST_SHIFT)
