"""What an epoch is made of: shuffled batches of about equal work, each shared out among the processes of a run."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepergatgnn.batch import GraphBatch, collate
from deepergatgnn.crystal_graph import CrystalGraph
from training.packed import Selected, graph_sizes

ATOM_WORK = 4  # an atom costs about as much as this many edges
Batches = Iterable[tuple[GraphBatch, Tensor]]


@dataclass(frozen=True, eq=False)
class Examples:
    """Graphs with standardised targets [n, T]; NaN where a target is missing."""

    graphs: Sequence[CrystalGraph]
    targets: NDArray[np.float32]

    @cached_property
    def work(self) -> NDArray[np.float64]:
        """What each graph costs [n], in edges."""
        nodes, links = graph_sizes(self.graphs)
        return (ATOM_WORK * nodes + links).astype(np.float64)

    def without(self, rows: Sequence[int]) -> "Examples":
        """All but some of them."""
        kept = np.setdiff1d(np.arange(len(self.graphs)), rows)
        return Examples(Selected([self.graphs], kept), self.targets[kept]) if len(rows) else self

    def part(self, rank: int, ranks: int) -> "Examples":
        """Every `ranks`-th of them."""
        rows = np.arange(rank, len(self.graphs), ranks)
        return self if ranks == 1 else Examples(Selected([self.graphs], rows), self.targets[rows])


def draw_batches(work: NDArray[np.float64], size: int, generator: torch.Generator) -> list[list[int]]:
    """Rows of shuffled batches of about equal work: each has that of `size` average crystals; no row is left out."""
    order = torch.randperm(len(work), generator=generator).numpy()
    shuffled = work[order]
    count = max(1, len(order) // size)
    places = ((np.cumsum(shuffled) - shuffled / 2) * count / shuffled.sum()).astype(np.int64)
    return [part.tolist() for part in np.split(order, np.flatnonzero(np.diff(places)) + 1)]


def share_out(rows: Sequence[int], work: NDArray[np.float64], ranks: int) -> list[list[int]]:
    """Rows of one batch for each process: the costliest first, each to who has least; a part may be empty."""
    if ranks == 1:
        return [list(rows)]
    parts: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0.0] * ranks
    for row in sorted(rows, key=lambda row: -work[row]):
        lightest = loads.index(min(loads))
        parts[lightest].append(row)
        loads[lightest] += float(work[row])
    return parts


def collated(examples: Examples, batches: Iterable[Sequence[int]]) -> Iterator[tuple[GraphBatch, Tensor]]:
    """Graphs and targets of each batch; one without rows has no atoms, so that all processes take the same steps."""
    for rows in batches:
        graph = collate([examples.graphs[row] for row in rows or [0]])
        if not rows:
            graph = GraphBatch(**{field.name: getattr(graph, field.name)[:0] for field in fields(graph)})
        yield graph, torch.from_numpy(examples.targets[np.array(rows, dtype=np.int64)])
