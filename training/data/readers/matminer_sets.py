"""Sets of matminer and Matbench by name, through matminer's own loader."""

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
    """Whether a name is one of a catalogue, such as `matbench:matbench_dielectric`."""
    return name.startswith((MATBENCH, MATMINER))


def read_set(name: str) -> Dataset:
    """Read a set of a catalogue; those of Matbench get their official ids and folds.

    Raises:
        ConfigError: without matminer, without network for a set that it has not kept, or for an unknown name.
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
    """Rows of a Matbench task, with its ids, its target and its official folds.

    Args:
        name: of the task.
        table: columns `structure` and the target, in Matbench's order.

    Raises:
        ConfigError: if the table is not that of the task.
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
        with redirect_stdout(sys.stderr):  # the loader tells of its download
            frame = load(name)
    except (OSError, ValueError, UserWarning) as error:
        said = " ".join(str(error).split())
        raise ConfigError(
            f"matminer cannot load {name!r} ({said}): check the name and the network, or put its file into the "
            "folder that the variable MATMINER_DATA names"
        ) from None
    table: Table = frame.to_dict(orient="records")
    return table


def _signed(dataset: Dataset) -> Dataset:
    """With the digest of its rows: a loader gives no file to take one of."""
    return Dataset(dataset.name, sha256(lines_of(dataset.rows)), dataset.rows, dataset.refused)
