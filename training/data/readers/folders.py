"""A folder of structure files with a table of values: id_prop.csv (CGCNN, ALIGNN) or targets.csv (MatDeepLearn)."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Final

from deepergatgnn.errors import ConfigError
from deepergatgnn.structures import Crystal
from deepergatgnn.training.data.dataset import Refusal
from deepergatgnn.training.data.readers.columns import Record, as_number, dataset_of, is_empty
from deepergatgnn.training.data.readers.rows import Dataset, sha256
from deepergatgnn.training.data.readers.structures import SUFFIXES, VASP_NAMES, crystal_of, format_of
from deepergatgnn.training.data.readers.tables import csv_rows

TABLES: Final = ("id_prop.csv", "targets.csv")
TARGET: Final = "target"  # without a header: target, target_2, target_3, ...
_OTHERS: Final = {*TABLES, "atom_init.json", "atom_dict.json"}  # element tables of CGCNN and MatDeepLearn


def table_of(folder: Path) -> Path | None:
    """Return the table of a folder; None if it has none.

    Raises:
        ConfigError: if it has both.
    """
    found = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(found) > 1:
        raise ConfigError(f"{folder} has {' and '.join(TABLES)}: give the path of the one that counts")
    return found[0] if found else None


def read_folder(table: Path, name: str) -> Dataset:
    """Read the files that a table names.

    The first column is the id: the name of a file beside the table or in a folder below it, with or without the suffix
    of a structure, or the part after `POSCAR_`; or its path relative to the table, which distinguishes files of the
    same name. The other columns are targets. Refused are an id without a file and a structure file without an id, in
    folders with other files that have one.

    Raises:
        ConfigError: if the table is not a CSV file or has no column of values.
    """
    content = table.read_bytes()
    beside = [path.relative_to(table.parent).as_posix() for path in structure_files(table)]
    files = [file for file in beside if format_of(file)]
    names, required, lines = _columns(table, content, beside)
    index = {file: [file] for file in beside} | _index(files)
    used: dict[str, str] = {}
    records = []
    for number, cells in lines:
        place = f"line {number} of {table.name}"
        row_id, source = _row(cells, len(names) + 1, place, index, used)
        records.append(Record(row_id, place, source, dict(zip(names, cells[1:], strict=False))))
    contents = {file: (table.parent / file).read_bytes() for file in sorted(used)}
    digest = sha256([content, *(part for file, text in contents.items() for part in (file.encode(), text))])

    def read(file: str) -> Crystal:
        return crystal_of(contents[file], format_of(file) or "auto")

    dataset = dataset_of(name, digest, records, read, required)
    named = {cells[0] for _, cells in lines}
    folders = {PurePath(file).parent for file in used} | {PurePath()}
    unnamed = tuple(
        Refusal(file, "no_row", f"No line of {table.name} names this file: add one, or remove the file.")
        for file in files
        if file not in used and PurePath(file).parent in folders and not set(_names(file)) & named
    )
    return Dataset(dataset.name, dataset.sha256, dataset.rows, dataset.refused + unnamed)


def structure_files(table: Path) -> list[Path]:
    """Return the files that a table may name: all beside it, and structure files in folders below."""
    beside = [path for path in table.parent.iterdir() if path.is_file() and path.name not in _OTHERS]
    below = [
        path
        for path in table.parent.glob("*/**/*")
        if format_of(path.name) and path.is_file() and path.name not in _OTHERS
    ]
    return sorted(beside) + sorted(below)


def _columns(
    table: Path, content: bytes, files: Sequence[str]
) -> tuple[list[str], list[str], list[tuple[int, list[str]]]]:
    """Return the columns after the id, those that must be targets, and the numbered lines of the table."""
    try:
        found = csv_rows(content)
    except (csv.Error, ValueError) as error:
        raise ConfigError(f"{table} is not a CSV: {error}") from None
    if not found:
        raise ConfigError(f"{table} is empty: write a line `id,value` for each structure")
    first = found[0][1]
    stems = {name for file in files for name in _names(file)}
    header = first[0] not in stems and not any(as_number(cell) is not None or is_empty(cell) for cell in first[1:])
    lines = found[1 if header else 0 :]
    width = len(first)
    if width == 1:
        raise ConfigError(f"the first line of {table} has no value: write `id,value`, separated by commas")
    if header:
        names = first[1:]
        if len(set(names)) < len(names):
            raise ConfigError(f"{table}: two columns have the same name")
        # With a header there may be columns of text; a single column must be the target.
        return names, names if len(names) == 1 else [], lines
    names = [TARGET, *(f"{TARGET}_{number}" for number in range(2, width))]
    return names, names, lines


def _row(
    cells: Sequence[str], width: int, place: str, index: Mapping[str, Sequence[str]], used: dict[str, str]
) -> tuple[str, str | Refusal]:
    """Return the id of a line and its file, or its refusal."""
    named = cells[0]
    row_id = _stem(named) if named in index else named
    found = index.get(named, ())
    if any(cells[width:]) or len(cells) < width:
        detail = f"{place} has {len(cells)} cells, the first line has {width}: write one value for each column."
        used.update(dict.fromkeys(found, place))
        return row_id, Refusal(row_id, "bad_row", detail[0].upper() + detail[1:])
    if not named:
        return row_id, Refusal(row_id, "bad_row", f"The id in {place} is empty: write the name of a file.")
    if not found:
        return row_id, Refusal(
            row_id, "no_file", f"No file beside the table is called {named[:60]!r}, with or without a suffix."
        )
    if len(found) > 1:
        used.update(dict.fromkeys(found, place))
        return row_id, Refusal(row_id, "several_files", f"Files {', '.join(found)}: write the one meant, with suffix.")
    used.setdefault(found[0], place)
    return row_id, found[0]


def _index(files: Sequence[str]) -> dict[str, list[str]]:
    """Index files by each name that a table may use; a path relative to the table is unique."""
    found: dict[str, list[str]] = {}
    for file in files:
        for name in _names(file):
            found.setdefault(name, []).append(file)
    return found | {file: [file] for file in files}


def _names(file: str) -> list[str]:
    """Return the names of a file: with and without folders, suffix, and the prefix POSCAR_."""
    path = PurePath(file)
    stem = _stem(path.name)
    short = re.sub(rf"^(?:{'|'.join(VASP_NAMES)})[-_.]", "", stem, flags=re.IGNORECASE)
    names = [path.name, stem, short]
    if path.parent != PurePath():
        names += [path.parent.joinpath(name).as_posix() for name in (stem, short)] + [file]
        if stem.upper() in VASP_NAMES:  # a folder for each crystal
            names += [path.parent.as_posix(), path.parent.name]
    return list(dict.fromkeys(names))


def _stem(file: str) -> str:
    """Return a file name without the suffix of a structure; other dots are kept."""
    return file[: -len(Path(file).suffix)] if file.lower().endswith(SUFFIXES) else file
