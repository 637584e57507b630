"""Structure → crystal graph: a pure function, independent of the cell that describes the crystal. Needs numpy only."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import StructureError
from deepergatgnn.graphs.angular_features import compute_angular_features, n_angular_features
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.neighbours import Cells, Edges, Found, nearest_neighbours
from deepergatgnn.graphs.union import split_union

_ELEMENTS = 1000  # larger than any atomic number


class HasCell(Protocol):
    """Protocol of a crystal that has a graph, such as `structures.Crystal`."""

    @property
    def lattice(self) -> NDArray[np.float64]:
        """[3, 3], rows in Å."""

    @property
    def atomic_numbers(self) -> NDArray[np.int64]:
        """[N]."""

    @property
    def frac_coords(self) -> NDArray[np.float64]:
        """[N, 3]."""


def build_graph(crystal: HasCell, config: GraphConfig) -> CrystalGraph:
    """Connect each atom to its nearest periodic images, the last shell complete.

    Args:
        crystal: a checked structure; it is not changed.
        config: constants of the featuriser.

    Returns:
        The graph with one node for each atom: its `neighbours` nearest images within `cutoff`, and the rest of the
        last shell.

    Raises:
        StructureError: `too_sparse` if an atom has no neighbour within the cutoff, `too_many_edges`,
            `unknown_element` for an element outside the composition vector, `no_structure` without atoms.
    """
    (graph,) = build_graphs([crystal], config)
    if isinstance(graph, StructureError):
        raise graph
    return graph


def build_graphs(crystals: Sequence[HasCell], config: GraphConfig) -> list[CrystalGraph | StructureError]:
    """Build the graphs of several crystals at once, which is faster for small crystals.

    Args:
        crystals: any number of checked structures; they are not changed. Memory must hold the edges of all of them.
        config: constants of the featuriser.

    Returns:
        For each crystal, bit for bit, the graph that `build_graph` returns or the error that it raises. Arrays of
        different graphs may be views of one array.
    """
    if not crystals:
        return []
    numbers = [crystal.atomic_numbers for crystal in crystals]
    refusals: list[StructureError | None] = [None] * len(numbers)
    if not (all(map(len, numbers)) and _known(np.concatenate(numbers), config)):
        refusals = [_element_refusal(own, config) for own in numbers]
    accepted = [crystal for crystal, refusal in zip(crystals, refusals, strict=True) if not refusal]
    built = iter(_built(accepted, config) if accepted else ())
    return [refusal or next(built) for refusal in refusals]


def _known(numbers: NDArray[np.int64], config: GraphConfig) -> bool:
    """Whether the composition vector covers all of at least one element."""
    return bool(np.minimum.reduce(numbers) >= 1 and np.maximum.reduce(numbers) <= config.max_atomic_number)


def _element_refusal(numbers: NDArray[np.int64], config: GraphConfig) -> StructureError | None:
    """Return the error of a crystal without atoms or with an unknown element."""
    if not len(numbers):
        return StructureError("no_structure", "the structure has no atoms: post a crystal with at least one site")
    if _known(numbers, config):
        return None
    first = int(numbers[(numbers < 1) | (numbers > config.max_atomic_number)][0])
    return StructureError("unknown_element", f"atomic number {first} is outside 1 to {config.max_atomic_number}")


def _built(crystals: Sequence[HasCell], config: GraphConfig) -> list[CrystalGraph | StructureError]:
    """Build the graphs of at least one crystal of known elements."""
    cells = Cells.of([crystal.lattice for crystal in crystals], [crystal.frac_coords for crystal in crystals])
    numbers = np.concatenate([crystal.atomic_numbers for crystal in crystals]).astype(np.int64, copy=False)
    found = nearest_neighbours(cells, config, images=config.angles > 0)
    edges = found.edges
    degrees = np.bincount(edges.receivers, minlength=len(numbers))
    links = np.add.reduceat(degrees, cells.starts).tolist()
    refusals = _edge_refusals(cells, found, links, config)
    if any(refusals):
        accepted = np.array([not refusal for refusal in refusals])
        edges, degrees = edges.select(accepted.repeat(links)), degrees * accepted.repeat(cells.sizes)
        links = (links * accepted).tolist()
    labels = numbers + _ELEMENTS * cells.firsts  # node labels: element and crystal
    pairs = _pair_labels(labels[edges.receivers], labels[edges.senders + cells.firsts[edges.receivers]])
    distances = _snap_near_equal(pairs, edges.distances, config.distance_resolution)
    union = CrystalGraph(
        atomic_numbers=numbers,
        senders=edges.senders.astype(np.int32),
        degrees=degrees.astype(np.int32),
        distances=distances.astype(np.float32),
        volume=sum(cells.volumes),
        multiplicities=np.ones(len(numbers), dtype=np.int32),
        counts=np.ones(len(distances), dtype=np.int32),
        node_of_atom=(np.arange(len(numbers)) - cells.firsts).astype(np.int32),
        angular_features=_angular_features(cells, edges, labels, distances, degrees, config)
        if config.angles
        else np.empty((len(numbers), 0), dtype=np.float32),
    )
    graphs = split_union(union, cells.sizes, links, cells.sizes, cells.volumes)
    return [refusal or graph for refusal, graph in zip(refusals, graphs, strict=True)]


def _edge_refusals(
    cells: Cells, found: Found, links: Sequence[int], config: GraphConfig
) -> list[StructureError | None]:
    """Return for each crystal the error of its edges, if any."""
    refusals: list[StructureError | None] = [None] * len(links)
    for index, (fewest, count) in enumerate(zip(found.fewest, links, strict=True)):
        if not fewest:
            start = cells.starts[index]
            lonely = int(found.numbers[start : start + cells.sizes[index]].argmin())
            refusals[index] = StructureError(
                "too_sparse", f"site {lonely} has no neighbour within {config.cutoff:g} Å: post a cell without vacuum"
            )
        elif count > config.max_edges:
            refusals[index] = StructureError(
                "too_many_edges",
                f"the crystal has {count} edges, the limit is {config.max_edges}: post a smaller cell",
            )
    return refusals


def _angular_features(
    cells: Cells,
    edges: Edges,
    labels: NDArray[np.int64],
    distances: NDArray[np.float64],
    degrees: NDArray[np.int64],
    config: GraphConfig,
) -> NDArray[np.float32]:
    """Angular features [N, A]; nearly equal ones of atoms with one label are snapped as distances are."""
    senders = edges.senders + cells.firsts[edges.receivers]
    steps = cells.coords[senders] + edges.images - cells.coords[edges.receivers]
    found = np.zeros((len(labels), n_angular_features(config.angles)))
    first_edge = 0
    for start, size, lattice in zip(cells.starts.tolist(), cells.sizes, cells.lattices, strict=True):
        own = degrees[start : start + size]
        part = slice(first_edge, first_edge := first_edge + int(own.sum()))
        if part.start < part.stop:  # Crystal by crystal: the rounding of a matrix product depends on its shape.
            found[start : start + size] = compute_angular_features(
                steps[part] @ lattice, distances[part], own, config.angles, config.neighbours
            )
    columns = labels[:, None] * found.shape[1] + np.arange(found.shape[1])
    snapped = _snap_near_equal(columns.ravel(), found.ravel(), config.angle_resolution)
    return snapped.reshape(found.shape).astype(np.float32)


def _pair_labels(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number unordered pairs of node labels; pairs of different crystals get different numbers."""
    result: NDArray[np.int64] = np.minimum(first, second) * _ELEMENTS + np.maximum(first, second)
    return result


def _snap_near_equal(labels: NDArray[np.int64], values: NDArray[np.float64], resolution: float) -> NDArray[np.float64]:
    """Replace runs of nearly equal values of one label by their mean.

    A run ends where the next value is more than `resolution` larger. A run wider than four resolutions keeps its
    values: it is not one shell with rounding errors but a dense spectrum of a low-symmetry cell.
    """
    order = np.lexsort((values, labels))
    ordered, sorted_labels = values[order], labels[order]
    bounds = np.empty(len(ordered) + 1, dtype=bool)
    bounds[0] = bounds[-1] = True
    bounds[1:-1] = (ordered[1:] - ordered[:-1] > resolution) | (sorted_labels[1:] != sorted_labels[:-1])
    places = bounds.nonzero()[0]
    starts, ends = places[:-1], places[1:]
    lengths = ends - starts
    means = np.add.reduceat(ordered, starts) / lengths
    narrow = ordered[ends - 1] - ordered[starts] <= 4 * resolution
    snapped = np.empty(len(values), dtype=np.float64)
    snapped[order] = np.where(narrow.repeat(lengths), means.repeat(lengths), ordered)
    return snapped
