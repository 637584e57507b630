"""The nearest neighbours of each atom, for several crystals at once; no crystal sees another."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

from deepergatgnn.graphs.crystal_graph import GraphConfig

_EXPECTED = 2.0  # times the neighbours, in the sphere that is searched first
_SAME_SITE = 1e-8  # Å; closer than this is the atom itself
_RADIX = 2**16  # numbers below it NumPy sorts in linear time, as uint16
_PERIODIC = np.ones(3, dtype=np.int64)
_Found = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


class Cells(NamedTuple):
    """Cells side by side, their atoms numbered through.

    Attributes:
        lattices: [B, 3, 3], rows in Å.
        volumes: of each cell, Å³.
        coords: fractional and within the cell, [N, 3].
        sizes: atoms of each cell, at least one.
        starts: first atom of each cell, [B].
        firsts: for each atom the first of its cell, [N].
    """

    lattices: NDArray[np.float64]
    volumes: list[float]
    coords: NDArray[np.float64]
    sizes: list[int]
    starts: NDArray[np.int64]
    firsts: NDArray[np.int64]

    @classmethod
    def of(cls, lattices: Sequence[NDArray[np.float64]], frac_coords: Sequence[NDArray[np.float64]]) -> "Cells":
        """At least one cell, from its lattice and its coordinates."""
        stacked = np.array(lattices, dtype=np.float64)
        sizes = [len(coords) for coords in frac_coords]
        starts = np.array([0, *accumulate(sizes[:-1])])
        return cls(
            lattices=stacked,
            volumes=np.abs(np.linalg.det(stacked)).tolist(),
            # Wrapped, so that a translated copy meets the same rounding as the original.
            coords=np.concatenate(frac_coords) % 1.0,
            sizes=sizes,
            starts=starts,
            firsts=starts.repeat(sizes),
        )


class Edges(NamedTuple):
    """Edges by receiver, then by distance.

    Attributes:
        receivers: [E], atoms numbered through.
        senders: [E], numbered within their cell.
        distances: [E], Å.
        images: the cells of the senders, [E, 3]; [E, 0] where nobody asked for them.
    """

    receivers: NDArray[np.int64]
    senders: NDArray[np.int64]
    distances: NDArray[np.float64]
    images: NDArray[np.float64]

    def of(self, chosen: NDArray[np.bool_]) -> "Edges":
        """Some of them."""
        return Edges(self.receivers[chosen], self.senders[chosen], self.distances[chosen], self.images[chosen])


class Found(NamedTuple):
    """What a search within a radius found.

    Attributes:
        edges: those to keep.
        numbers: neighbours of each atom within the radius, [N].
        fewest: of them in each cell.
        reaches: for each cell the radius in Å that surely has all edges to keep, if each atom has enough.
    """

    edges: Edges
    numbers: NDArray[np.int64]
    fewest: list[int]
    reaches: list[float]


def nearest_neighbours(cells: Cells, config: GraphConfig, *, images: bool) -> Found:
    """Find the nearest periodic images of each atom within the cutoff, the last shell complete.

    Args:
        cells: at least one.
        config: the constants.
        images: whether they are needed.
    """
    # A sphere in which a few times the neighbours are expected holds the last shell of almost every crystal.
    radii = [
        float(np.cbrt(_EXPECTED * config.neighbours * volume / size * 3 / (4 * np.pi)))
        for volume, size in zip(cells.volumes, cells.sizes, strict=True)
    ]
    searched = [_within(cells, index, min(config.cutoff, radius)) for index, radius in enumerate(radii)]
    found = _nearest_shells(cells, searched, config, images=images)
    again = [
        index
        for index, (radius, fewest, reach) in enumerate(zip(radii, found.fewest, found.reaches, strict=True))
        if radius < config.cutoff and not (fewest >= config.neighbours and reach < radius - _SAME_SITE)
    ]
    if again:  # one crystal in a thousand
        for index in again:
            searched[index] = _within(cells, index, config.cutoff)
        found = _nearest_shells(cells, searched, config, images=images)
    return found


def _within(cells: Cells, index: int, radius: float) -> _Found:
    """Receivers, senders, images and distances of all edges of one cell within a radius in Å.

    Atoms are numbered within the cell, and each is among its own neighbours.
    """
    start, lattice = int(cells.starts[index]), cells.lattices[index]
    # Cell by cell also because what a product of matrices rounds to may depend on their shapes.
    positions = cells.coords[start : start + cells.sizes[index]] @ lattice
    found: _Found = find_points_in_spheres(
        positions, positions, r=radius, pbc=_PERIODIC, lattice=lattice, tol=_SAME_SITE
    )
    return found


def _nearest_shells(cells: Cells, searched: Sequence[_Found], config: GraphConfig, *, images: bool) -> Found:
    """Of the edges found in each cell those to keep."""
    receivers, senders, shifts, distances = zip(*searched, strict=True)
    lengths = np.concatenate(distances)
    others = (lengths > _SAME_SITE).nonzero()[0]
    lengths = lengths[others]
    numbers = (np.concatenate(receivers) + cells.starts.repeat([len(some) for some in receivers]))[others]
    found = np.bincount(numbers, minlength=len(cells.coords))
    order = _sorted(numbers, lengths, len(found))
    ordered = lengths[order]
    # An atom without neighbours gets the limit of another, if there is one, and has no edges that it could spoil.
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
    """Order of edges by receiver, then by distance, ties as they came: `np.lexsort`, faster."""
    by_distance = distances.view(np.int64).argsort(kind="stable")  # the bits of positive floats sort as they do
    numbers = receivers[by_distance]
    if n_atoms <= _RADIX:
        numbers = numbers.astype(np.uint16)
    order: NDArray[np.int64] = by_distance[numbers.argsort(kind="stable")]
    return order
