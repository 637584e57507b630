"""Nearest periodic neighbours of every atom, for several independent crystals at once."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

from deepergatgnn.graphs.crystal_graph import GraphConfig

_EXPECTED = 2.0  # expected neighbours in the sphere that is searched first, in units of `neighbours`
_SAME_SITE = 1e-8  # Å; a neighbour closer than this is the atom itself
_RADIX = 2**16  # NumPy sorts integers below this in linear time, as uint16
_PERIODIC = np.ones(3, dtype=np.int64)
_Found = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


class Cells(NamedTuple):
    """Several cells; their atoms are numbered consecutively.

    Attributes:
        lattices: [B, 3, 3], rows in Å.
        volumes: [B], Å³.
        coords: [N, 3], fractional coordinates within [0, 1).
        sizes: [B], number of atoms of each cell, at least one.
        starts: [B], index of the first atom of each cell.
        firsts: [N], index of the first atom of the cell of each atom.
    """

    lattices: NDArray[np.float64]
    volumes: list[float]
    coords: NDArray[np.float64]
    sizes: list[int]
    starts: NDArray[np.int64]
    firsts: NDArray[np.int64]

    @classmethod
    def of(cls, lattices: Sequence[NDArray[np.float64]], frac_coords: Sequence[NDArray[np.float64]]) -> "Cells":
        """Collect at least one cell from lattices and fractional coordinates."""
        stacked = np.array(lattices, dtype=np.float64)
        sizes = [len(coords) for coords in frac_coords]
        starts = np.array([0, *accumulate(sizes[:-1])])
        return cls(
            lattices=stacked,
            volumes=np.abs(np.linalg.det(stacked)).tolist(),
            # Wrapped, so that a translated copy is rounded as the original.
            coords=np.concatenate(frac_coords) % 1.0,
            sizes=sizes,
            starts=starts,
            firsts=starts.repeat(sizes),
        )


class Edges(NamedTuple):
    """Edges, sorted by receiver, then by distance.

    Attributes:
        receivers: [E], numbered over all cells.
        senders: [E], numbered within their cell.
        distances: [E], Å.
        images: [E, 3], lattice translations of the senders; [E, 0] if they were not requested.
    """

    receivers: NDArray[np.int64]
    senders: NDArray[np.int64]
    distances: NDArray[np.float64]
    images: NDArray[np.float64]

    def select(self, chosen: NDArray[np.bool_]) -> "Edges":
        """Select edges by a mask."""
        return Edges(self.receivers[chosen], self.senders[chosen], self.distances[chosen], self.images[chosen])


class Found(NamedTuple):
    """Result of a search within a radius.

    Attributes:
        edges: the edges of the graph.
        numbers: [N], number of neighbours of each atom within the radius.
        fewest: [B], smallest of these numbers in each cell.
        shell_radii: [B], radius in Å that contains all edges of a cell, if each atom has enough neighbours.
    """

    edges: Edges
    numbers: NDArray[np.int64]
    fewest: list[int]
    shell_radii: list[float]


def nearest_neighbours(cells: Cells, config: GraphConfig, *, images: bool) -> Found:
    """Find the nearest periodic images of each atom within the cutoff, the last shell complete.

    Args:
        cells: at least one.
        config: constants of the featuriser.
        images: whether to return the lattice translations of the senders.
    """
    # A sphere with a few times the expected neighbours contains the last shell of almost every crystal.
    radii = [
        float(np.cbrt(_EXPECTED * config.neighbours * volume / size * 3 / (4 * np.pi)))
        for volume, size in zip(cells.volumes, cells.sizes, strict=True)
    ]
    searched = [_within(cells, index, min(config.cutoff, radius)) for index, radius in enumerate(radii)]
    found = _nearest_shells(cells, searched, config, images=images)
    again = [
        index
        for index, (radius, fewest, shell) in enumerate(zip(radii, found.fewest, found.shell_radii, strict=True))
        if radius < config.cutoff and not (fewest >= config.neighbours and shell < radius - _SAME_SITE)
    ]
    if again:  # one crystal in a thousand
        for index in again:
            searched[index] = _within(cells, index, config.cutoff)
        found = _nearest_shells(cells, searched, config, images=images)
    return found


def _within(cells: Cells, index: int, radius: float) -> _Found:
    """Find receivers, senders, images and distances of all edges of one cell within a radius in Å.

    Atoms are numbered within the cell, and every atom is one of its own neighbours.
    """
    start, lattice = int(cells.starts[index]), cells.lattices[index]
    # Cell by cell, because the rounding of a matrix product may depend on its shape.
    positions = cells.coords[start : start + cells.sizes[index]] @ lattice
    found: _Found = find_points_in_spheres(
        positions, positions, r=radius, pbc=_PERIODIC, lattice=lattice, tol=_SAME_SITE
    )
    return found


def _nearest_shells(cells: Cells, searched: Sequence[_Found], config: GraphConfig, *, images: bool) -> Found:
    """Keep the nearest neighbours of each atom, the last shell complete."""
    receivers, senders, shifts, distances = zip(*searched, strict=True)
    lengths = np.concatenate(distances)
    others = (lengths > _SAME_SITE).nonzero()[0]
    lengths = lengths[others]
    numbers = (np.concatenate(receivers) + cells.starts.repeat([len(some) for some in receivers]))[others]
    found = np.bincount(numbers, minlength=len(cells.coords))
    order = _sorted(numbers, lengths, len(found))
    ordered = lengths[order]
    # An atom without neighbours gets the limit of another atom; it has no edges that the limit could affect.
    last = found.cumsum() - np.maximum(found - (config.neighbours - 1), 1)
    limits = ordered[last] + config.shell_tolerance if len(ordered) else np.zeros(len(found))
    near = (ordered <= limits.repeat(found)).nonzero()[0]
    kept = order[near]
    edges = Edges(
        receivers=numbers[kept],
        senders=np.concatenate(senders)[others[kept]],
        distances=ordered[near],
        images=np.concatenate(shifts)[others[kept]] if images else np.empty((len(kept), 0)),
    )
    fewest = np.minimum.reduceat(found, cells.starts).tolist()
    return Found(edges, found, fewest, np.maximum.reduceat(limits, cells.starts).tolist())


def _sorted(receivers: NDArray[np.int64], distances: NDArray[np.float64], n_atoms: int) -> NDArray[np.int64]:
    """Sort edges by receiver, then by distance, stably: a faster `np.lexsort`."""
    by_distance = distances.view(np.int64).argsort(kind="stable")  # bits of positive floats sort as floats
    numbers = receivers[by_distance]
    if n_atoms <= _RADIX:
        numbers = numbers.astype(np.uint16)
    order: NDArray[np.int64] = by_distance[numbers.argsort(kind="stable")]
    return order
