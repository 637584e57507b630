"""Featurised data set as a folder: flat binary files that are mapped into memory, and JSON. No pickle, no code.

`index.json` lists the sha256 of every other file and of itself, so that damaged folders are refused. Needs numpy only,
for training on bare machines.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import DeeperGATGNNError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.training.data.dataset import PreparedDataset, Refusal
from deepergatgnn.training.data.graph_arrays import LAYOUT, Arrays, PackedCells, PackedGraphs, pack

INDEX, ROWS, COLUMNS = "index.json", "rows.json", "columns.bin"
FORMAT = 4
_CHUNK = 1000


class DamagedFolderError(DeeperGATGNNError):
    """Folder of featurised data that is incomplete, damaged or of another kind."""


class FolderWriter:
    """Writes a folder file by file and chunk by chunk; `close` completes it.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._digests: dict[str, Any] = {}
        for key in LAYOUT:
            self._open(f"{key}.bin")

    def append(self, arrays: Arrays) -> None:
        """Append crystals."""
        for key in LAYOUT:
            self._write(f"{key}.bin", np.ascontiguousarray(arrays[key]).tobytes())

    def add(self, name: str, content: bytes) -> None:
        """Add a file."""
        self._open(name)
        self._write(name, content)

    def close(self, dataset: PreparedDataset) -> None:
        """Write the columns of the rows and the index."""
        keys = sorted(dataset.columns)
        self.add(COLUMNS, np.array([dataset.columns[key] for key in keys], dtype="<f8").tobytes())
        rows = {"ids": list(dataset.ids), "formulas": list(dataset.formulas)}
        fields = {name: list(column) for name, column in dataset.fields.items()}
        self.add(ROWS, json.dumps(rows | {"fields": fields, "warnings": dataset.warnings}).encode())
        content = {
            "format": FORMAT,
            "name": dataset.name,
            "sha256": dataset.sha256,
            "graph": asdict(dataset.graph),
            "rows": len(dataset),
            "columns": keys,
            "refused": [asdict(refusal) for refusal in dataset.refused],
            "files": {name: digest.hexdigest() for name, digest in self._digests.items()},
        }
        self.discard()
        index = {"content": content, "sha256": _digest(content)}
        (self._folder / INDEX).write_text(json.dumps(index), "utf-8")

    def discard(self) -> None:
        """Close the files without an index."""
        for file in self._files.values():
            file.close()

    def _open(self, name: str) -> None:
        self._files[name] = (self._folder / name).open("wb")
        self._digests[name] = hashlib.sha256()

    def _write(self, name: str, content: bytes) -> None:
        self._files[name].write(content)
        self._digests[name].update(content)


def write_prepared(folder: Path, dataset: PreparedDataset, others: Mapping[str, bytes]) -> None:
    """Write a data set and other files into an empty folder."""
    writer = FolderWriter(folder)
    try:
        for start in range(0, len(dataset), _CHUNK):
            cells = dataset.cells[start : start + _CHUNK]
            lattices = [np.array(cell.lattice) for cell in cells]
            coords = [np.array(cell.frac_coords) for cell in cells]
            writer.append(pack(dataset.graphs[start : start + _CHUNK], lattices, coords))
        for name, content in others.items():
            writer.add(name, content)
        writer.close(dataset)
    finally:
        writer.discard()


def read_prepared(folder: Path) -> PreparedDataset:
    """Read and check a folder; graphs and cells are read on access.

    Raises:
        DamagedFolderError: if it is missing, incomplete or damaged.
    """
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFolderError(f"{folder} is not a complete folder of prepared data ({error})") from None


def map_file(folder: Path, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map a binary file into memory, read-only; `shape` may begin with -1."""
    path = folder / name
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty([max(size, 0) for size in shape], dtype)
    return np.asarray(np.memmap(path, dtype, mode="r")).reshape(shape)


def _read(folder: Path) -> PreparedDataset:
    index = json.loads((folder / INDEX).read_bytes())
    content = index["content"]
    if index["sha256"] != _digest(content) or content["format"] != FORMAT:
        raise ValueError(f"{INDEX} is damaged or of another format")
    for name, expected in content["files"].items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise ValueError(f"{name} does not match its sha256")
    rows = json.loads((folder / ROWS).read_bytes())
    arrays = {key: map_file(folder, f"{key}.bin", dtype, (-1, *shape)) for key, (dtype, shape) in LAYOUT.items()}
    keys = content["columns"]
    columns = map_file(folder, COLUMNS, "<f8", (len(keys), content["rows"]))
    return PreparedDataset(
        name=content["name"],
        sha256=content["sha256"],
        graph=GraphConfig(**content["graph"]),
        ids=rows["ids"],
        formulas=rows["formulas"],
        columns=dict(zip(keys, columns, strict=True)),
        fields=rows["fields"],
        graphs=PackedGraphs(arrays),
        cells=PackedCells(arrays),
        refused=tuple(Refusal(**refusal) for refusal in content["refused"]),
        warnings=rows["warnings"],
    )


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
