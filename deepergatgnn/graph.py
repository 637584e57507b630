"""Structure → crystal graph: pure, numpy only, the same graph for every cell of the same crystal."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.optimization.neighbors import find_points_in_spheres

from deepergatgnn.errors import StructureError

_EXPECTED = 2.0  # times the neighbours, in the sphere that is searched first
_SAME_SITE = 1e-8  # Å; closer than this is the atom itself


class GraphConfig(BaseModel):
    """Every constant of the featuriser; it travels in the manifest of a checkpoint.

    Attributes:
        cutoff: radius of the neighbour search in Å.
        neighbours: nearest neighbours kept for each atom, before the last shell is completed.
        shell_tolerance: neighbours up to this much (Å) beyond the last one kept belong to its shell. On 8083
            relaxed cells, ties of symmetry end near 3e-5 Å and real shells begin to differ above 1e-2 Å.
        distance_resolution: distances of like pairs that differ by less than this (Å) become their mean, so that
            rounded coordinates do not hide that they are equal.
        gaussians: number of Gaussians, centred evenly on [0, cutoff], that expand a distance.
        max_atomic_number: length of the composition vector; the element table ends at 108.
        max_edges: a crystal with more edges is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cutoff: float = Field(default=8.0, gt=0, le=20)
    neighbours: int = Field(default=12, gt=0, le=64)
    shell_tolerance: float = Field(default=1e-2, ge=0, lt=1)
    distance_resolution: float = Field(default=5e-5, ge=0, lt=1e-2)
    gaussians: int = Field(default=50, gt=1, le=512)
    max_atomic_number: int = Field(default=108, gt=0, le=108)
    max_edges: int = Field(default=200_000, gt=0)


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


@dataclass(frozen=True, eq=False)
class CrystalGraph:
    """Directed edges sender → receiver, sorted by receiver; equivalent atoms may be merged into one node.

    A graph as built has a node for each atom; `equivalence.merge_equivalent` makes a smaller one with the same answers.

    Shapes:
        atomic_numbers: int64 [n], of each node.
        senders: int32 [e], the neighbour j of each edge.
        degrees: int32 [n], edges of each receiver i; they sum to e.
        distances: float32 [e], Å.
        volume: of the cell, Å³.
        multiplicities: int32 [n], atoms that a node stands for; they sum to N.
        counts: int32 [e], equal edges that an edge stands for.
        classes: int32 [N], the node of each atom of the cell.
    """

    atomic_numbers: NDArray[np.int64]
    senders: NDArray[np.int32]
    degrees: NDArray[np.int32]
    distances: NDArray[np.float32]
    volume: float
    multiplicities: NDArray[np.int32]
    counts: NDArray[np.int32]
    classes: NDArray[np.int32]

    @property
    def n_atoms(self) -> int:
        """Atoms of the cell, N."""
        return len(self.classes)

    @property
    def n_nodes(self) -> int:
        """Nodes that are computed, n."""
        return len(self.atomic_numbers)

    @property
    def n_links(self) -> int:
        """Edges that are computed, e."""
        return len(self.senders)

    @cached_property
    def n_edges(self) -> int:
        """Edges of all atoms of the cell, E."""
        return int(self.counts @ self.multiplicities[self.receivers].astype(np.int64))

    @cached_property
    def receivers(self) -> NDArray[np.int32]:
        """int32 [e], the node i whose neighbourhood each edge belongs to."""
        return np.repeat(np.arange(self.n_nodes, dtype=np.int32), self.degrees)


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
    receivers, senders, distances, kept = _nearest_neighbours(crystal, config)
    if len(kept) > config.max_edges:
        raise StructureError(
            "too_many_edges", f"the crystal has {len(kept)} edges, the limit is {config.max_edges}: post a smaller cell"
        )
    receivers, senders, distances = receivers[kept], senders[kept], distances[kept]
    return CrystalGraph(
        atomic_numbers=np.asarray(numbers, dtype=np.int64),
        senders=senders.astype(np.int32),
        degrees=np.bincount(receivers, minlength=len(numbers)).astype(np.int32),
        distances=_levelled(numbers[receivers], numbers[senders], distances, config.distance_resolution),
        volume=float(abs(np.linalg.det(crystal.lattice))),
        multiplicities=np.ones(len(numbers), dtype=np.int32),
        counts=np.ones(len(kept), dtype=np.int32),
        classes=np.arange(len(numbers), dtype=np.int32),
    )


def _nearest_neighbours(
    crystal: HasCell, config: GraphConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Some (receiver, sender, distance), and the indices of the edges to keep, by receiver, then by distance."""
    n_atoms = len(crystal.atomic_numbers)
    # A sphere in which a few times the neighbours are expected holds the last shell of almost every crystal.
    sphere = _EXPECTED * config.neighbours * abs(np.linalg.det(crystal.lattice)) / n_atoms
    radius = float(np.cbrt(sphere * 3 / (4 * np.pi)))
    if radius < config.cutoff:
        edges = _neighbours_within(crystal, radius)
        kept, reach = _nearest_shells(edges[0], edges[2], n_atoms, config)
        if reach < radius - _SAME_SITE:
            return *edges, kept
    edges = _neighbours_within(crystal, config.cutoff)
    kept, _ = _nearest_shells(edges[0], edges[2], n_atoms, config)
    if not len(kept):
        lonely = int(np.argmin(np.bincount(edges[0], minlength=n_atoms)))
        raise StructureError(
            "too_sparse", f"site {lonely} has no neighbour within {config.cutoff:g} Å: post a cell without vacuum"
        )
    return *edges, kept


def _neighbours_within(
    crystal: HasCell, radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """All (receiver, sender, distance) within a radius in Å, without the atom itself."""
    lattice = np.ascontiguousarray(crystal.lattice, dtype=np.float64)
    # Wrapped, so that a translated copy meets the same rounding as the original.
    positions = np.ascontiguousarray((crystal.frac_coords % 1.0) @ lattice)
    receivers, senders, _, distances = find_points_in_spheres(
        positions,
        positions,
        r=radius,
        pbc=np.ones(3, dtype=np.int64),
        lattice=lattice,
        tol=_SAME_SITE,
    )
    other = distances > _SAME_SITE
    return receivers[other], senders[other], distances[other]


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


def _levelled(
    receivers: NDArray[np.int64], senders: NDArray[np.int64], distances: NDArray[np.float64], resolution: float
) -> NDArray[np.float32]:
    """Replace runs of nearly equal distances between the same two elements by their mean.

    A run ends where the next distance is `resolution` farther. One that has grown longer than four resolutions is no
    shell blurred by rounding but a dense, low-symmetry cell, and keeps its distances.
    """
    pairs = np.minimum(receivers, senders) * 1000 + np.maximum(receivers, senders)
    order = np.lexsort((distances, pairs))
    ordered, pairs = distances[order], pairs[order]
    begins = np.ones(len(ordered), dtype=bool)
    begins[1:] = (ordered[1:] - ordered[:-1] > resolution) | (pairs[1:] != pairs[:-1])
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.append(starts, len(ordered)))
    means = np.add.reduceat(ordered, starts) / lengths
    spans = ordered[starts + lengths - 1] - ordered[starts]
    levelled = np.empty(len(distances), dtype=np.float32)
    levelled[order] = np.where(np.repeat(spans <= 4 * resolution, lengths), np.repeat(means, lengths), ordered)
    return levelled
