"""Data sets of matminer and Matbench by name, through the loader of matminer."""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, Final

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.data.matbench import official_folds, official_ids, task_named
from deepergatgnn.training.data.readers.json_lines import lines_of
from deepergatgnn.training.data.readers.rows import Dataset, Row, optional, sha256
from deepergatgnn.training.data.readers.tables import Table, dataset_of_table

MATBENCH: Final = "matbench:"
MATMINER: Final = "matminer:"
FOLD_FIELD: Final = "mb_fold"
_REMEDY: Final = "pip install matminer"


def is_set_name(name: str) -> bool:
    """Return whether a name belongs to a catalogue, such as `matbench:matbench_dielectric`."""
    return name.startswith((MATBENCH, MATMINER))


def read_set(name: str) -> Dataset:
    """Read a data set of a catalogue; those of Matbench get their official ids and folds.

    Raises:
        ConfigError: without matminer, without network for a set that is not downloaded, or for an unknown name.
    """
    short = name.split(":", 1)[1]
    if name.startswith(MATBENCH):
        task_named(short)
    load: Callable[..., Any] = optional("matminer.datasets", _REMEDY).load_dataset
    if name.startswith(MATBENCH):
        return matbench_dataset(short, _table(load, short))
    dataset = dataset_of_table(_table(load, short), short, "", name)
    return _signed(dataset)


def matbench_dataset(name: str, table: Table) -> Dataset:
    """Build the data set of a Matbench task, with official ids and folds.

    Args:
        name: name of the task.
        table: columns `structure` and the target, in the order of Matbench.

    Raises:
        ConfigError: if the table does not fit the task.
    """
    task = task_named(name)
    if len(table) != task.rows or task.target not in table[0]:
        raise ConfigError(f"{name} should have {task.rows} rows and a column {task.target!r}: update matminer")
    ids, folds = official_ids(name), official_folds(name)
    lines = [
        {"id": row_id, "structure": row["structure"], task.target: row[task.target]}
        for row_id, row in zip(ids, table, strict=True)
    ]
    dataset = dataset_of_table(lines, name, "", name)
    tested = dict(zip(ids, folds, strict=True))
    rows = tuple(Row(row.id, row.crystal, row.targets, {FOLD_FIELD: tested[row.id]}) for row in dataset.rows)
    return _signed(Dataset(name, "", rows, dataset.refused))


def _table(load: Callable[..., Any], name: str) -> Table:
    try:
        with redirect_stdout(sys.stderr):  # the loader prints messages about its download
            frame = load(name)
    except (OSError, ValueError, UserWarning) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"matminer cannot load {name!r} ({reason}): check the name and the network, or put its file into the "
            "folder that the variable MATMINER_DATA names"
        ) from None
    table: Table = frame.to_dict(orient="records")
    return table


def _signed(dataset: Dataset) -> Dataset:
    """Add the digest of the rows, since a loader provides no file."""
    return Dataset(dataset.name, sha256(lines_of(dataset.rows)), dataset.rows, dataset.refused)
