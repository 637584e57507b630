"""Graphs with standardised targets: the input of the training loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.training.data.graph_arrays import Subset, graph_sizes

ATOM_WORK = 4  # cost of an atom, in edges


@dataclass(frozen=True, eq=False)
class Examples:
    """Graphs with standardised targets [n, T]; NaN where a target is missing."""

    graphs: Sequence[CrystalGraph]
    targets: NDArray[np.float32]

    @cached_property
    def work(self) -> NDArray[np.float64]:
        """Cost of each graph [n], in edges."""
        nodes, links = graph_sizes(self.graphs)
        return (ATOM_WORK * nodes + links).astype(np.float64)

    def without(self, rows: Sequence[int]) -> "Examples":
        """Drop rows."""
        kept = np.setdiff1d(np.arange(len(self.graphs)), rows)
        return Examples(Subset([self.graphs], kept), self.targets[kept]) if len(rows) else self

    def part(self, rank: int, ranks: int) -> "Examples":
        """Return the share of one of several processes: every `ranks`-th example."""
        rows = np.arange(rank, len(self.graphs), ranks)
        return self if ranks == 1 else Examples(Subset([self.graphs], rows), self.targets[rows])
