"""Crystals → graphs, chunk by chunk, in as many processes as there are processors."""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from deepergatgnn.errors import DeeperGATGNNError, StructureError
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.symmetry_reduction import reduce_graphs
from deepergatgnn.training.data.dataset import Refusal
from deepergatgnn.training.data.graph_arrays import Arrays, pack
from deepergatgnn.training.data.readers.rows import Row, number

FEATURISER_VERSION = 3  # to be raised when the code makes other rows or graphs of the same data
CHUNK = 500
WORTH_A_PROCESS = 5000  # rows that are featurised in the time that a process needs to start


class FeaturisingError(DeeperGATGNNError):
    """Graphs could not be made, for no fault of the crystals."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows of a data set with their graphs, packed, and those that have none."""

    ids: list[str]
    formulas: list[str]
    targets: list[dict[str, float]]
    fields: list[dict[str, Any]]
    arrays: Arrays
    refused: list[Refusal]
    warnings: list[tuple[str, ...]]


def featurise(rows: Sequence[Row], config: GraphConfig, processes: int | None = None) -> Iterator[Chunk]:
    """Chunks of rows with graphs, in the order of the rows, however many processes make them.

    Args:
        rows: of a data set.
        config: the featuriser's constants.
        processes: as many as processors, if None; a small set is not worth more than one.
    """
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    wanted = processes or min(os.cpu_count() or 1, len(rows) // WORTH_A_PROCESS)
    if wanted <= 1:
        for chunk in chunks:
            yield featurise_chunk(chunk, config)
        return
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(wanted, multiprocessing.get_context(method)) as pool:
        waiting: deque[Future[Chunk]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(featurise_chunk, chunk, config))
                if len(waiting) > 2 * wanted:  # so that chunks that nobody has written yet do not pile up
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise FeaturisingError(
                "a process that makes graphs was ended, perhaps for want of memory, or it could not start: a program "
                "that calls this must be a file and do so below `if __name__ == '__main__'`"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def featurise_chunk(rows: Sequence[Row], config: GraphConfig) -> Chunk:
    """The graphs of some rows."""
    kept: list[Row] = []
    graphs: list[CrystalGraph] = []
    refused: list[Refusal] = []
    for row, found in zip(rows, reduce_graphs([row.crystal for row in rows], config), strict=True):
        if isinstance(found, StructureError):
            refused.append(Refusal(row.id, found.code, found.detail))
        else:
            graphs.append(found)
            kept.append(row)
    return Chunk(
        ids=[row.id for row in kept],
        formulas=[row.crystal.reduced_formula for row in kept],
        targets=[{key: number(value) for key, value in row.targets.items()} for row in kept],
        fields=[_labels(row.targets) | row.fields for row in kept],
        arrays=pack(graphs, [row.crystal.lattice for row in kept], [row.crystal.frac_coords for row in kept]),
        refused=refused,
        warnings=[row.crystal.warnings for row in kept],
    )


def _labels(targets: Mapping[str, Any]) -> dict[str, str | bool]:
    """Targets that are classes: a column of numbers cannot hold them."""
    return {key: value for key, value in targets.items() if isinstance(value, str | bool)}
