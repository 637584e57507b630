"""Structure → crystal graph: pure, numpy only, the same graph for every cell of the same crystal."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.optimization.neighbors import find_points_in_spheres

from deepergatgnn.errors import StructureError

_SAME_SITE = 1e-8  # Å; closer than this is the atom itself


class GraphConfig(BaseModel):
    """Every constant of the featuriser; it travels in the manifest of a checkpoint.

    Attributes:
        cutoff: radius of the neighbour search in Å.
        neighbours: nearest neighbours kept for each atom, before the last shell is completed.
        shell_tolerance: neighbours up to this much (Å) beyond the last one kept belong to its shell. On 8083
            relaxed cells, ties of symmetry end near 3e-5 Å and real shells begin to differ above 1e-2 Å.
        gaussians: number of Gaussians, centred evenly on [0, cutoff], that expand a distance.
        max_atomic_number: length of the composition vector; the element table ends at 108.
        max_edges: a crystal with more edges is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cutoff: float = Field(default=8.0, gt=0, le=20)
    neighbours: int = Field(default=12, gt=0, le=64)
    shell_tolerance: float = Field(default=1e-2, ge=0, lt=1)
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
    """Directed edges sender → receiver, sorted by receiver, then by distance.

    Shapes:
        atomic_numbers: int64 [N].
        senders: int32 [E], the neighbour j of each edge.
        degrees: int32 [N], edges of each receiver i; they sum to E.
        distances: float32 [E], Å.
        volume: of the cell, Å³.
    """

    atomic_numbers: NDArray[np.int64]
    senders: NDArray[np.int32]
    degrees: NDArray[np.int32]
    distances: NDArray[np.float32]
    volume: float

    @property
    def n_atoms(self) -> int:
        """Number of atoms N."""
        return len(self.atomic_numbers)

    @property
    def n_edges(self) -> int:
        """Number of edges E."""
        return len(self.senders)

    @cached_property
    def receivers(self) -> NDArray[np.int32]:
        """int32 [E], the atom i whose neighbourhood each edge belongs to."""
        return np.repeat(np.arange(self.n_atoms, dtype=np.int32), self.degrees)


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
    receivers, senders, distances = _neighbours_within(crystal, config)
    kept = _nearest_shells(receivers, distances, len(numbers), config)
    if len(kept) > config.max_edges:
        raise StructureError(
            "too_many_edges", f"the crystal has {len(kept)} edges, the limit is {config.max_edges}: post a smaller cell"
        )
    degrees = np.bincount(receivers[kept], minlength=len(numbers)).astype(np.int32)
    return CrystalGraph(
        atomic_numbers=np.asarray(numbers, dtype=np.int64),
        senders=senders[kept].astype(np.int32),
        degrees=degrees,
        distances=distances[kept].astype(np.float32),
        volume=float(abs(np.linalg.det(crystal.lattice))),
    )


def _neighbours_within(
    crystal: HasCell, config: GraphConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """All (receiver, sender, distance) within the cutoff, without the atom itself."""
    lattice = np.ascontiguousarray(crystal.lattice, dtype=np.float64)
    # Wrapped, so that a translated copy meets the same rounding as the original.
    positions = np.ascontiguousarray((crystal.frac_coords % 1.0) @ lattice)
    receivers, senders, _, distances = find_points_in_spheres(
        positions,
        positions,
        r=config.cutoff,
        pbc=np.ones(3, dtype=np.int64),
        lattice=lattice,
        tol=_SAME_SITE,
    )
    other = distances > _SAME_SITE
    return receivers[other], senders[other], distances[other]


def _nearest_shells(
    receivers: NDArray[np.int64], distances: NDArray[np.float64], n_atoms: int, config: GraphConfig
) -> NDArray[np.int64]:
    """Indices of the edges to keep, sorted by receiver, then by distance."""
    order = np.lexsort((distances, receivers))
    found = np.bincount(receivers, minlength=n_atoms)
    if (found == 0).any():
        lonely = int(np.argmin(found))
        raise StructureError(
            "too_sparse", f"site {lonely} has no neighbour within {config.cutoff:g} Å: post a cell without vacuum"
        )
    first = np.cumsum(found) - found
    last = first + np.minimum(found, config.neighbours) - 1
    reach = distances[order][last] + config.shell_tolerance
    kept: NDArray[np.int64] = order[distances[order] <= reach[receivers[order]]]
    return kept
