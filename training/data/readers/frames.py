"""extxyz files and ASE databases, through ASE. Its old pickle formats are never read."""

import hashlib
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from deepergatgnn.errors import ConfigError
from deepergatgnn.structures.extxyz import without_structure
from deepergatgnn.training.data.dataset import Refusal
from deepergatgnn.training.data.readers.ase_objects import REMEDY, crystal_of_ase
from deepergatgnn.training.data.readers.columns import Record, dataset_of, id_column, is_empty
from deepergatgnn.training.data.readers.rows import Dataset, optional
from deepergatgnn.training.data.readers.structures import crystal_of

XYZ_SUFFIXES: Final = (".extxyz", ".xyz")
DATABASE_SUFFIXES: Final = (".db",)


def read_extxyz_frames(path: Path, name: str) -> Dataset:
    """Read a file of frames; the comment line of a frame gives its columns.

    Raises:
        ConfigError: without ASE, or if the file is not text.
    """
    parse = optional("ase.io.extxyz", REMEDY).key_val_str_to_dict
    content = path.read_bytes()
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not extxyz: {error}") from None
    sources: list[str | Refusal] = []
    infos: list[dict[str, Any]] = []
    for count, frame in enumerate(_frames(lines), start=1):
        try:
            # The structure has its own reader, which reads more spellings of the cell.
            info = parse(without_structure(frame[1])) if frame[0].strip().isdecimal() and len(frame) > 1 else {}
        except Exception as error:  # noqa: BLE001 - the parser of ASE raises errors of many types
            detail = f"The comment line of frame {count} cannot be read ({error}): write key=value pairs."
            sources.append(Refusal(str(count), "unreadable", detail))
            infos.append({})
        else:
            sources.append("\n".join(frame))
            infos.append(info)
    made = _records("frame", sources, infos)
    return dataset_of(name, hashlib.sha256(content).hexdigest(), made, lambda text: crystal_of(text, "extxyz"))


def read_ase_database(path: Path, name: str) -> Dataset:
    """Read an ASE database of SQLite; its key-value pairs and its energy are the columns.

    Raises:
        ConfigError: without ASE, or if the file is not such a database.
    """
    connect = optional("ase.db.core", REMEDY).connect
    content = path.read_bytes()
    _check_database(path)
    sources, infos = [], []
    try:
        with connect(path, type="db", create_indices=False, use_lock_file=False) as database:
            for row in database.select():
                info = dict(row.key_value_pairs)
                if (energy := row.get("energy")) is not None:
                    info.setdefault("energy", energy)
                sources.append((row.cell, row.numbers, row.positions, row.pbc))
                infos.append(info)
    except Exception as error:  # noqa: BLE001 - the database raises errors of many types
        raise ConfigError(f"{path} is a damaged or too old ASE database ({error}): write it again with ASE") from None
    made = _records("row", sources, infos)
    return dataset_of(name, hashlib.sha256(content).hexdigest(), made, lambda source: crystal_of_ase(*source))


def _frames(lines: Sequence[str]) -> Iterator[list[str]]:
    """Split a file by the counts of its frames; the rest after an invalid count is one last, unreadable frame."""
    start = 0
    while start < len(lines):
        if not (word := lines[start].strip()):
            start += 1
            continue
        end = start + 2 + int(word) if word.isdecimal() else len(lines)
        yield list(lines[start:end])
        start = end


def _ids(infos: Sequence[dict[str, Any]]) -> list[str]:
    """Return the ids of the frames, removed from their columns, if they are unique; else their numbers.

    Frames of a trajectory often share the name of their crystal.
    """
    names = list(dict.fromkeys(itertools.chain.from_iterable(infos)))
    column = id_column(names)
    if column is not None:
        found = [info.get(column) for info in infos]
        if not any(map(is_empty, found)) and len(set(map(str, found))) == len(found):
            return [str(info.pop(column)) for info in infos]
    return [str(count) for count in range(1, len(infos) + 1)]


def _records(what: str, sources: Sequence[Any], infos: Sequence[dict[str, Any]]) -> list[Record]:
    return [
        Record(row_id, f"{what} {count}", source, info)
        for count, (row_id, source, info) in enumerate(zip(_ids(infos), sources, infos, strict=True), start=1)
    ]


def _check_database(path: Path) -> None:
    """Refuse any other file, since ASE would create its tables in it."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            known = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'systems'").fetchone()
    except sqlite3.Error as error:
        raise ConfigError(f"{path} is not an ASE database of SQLite: {error}") from None
    if known is None:
        raise ConfigError(f"{path} is not an ASE database of SQLite: it has no table `systems`")
