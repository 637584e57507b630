"""Structure → crystal graph: pure, numpy only, the same graph for every cell of the same crystal."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import StructureError
from deepergatgnn.graphs.angular_features import angular_surroundings, surroundings_size
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.neighbours import Cells, Edges, Found, nearest_neighbours
from deepergatgnn.graphs.union import cut_whole

_ELEMENTS = 1000  # more than there are


class HasCell(Protocol):
    """What the graph needs of a crystal; `structures.Crystal` is one."""

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
        config: the constants.

    Returns:
        The graph: for each atom the `neighbours` nearest images within `cutoff`, and all that tie with the last.

    Raises:
        StructureError: `too_sparse` where an atom has no neighbour within the cutoff, `too_many_edges`,
            `unknown_element` for an element beyond the composition vector.
    """
    (graph,) = build_graphs([crystal], config)
    if isinstance(graph, StructureError):
        raise graph
    return graph


def build_graphs(crystals: Sequence[HasCell], config: GraphConfig) -> list[CrystalGraph | StructureError]:
    """Build the graphs of several crystals at once, which for small ones costs less than one by one.

    Args:
        crystals: any number of checked structures; they are not changed. The edges of all are in memory together.
        config: the constants.

    Returns:
        In their order what `build_graph` gives of each alone, to the bit: a graph, or the error that it raises.
        Arrays of a graph may be views into those of all.
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
    """Whether the composition vector has all of at least one element."""
    return bool(np.minimum.reduce(numbers) >= 1 and np.maximum.reduce(numbers) <= config.max_atomic_number)


def _element_refusal(numbers: NDArray[np.int64], config: GraphConfig) -> StructureError | None:
    """What is wrong with the elements of a crystal, if anything."""
    if not len(numbers):
        return StructureError("no_structure", "the structure has no atoms: post a crystal with at least one site")
    if _known(numbers, config):
        return None
    first = int(numbers[(numbers < 1) | (numbers > config.max_atomic_number)][0])
    return StructureError("unknown_element", f"atomic number {first} is outside 1 to {config.max_atomic_number}")


def _built(crystals: Sequence[HasCell], config: GraphConfig) -> list[CrystalGraph | StructureError]:
    """Graphs of at least one crystal of known elements, or what is wrong with its edges."""
    cells = Cells.of([crystal.lattice for crystal in crystals], [crystal.frac_coords for crystal in crystals])
    numbers = np.concatenate([crystal.atomic_numbers for crystal in crystals]).astype(np.int64, copy=False)
    found = nearest_neighbours(cells, config, images=config.angles > 0)
    edges = found.edges
    degrees = np.bincount(edges.receivers, minlength=len(numbers))
    links = np.add.reduceat(degrees, cells.starts).tolist()
    refusals = _edge_refusals(cells, found, links, config)
    if any(refusals):
        accepted = np.array([not refusal for refusal in refusals])
        edges, degrees = edges.of(accepted.repeat(links)), degrees * accepted.repeat(cells.sizes)
        links = (links * accepted).tolist()
    kinds = numbers + _ELEMENTS * cells.firsts  # no two crystals share one
    pairs = _pairs(kinds[edges.receivers], kinds[edges.senders + cells.firsts[edges.receivers]])
    distances = _levelled(pairs, edges.distances, config.distance_resolution)
    whole = CrystalGraph(
        atomic_numbers=numbers,
        senders=edges.senders.astype(np.int32),
        degrees=degrees.astype(np.int32),
        distances=distances.astype(np.float32),
        volume=sum(cells.volumes),
        multiplicities=np.ones(len(numbers), dtype=np.int32),
        counts=np.ones(len(distances), dtype=np.int32),
        classes=(np.arange(len(numbers)) - cells.firsts).astype(np.int32),
        surroundings=_surroundings(cells, edges, kinds, distances, degrees, config)
        if config.angles
        else np.empty((len(numbers), 0), dtype=np.float32),
    )
    graphs = cut_whole(whole, cells.sizes, links, cells.sizes, cells.volumes)
    return [refusal or graph for refusal, graph in zip(refusals, graphs, strict=True)]


def _edge_refusals(
    cells: Cells, found: Found, links: Sequence[int], config: GraphConfig
) -> list[StructureError | None]:
    """For each crystal what is wrong with its edges, if anything."""
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


def _surroundings(
    cells: Cells,
    edges: Edges,
    kinds: NDArray[np.int64],
    distances: NDArray[np.float64],
    degrees: NDArray[np.int64],
    config: GraphConfig,
) -> NDArray[np.float32]:
    """Angles around each atom [N, A], those of like atoms levelled as their distances are."""
    senders = edges.senders + cells.firsts[edges.receivers]
    steps = cells.coords[senders] + edges.images - cells.coords[edges.receivers]
    found = np.zeros((len(kinds), surroundings_size(config.angles)))
    first_edge = 0
    for start, size, lattice in zip(cells.starts.tolist(), cells.sizes, cells.lattices, strict=True):
        own = degrees[start : start + size]
        part = slice(first_edge, first_edge := first_edge + int(own.sum()))
        if part.start < part.stop:  # Crystal by crystal: what a product of matrices rounds to depends on their shapes.
            found[start : start + size] = angular_surroundings(
                steps[part] @ lattice, distances[part], own, config.angles, config.neighbours
            )
    like = kinds[:, None] * found.shape[1] + np.arange(found.shape[1])
    levelled = _levelled(like.ravel(), found.ravel(), config.angle_resolution)
    return levelled.reshape(found.shape).astype(np.float32)


def _pairs(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each pair of kinds, in either order; the thousands of both tell the crystal."""
    result: NDArray[np.int64] = np.minimum(first, second) * _ELEMENTS + np.maximum(first, second)
    return result


def _levelled(like: NDArray[np.int64], values: NDArray[np.float64], resolution: float) -> NDArray[np.float64]:
    """Replace runs of nearly equal values of one kind (`like`) by their mean.

    A run ends where the next value is `resolution` farther. One that has grown longer than four resolutions is no
    shell blurred by rounding but a dense, low-symmetry cell, and keeps its values.
    """
    order = np.lexsort((values, like))
    ordered, kinds = values[order], like[order]
    bounds = np.empty(len(ordered) + 1, dtype=bool)
    bounds[0] = bounds[-1] = True
    bounds[1:-1] = (ordered[1:] - ordered[:-1] > resolution) | (kinds[1:] != kinds[:-1])
    places = bounds.nonzero()[0]
    starts, ends = places[:-1], places[1:]
    lengths = ends - starts
    means = np.add.reduceat(ordered, starts) / lengths
    blurred = ordered[ends - 1] - ordered[starts] <= 4 * resolution
    levelled = np.empty(len(values), dtype=np.float64)
    levelled[order] = np.where(blurred.repeat(lengths), means.repeat(lengths), ordered)
    return levelled
