"""The crystal graph and the constants it was made with: numpy only, so that a bare machine can read one."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.ranges import check_range


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Every constant of the featuriser; it travels in the manifest of a checkpoint.

    Attributes:
        cutoff: radius of the neighbour search in Å.
        neighbours: nearest neighbours kept for each atom, before the last shell is completed.
        shell_tolerance: neighbours up to this much (Å) beyond the last one kept belong to its shell. On 8083
            relaxed cells, ties of symmetry end near 3e-5 Å and real shells begin to differ above 1e-2 Å.
        distance_resolution: distances of like pairs that differ by less than this (Å) become their mean, so that
            rounded coordinates do not hide that they are equal.
        angles: orders of the angular surroundings of each atom (`surroundings`); 0 for none.
        angle_resolution: likewise for them as `distance_resolution` for distances.
        gaussians: number of Gaussians, centred evenly on [0, cutoff], that expand a distance.
        max_atomic_number: length of the composition vector; the element table ends at 108.
        max_edges: a crystal with more edges is refused.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    cutoff: float = 8.0
    neighbours: int = 12
    shell_tolerance: float = 1e-2
    distance_resolution: float = 5e-5
    angles: int = 0
    angle_resolution: float = 2e-4
    gaussians: int = 50
    max_atomic_number: int = 108
    max_edges: int = 200_000

    def __post_init__(self) -> None:
        check_range("cutoff", self.cutoff, above=0, most=20)
        check_range("neighbours", self.neighbours, least=1, most=64)
        check_range("shell_tolerance", self.shell_tolerance, least=0, below=1)
        check_range("distance_resolution", self.distance_resolution, least=0, below=1e-2)
        check_range("angles", self.angles, least=0, most=16)
        check_range("angle_resolution", self.angle_resolution, least=0, below=1e-1)
        check_range("gaussians", self.gaussians, least=2, most=512)
        check_range("max_atomic_number", self.max_atomic_number, least=1, most=108)
        check_range("max_edges", self.max_edges, least=1)


@dataclass(frozen=True, eq=False)
class CrystalGraph:
    """Directed edges sender → receiver, sorted by receiver; equivalent atoms may be merged into one node.

    A graph as built has a node for each atom; `equivalence.reduce_graph` makes a smaller one with the same answers.

    Shapes:
        atomic_numbers: int64 [n], of each node.
        senders: int32 [e], the neighbour j of each edge.
        degrees: int32 [n], edges of each receiver i; they sum to e.
        distances: float32 [e], Å.
        volume: of the cell, Å³.
        multiplicities: int32 [n], atoms that a node stands for; they sum to N.
        counts: int32 [e], equal edges that an edge stands for.
        classes: int32 [N], the node of each atom of the cell.
        surroundings: float32 [n, A], angles around each node; A is 0 where the constants ask for none.
    """

    atomic_numbers: NDArray[np.int64]
    senders: NDArray[np.int32]
    degrees: NDArray[np.int32]
    distances: NDArray[np.float32]
    volume: float
    multiplicities: NDArray[np.int32]
    counts: NDArray[np.int32]
    classes: NDArray[np.int32]
    surroundings: NDArray[np.float32]

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
