"""Crystals → graphs, in chunks and on all processors."""

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

FEATURISER_VERSION = 3  # raise it when the code makes different rows or graphs from the same data
CHUNK = 500
WORTH_A_PROCESS = 5000  # rows that are featurised in the start-up time of a process


class FeaturisingError(DeeperGATGNNError):
    """Featurising failed for a reason other than the crystals."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows of a data set with their packed graphs, and the refused rows."""

    ids: list[str]
    formulas: list[str]
    targets: list[dict[str, float]]
    fields: list[dict[str, Any]]
    arrays: Arrays
    refused: list[Refusal]
    warnings: list[tuple[str, ...]]


def featurise(rows: Sequence[Row], config: GraphConfig, processes: int | None = None) -> Iterator[Chunk]:
    """Yield chunks of featurised rows, in the order of the rows.

    Args:
        rows: rows of a data set.
        config: constants of the featuriser.
        processes: number of processes. Default: all processors, but one process for a small set.
    """
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    count = processes or min(os.cpu_count() or 1, len(rows) // WORTH_A_PROCESS)
    if count <= 1:
        for chunk in chunks:
            yield featurise_chunk(chunk, config)
        return
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(count, multiprocessing.get_context(method)) as pool:
        waiting: deque[Future[Chunk]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(featurise_chunk, chunk, config))
                if len(waiting) > 2 * count:  # bounds the chunks that are not written yet
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise FeaturisingError(
                "a featurising process was killed, possibly for lack of memory, or could not start: a program that "
                "calls this must be a file and call it below `if __name__ == '__main__'`"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def featurise_chunk(rows: Sequence[Row], config: GraphConfig) -> Chunk:
    """Featurise rows."""
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
    """Return the targets that are classes, which a column of numbers cannot hold."""
    return {key: value for key, value in targets.items() if isinstance(value, str | bool)}
