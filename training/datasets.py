"""Crystals with properties: one JSON object a line, as `{"id", "structure", "targets", ...}`."""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.equivalence import merge_equivalent
from deepergatgnn.errors import ConfigError, StructureError
from deepergatgnn.graph import CrystalGraph, GraphConfig, build_graph
from deepergatgnn.structures import Crystal, crystal_from_arrays

BUNDLED = Path(__file__).parent / "examples"
DATA_VARIABLE = "DEEPERGATGNN_DATA"


@dataclass(frozen=True, eq=False)
class Row:
    """One crystal of a data set; `fields` are its columns besides structure and targets."""

    id: str
    crystal: Crystal
    targets: dict[str, Any]
    fields: dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """A row that has no graph, and why."""

    id: str
    code: str
    detail: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory: readable rows in file order, refused rows listed."""

    name: str
    sha256: str
    rows: tuple[Row, ...]
    refused: tuple[Refusal, ...]

    def values(self, keys: Sequence[str]) -> NDArray[np.float64]:
        """Targets [rows, keys]; NaN where a row has no finite number."""
        numbers = [[number(row.targets.get(key)) for key in keys] for row in self.rows]
        return np.array(numbers, dtype=np.float64).reshape(len(self.rows), len(keys))


def number(value: Any) -> float:
    """A target as a number; NaN where there is no finite one."""
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else float("nan")


def known_datasets() -> dict[str, Path]:
    """Data sets that have a name here: the bundled ones and those of the data folder."""
    found = {path.name.removesuffix(".jsonl.gz"): path for path in sorted(BUNDLED.glob("*.jsonl.gz"))}
    if folder := os.environ.get(DATA_VARIABLE):
        for path in sorted(Path(folder).glob("*/*.jsonl.gz")):
            found.setdefault(path.name.removesuffix(".jsonl.gz"), path)
    return found


def locate(name: str) -> Path:
    """Find a data set: a path, a bundled set, or NAME/NAME.jsonl.gz in the folder $DEEPERGATGNN_DATA.

    Raises:
        ConfigError: if there is none.
    """
    if Path(name).is_file():
        return Path(name)
    known = known_datasets()
    if name in known:
        return known[name]
    raise ConfigError(
        f"no data set {name!r}: give a path to a .jsonl or .jsonl.gz, one of {', '.join(known)}, or set "
        f"{DATA_VARIABLE} to the folder that holds it"
    )


def read_dataset(name: str) -> Dataset:
    """Read a whole data set; rows that cannot be read are listed, never dropped in silence.

    Raises:
        ConfigError: if the file is not such a data set.
    """
    path = locate(name)
    content = path.read_bytes()
    try:
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        documents = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON lines: {error}") from None
    rows, refused = [], []
    for number, document in enumerate(documents, start=1):
        if not isinstance(document, dict) or "structure" not in document:
            raise ConfigError(f"{path}, line {number}: not an object with a structure")
        if not isinstance(document.get("targets") or {}, dict):
            raise ConfigError(f"{path}, line {number}: targets is not an object")
        row_id = str(document.get("id", number))
        try:
            crystal = crystal_from_arrays(**document["structure"])
        except StructureError as error:
            refused.append(Refusal(row_id, error.code, error.detail))
            continue
        except TypeError as error:
            raise ConfigError(f"{path}, line {number}: structure needs lattice, species, frac_coords") from error
        fields = {key: value for key, value in document.items() if key not in {"id", "structure", "targets"}}
        rows.append(Row(row_id, crystal, document.get("targets") or {}, fields))
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return Dataset(name, hashlib.sha256(content).hexdigest(), tuple(rows), tuple(refused))


def build_graphs(dataset: Dataset, config: GraphConfig) -> tuple[Dataset, list[CrystalGraph]]:
    """Graphs of all rows.

    Returns:
        The data set without the rows that have no graph, those added to `refused`; and a graph for each row left.
    """
    rows, graphs, refused = [], [], list(dataset.refused)
    for row in dataset.rows:
        try:
            graphs.append(merge_equivalent(build_graph(row.crystal, config)))
        except StructureError as error:
            refused.append(Refusal(row.id, error.code, error.detail))
        else:
            rows.append(row)
    return Dataset(dataset.name, dataset.sha256, tuple(rows), tuple(refused)), graphs


def describe(name: str) -> dict[str, Any]:
    """Counts of a data set: rows, elements, targets, refused rows by code."""
    dataset = read_dataset(name)
    keys = sorted({key for row in dataset.rows for key in row.targets})
    known = np.isfinite(dataset.values(keys)).sum(axis=0)
    sizes = [row.crystal.n_atoms for row in dataset.rows]
    return {
        "name": dataset.name,
        "sha256": dataset.sha256,
        "rows": len(dataset.rows),
        "elements": len({symbol for row in dataset.rows for symbol in row.crystal.symbols}),
        "atoms_mean": round(float(np.mean(sizes)), 1) if sizes else 0,
        "atoms_max": max(sizes, default=0),
        "targets": {key: int(count) for key, count in zip(keys, known, strict=True)},
        "refused": [{"id": refusal.id, "code": refusal.code} for refusal in dataset.refused],
    }
