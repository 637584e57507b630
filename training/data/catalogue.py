"""Data sets by name or path, in every supported form; see `read_dataset`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.data.readers import folders, frames, json_lines, matminer_sets, tables
from deepergatgnn.training.data.readers.rows import Dataset, Row, number
from deepergatgnn.training.data.row_warnings import warning_table

__all__ = [
    "BUNDLED",
    "DATA_VARIABLE",
    "SUFFIXES",
    "Dataset",
    "Row",
    "describe",
    "fetch",
    "known_datasets",
    "locate",
    "number",
    "read_dataset",
]

BUNDLED = Path(__file__).parents[1] / "examples"
DATA_VARIABLE = "DEEPERGATGNN_DATA"
_READERS: Final[tuple[tuple[tuple[str, ...], Callable[[Path, str], Dataset]], ...]] = (
    (json_lines.SUFFIXES, json_lines.read_json_lines),
    (tables.SUFFIXES, tables.read_table),
    (frames.XYZ_SUFFIXES, frames.read_extxyz_frames),
    (frames.DATABASE_SUFFIXES, frames.read_ase_database),
)
SUFFIXES: Final = tuple(suffix for suffixes, _ in _READERS for suffix in suffixes)
# Suffixes that make a folder without id_prop.csv a data set; .json is more likely a structure.
_WHOLE_SETS: Final = tuple(suffix for suffix in SUFFIXES if suffix not in {".json", ".json.gz", ".xyz"})


def known_datasets() -> dict[str, Path]:
    """Return the named data sets: bundled, and of the data folder."""
    found = {path.name.removesuffix(".jsonl.gz"): path for path in sorted(BUNDLED.glob("*.jsonl.gz"))}
    if folder := os.environ.get(DATA_VARIABLE):
        for path in sorted(Path(folder).glob("*/*.jsonl.gz")):
            found.setdefault(path.name.removesuffix(".jsonl.gz"), path)
        for path in sorted({path.parent for name in folders.TABLES for path in Path(folder).glob(f"*/{name}")}):
            found.setdefault(path.name, path)
    return found


def locate(name: str) -> Path:
    """Find a data set: a path to a file or a folder, a bundled set, or a set of the folder $DEEPERGATGNN_DATA.

    There a set is NAME/NAME.jsonl.gz, or a folder NAME of structure files with id_prop.csv or targets.csv.

    Raises:
        ConfigError: if it does not exist.
    """
    path = Path(name)
    if path.is_file() or (name and path.is_dir() and _set_in(path)):
        return path
    known = known_datasets()
    if name in known:
        return known[name]
    if name and path.is_dir():
        raise ConfigError(
            f"folder {name!r} is not a data set: it has neither {' nor '.join(folders.TABLES)}, nor exactly one file "
            f"{', '.join(_WHOLE_SETS)}; write a line `id,value` for each structure into id_prop.csv"
        )
    raise ConfigError(
        f"no data set {name!r}: give a path to a file ({', '.join(SUFFIXES)}) or to a folder with id_prop.csv, one of "
        f"{', '.join(known)}, matbench:NAME or matminer:NAME, or set {DATA_VARIABLE} to the folder that holds it"
    )


def read_dataset(name: str) -> Dataset:
    """Read a data set; rows that cannot be read are listed with their reason.

    Args:
        name: as in `locate`, or of a catalogue: `matbench:matbench_dielectric`, `matminer:flla`. Supported are JSON
            lines; folders of CIF, POSCAR or JSON files with id_prop.csv or targets.csv; CSV, JSON and Parquet tables
            with a column of structures; extxyz files and ASE databases.

    Raises:
        ConfigError: if it is not a data set.
    """
    if matminer_sets.is_set_name(name):
        return matminer_sets.read_set(name)
    path = locate(name)
    if path.is_dir():
        path = _set_in(path) or path
    if path.name in folders.TABLES:
        return folders.read_folder(path, path.resolve().parent.name)
    for suffixes, reader in _READERS:
        for suffix in suffixes:
            if path.name.endswith(suffix):
                return reader(path, path.name.removesuffix(suffix))
    raise ConfigError(f"{path} has no suffix of a data set: it should end with {', '.join(SUFFIXES)}")


def _set_in(folder: Path) -> Path | None:
    """Return the file that makes a folder a data set."""
    if table := folders.table_of(folder):
        return table
    whole = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.endswith(_WHOLE_SETS)]
    return whole[0] if len(whole) == 1 else None


def fetch(name: str, folder: Path | None = None) -> tuple[Path, Dataset]:
    """Read a data set, of a catalogue for example, and write its readable rows into the data folder.

    Args:
        name: as in `read_dataset`.
        folder: data folder. Default: that of the environment.

    Returns:
        The file FOLDER/NAME/NAME.jsonl.gz and the data set.

    Raises:
        ConfigError: as `read_dataset`, or if there is no folder or the file exists.
    """
    root = folder or (Path(found) if (found := os.environ.get(DATA_VARIABLE)) else None)
    if root is None:
        raise ConfigError(f"nowhere to write {name!r}: give --out FOLDER, or set {DATA_VARIABLE}")
    dataset = read_dataset(name)
    path = root / dataset.name / f"{dataset.name}.jsonl.gz"
    if not matminer_sets.is_set_name(name) and path.exists():
        raise ConfigError(f"{path} exists: remove it, or give another folder")
    json_lines.write_json_lines(dataset, path)
    return path, dataset


def describe(name: str) -> dict[str, Any]:
    """Summarise a data set: rows, elements, statistics of targets, refused rows with their reason, warnings."""
    dataset = read_dataset(name)
    keys = sorted({key for row in dataset.rows for key in row.targets})
    sizes = [row.crystal.n_atoms for row in dataset.rows]
    columns = zip(keys, dataset.values(keys).T, strict=True)
    return {
        "name": dataset.name,
        "sha256": dataset.sha256,
        "rows": len(dataset.rows),
        "elements": len({symbol for row in dataset.rows for symbol in row.crystal.symbols}),
        "atoms_mean": round(float(np.mean(sizes)), 1) if sizes else 0,
        "atoms_max": max(sizes, default=0),
        "targets": {key: _summary(column[np.isfinite(column)]) for key, column in columns},
        "fields": sorted({key for row in dataset.rows for key in row.fields}),
        "refused": [{"id": row.id, "code": row.code, "detail": row.detail} for row in dataset.refused],
        "warnings": warning_table(dataset.warnings),
    }


def _summary(known: NDArray[np.float64]) -> dict[str, Any]:
    """Number of known values, mean, standard deviation, minimum and maximum."""
    if not len(known):
        return {"known": 0, "mean": None, "std": None, "min": None, "max": None}
    spread = {"mean": known.mean(), "std": known.std(), "min": known.min(), "max": known.max()}
    return {"known": len(known)} | {key: float(value) for key, value in spread.items()}
