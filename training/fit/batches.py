"""Shuffled batches of about equal work, each split among the processes of a run."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepergatgnn.nn.batch import GraphBatch, collate
from deepergatgnn.training.data.examples import Examples

Batches = Iterable[tuple[GraphBatch, Tensor]]


def draw_batches(work: NDArray[np.float64], size: int, generator: torch.Generator) -> list[list[int]]:
    """Rows of shuffled batches of about equal work: each has that of `size` average crystals; no row is left out."""
    order = torch.randperm(len(work), generator=generator).numpy()
    shuffled = work[order]
    count = max(1, len(order) // size)
    places = ((np.cumsum(shuffled) - shuffled / 2) * count / shuffled.sum()).astype(np.int64)
    return [part.tolist() for part in np.split(order, np.flatnonzero(np.diff(places)) + 1)]


def share_out(rows: Sequence[int], work: NDArray[np.float64], ranks: int) -> list[list[int]]:
    """Rows of one batch for each process: the costliest first, each to the lightest part; a part may be empty."""
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
