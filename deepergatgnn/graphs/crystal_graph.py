"""The crystal graph, the table of its fields, and the featuriser's constants. Requires numpy only."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.ranges import check_range


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Constants of the featuriser; the manifest of a checkpoint stores them.

    Attributes:
        cutoff: radius of the neighbour search in Å.
        neighbours: nearest neighbours kept for each atom, before the last shell is completed.
        shell_tolerance: neighbours up to this much (Å) beyond the last one kept belong to its shell. On 8083
            relaxed cells, symmetry-equal distances differ by at most about 3e-5 Å, and distinct shells by more than
            1e-2 Å.
        distance_resolution: distances of like pairs that differ by less than this (Å) are replaced by their mean,
            so that rounded coordinates keep equal distances equal.
        angles: highest order of the angular features of each atom (module `angular_features`); 0 for none.
        angle_resolution: the same for angular features as `distance_resolution` for distances.
        gaussians: number of Gaussians, centred evenly on [0, cutoff], that expand a distance.
        max_atomic_number: length of the composition vector; the element table ends at 108.
        max_edges: limit of edges; a crystal with more is refused.
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


@dataclass(frozen=True, kw_only=True)
class GraphField:
    """Declaration of one array of a `CrystalGraph`.

    Attributes:
        axis: what an item belongs to: a node, an edge, or an atom of the cell.
        dtype: NumPy type in memory and on disk.
        message_dtype: NumPy type in a message, if narrower.
        batch_dtype: NumPy type in a `GraphBatch`; None if the batch has no such array.
        refers_to_nodes: items are indices of nodes, shifted where graphs are joined.
        has_columns: items are rows of as many numbers as the featuriser makes, instead of single numbers.
    """

    axis: Literal["node", "edge", "atom"]
    dtype: str
    message_dtype: str | None = None
    batch_dtype: str | None = None
    refers_to_nodes: bool = False
    has_columns: bool = False


# Every array of a graph, in the order of a message: items of four bytes first, so that they are aligned there.
# Joining, splitting, serialization, storage and batching are loops over this table.
GRAPH_FIELDS: dict[str, GraphField] = {
    "senders": GraphField(axis="edge", dtype="<i4", batch_dtype="<i8", refers_to_nodes=True),
    "distances": GraphField(axis="edge", dtype="<f4", batch_dtype="<f4"),
    "counts": GraphField(axis="edge", dtype="<i4", batch_dtype="<f4"),
    "multiplicities": GraphField(axis="node", dtype="<i4", batch_dtype="<f4"),
    "node_of_atom": GraphField(axis="atom", dtype="<i4", refers_to_nodes=True),
    "angular_features": GraphField(axis="node", dtype="<f4", batch_dtype="<f4", has_columns=True),
    "degrees": GraphField(axis="node", dtype="<i4", message_dtype="<u2"),
    "atomic_numbers": GraphField(axis="node", dtype="<i8", message_dtype="u1", batch_dtype="<i8"),
}


@dataclass(frozen=True, eq=False)
class CrystalGraph:
    """Directed edges sender → receiver, sorted by receiver; equivalent atoms may share one node.

    `build.build_graph` makes a node for each atom; `symmetry_reduction.reduce_graph` makes a smaller graph that gives
    the same predictions. `GRAPH_FIELDS` declares the arrays.

    Shapes:
        atomic_numbers: int64 [n], atomic number of each node.
        senders: int32 [e], neighbour j of each edge.
        degrees: int32 [n], number of edges of each receiver i; they sum to e.
        distances: float32 [e], Å.
        volume: of the cell, Å³.
        multiplicities: int32 [n], number of atoms that a node represents; they sum to N.
        counts: int32 [e], multiplicity of each edge: number of equal edges that it represents.
        node_of_atom: int32 [N], the node of each atom of the cell.
        angular_features: float32 [n, A], angles around each node; A = 0 if `GraphConfig.angles` is 0.
    """

    atomic_numbers: NDArray[np.int64]
    senders: NDArray[np.int32]
    degrees: NDArray[np.int32]
    distances: NDArray[np.float32]
    volume: float
    multiplicities: NDArray[np.int32]
    counts: NDArray[np.int32]
    node_of_atom: NDArray[np.int32]
    angular_features: NDArray[np.float32]

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the cell, N."""
        return len(self.node_of_atom)

    @property
    def n_nodes(self) -> int:
        """Number of nodes, n."""
        return len(self.atomic_numbers)

    @property
    def n_links(self) -> int:
        """Number of edges of the graph, e."""
        return len(self.senders)

    @cached_property
    def n_edges(self) -> int:
        """Number of edges of all atoms of the cell, E, before any reduction."""
        return int(self.counts @ self.multiplicities[self.receivers].astype(np.int64))

    @cached_property
    def receivers(self) -> NDArray[np.int32]:
        """Receiver i of each edge, int32 [e]."""
        return np.repeat(np.arange(self.n_nodes, dtype=np.int32), self.degrees)
