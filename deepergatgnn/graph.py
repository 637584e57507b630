"""Structure → crystal graph: pure, numpy only, the same graph for every cell of the same crystal."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

from deepergatgnn.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.errors import StructureError
from deepergatgnn.surroundings import angular_surroundings

_EXPECTED = 2.0  # times the neighbours, in the sphere that is searched first
_SAME_SITE = 1e-8  # Å; closer than this is the atom itself


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
    numbers = crystal.atomic_numbers
    if len(numbers) == 0:
        raise StructureError("no_structure", "the structure has no atoms: post a crystal with at least one site")
    unknown = (numbers < 1) | (numbers > config.max_atomic_number)
    if unknown.any():
        first = int(numbers[unknown][0])
        raise StructureError("unknown_element", f"atomic number {first} is outside 1 to {config.max_atomic_number}")
    edges, kept = _nearest_neighbours(crystal, config)
    if len(kept) > config.max_edges:
        raise StructureError(
            "too_many_edges", f"the crystal has {len(kept)} edges, the limit is {config.max_edges}: post a smaller cell"
        )
    receivers, senders = edges.receivers[kept], edges.senders[kept]
    degrees = np.bincount(receivers, minlength=len(numbers))
    distances = _levelled(
        _pairs(numbers[receivers], numbers[senders]), edges.distances[kept], config.distance_resolution
    )
    return CrystalGraph(
        atomic_numbers=np.asarray(numbers, dtype=np.int64),
        senders=senders.astype(np.int32),
        degrees=degrees.astype(np.int32),
        distances=distances.astype(np.float32),
        volume=float(abs(np.linalg.det(crystal.lattice))),
        multiplicities=np.ones(len(numbers), dtype=np.int32),
        counts=np.ones(len(kept), dtype=np.int32),
        classes=np.arange(len(numbers), dtype=np.int32),
        surroundings=_surroundings(numbers, edges.vectors(crystal, kept), distances, degrees, config)
        if config.angles
        else np.empty((len(numbers), 0), dtype=np.float32),
    )


class _Edges(NamedTuple):
    """Edges in any order, [E] each; `images` [E, 3] are the cells of the senders."""

    receivers: NDArray[np.int64]
    senders: NDArray[np.int64]
    distances: NDArray[np.float64]
    images: NDArray[np.float64]

    def vectors(self, crystal: HasCell, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """From receiver to sender, [kept, 3], Å."""
        coords = crystal.frac_coords % 1.0
        steps = coords[self.senders[kept]] + self.images[kept] - coords[self.receivers[kept]]
        result: NDArray[np.float64] = steps @ crystal.lattice
        return result


def _surroundings(
    numbers: NDArray[np.int64],
    vectors: NDArray[np.float64],
    distances: NDArray[np.float64],
    degrees: NDArray[np.int64],
    config: GraphConfig,
) -> NDArray[np.float32]:
    """Angles around each atom [N, A], those of like atoms levelled as their distances are."""
    found = angular_surroundings(vectors, distances, degrees, config.angles, config.neighbours)
    like = numbers[:, None] * found.shape[1] + np.arange(found.shape[1])
    levelled = _levelled(like.ravel(), found.ravel(), config.angle_resolution)
    return levelled.reshape(found.shape).astype(np.float32)


def _nearest_neighbours(crystal: HasCell, config: GraphConfig) -> tuple[_Edges, NDArray[np.int64]]:
    """Some edges, and the indices of those to keep, by receiver, then by distance."""
    n_atoms = len(crystal.atomic_numbers)
    # A sphere in which a few times the neighbours are expected holds the last shell of almost every crystal.
    sphere = _EXPECTED * config.neighbours * abs(np.linalg.det(crystal.lattice)) / n_atoms
    radius = float(np.cbrt(sphere * 3 / (4 * np.pi)))
    if radius < config.cutoff:
        edges = _neighbours_within(crystal, radius)
        kept, reach = _nearest_shells(edges.receivers, edges.distances, n_atoms, config)
        if reach < radius - _SAME_SITE:
            return edges, kept
    edges = _neighbours_within(crystal, config.cutoff)
    kept, _ = _nearest_shells(edges.receivers, edges.distances, n_atoms, config)
    if not len(kept):
        lonely = int(np.argmin(np.bincount(edges.receivers, minlength=n_atoms)))
        raise StructureError(
            "too_sparse", f"site {lonely} has no neighbour within {config.cutoff:g} Å: post a cell without vacuum"
        )
    return edges, kept


def _neighbours_within(crystal: HasCell, radius: float) -> _Edges:
    """All edges within a radius in Å, without the atom itself."""
    lattice = np.ascontiguousarray(crystal.lattice, dtype=np.float64)
    # Wrapped, so that a translated copy meets the same rounding as the original.
    positions = np.ascontiguousarray((crystal.frac_coords % 1.0) @ lattice)
    receivers, senders, images, distances = find_points_in_spheres(
        positions,
        positions,
        r=radius,
        pbc=np.ones(3, dtype=np.int64),
        lattice=lattice,
        tol=_SAME_SITE,
    )
    other = distances > _SAME_SITE
    return _Edges(receivers[other], senders[other], distances[other], images[other])


def _nearest_shells(
    receivers: NDArray[np.int64], distances: NDArray[np.float64], n_atoms: int, config: GraphConfig
) -> tuple[NDArray[np.int64], float]:
    """Edges to keep, by receiver, then by distance, none if an atom has none; and the radius that surely has them all.

    The radius is infinite if an atom has fewer neighbours than are wanted.
    """
    found = np.bincount(receivers, minlength=n_atoms)
    fewest = int(found.min())
    if fewest == 0:
        return np.empty(0, dtype=np.int64), np.inf
    order = np.lexsort((distances, receivers))
    ordered = distances[order]
    last = np.cumsum(found) - found + np.minimum(found, config.neighbours) - 1
    reach = ordered[last] + config.shell_tolerance
    kept = order[ordered <= np.repeat(reach, found)]
    return kept, float(reach.max()) if fewest >= config.neighbours else np.inf


def _pairs(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each pair of elements, in either order."""
    result: NDArray[np.int64] = np.minimum(first, second) * 1000 + np.maximum(first, second)
    return result


def _levelled(like: NDArray[np.int64], values: NDArray[np.float64], resolution: float) -> NDArray[np.float64]:
    """Replace runs of nearly equal values of one kind (`like`) by their mean.

    A run ends where the next value is `resolution` farther. One that has grown longer than four resolutions is no
    shell blurred by rounding but a dense, low-symmetry cell, and keeps its values.
    """
    order = np.lexsort((values, like))
    ordered, kinds = values[order], like[order]
    begins = np.ones(len(ordered), dtype=bool)
    begins[1:] = (ordered[1:] - ordered[:-1] > resolution) | (kinds[1:] != kinds[:-1])
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.append(starts, len(ordered)))
    means = np.add.reduceat(ordered, starts) / lengths
    spans = ordered[starts + lengths - 1] - ordered[starts]
    levelled = np.empty(len(values), dtype=np.float64)
    levelled[order] = np.where(np.repeat(spans <= 4 * resolution, lengths), np.repeat(means, lengths), ordered)
    return levelled
