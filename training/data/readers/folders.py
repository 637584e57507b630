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
_OTHERS: Final = {*TABLES, "atom_init.json", "atom_dict.json"}  # the latter are CGCNN's and MatDeepLearn's elements


def table_of(folder: Path) -> Path | None:
    """The table of a folder; None if it has none.

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
    of a structure, or what follows `POSCAR_` in it; its path from the table too, which tells files of the same name
    apart. The others are targets. Listed are an id without a file and, where its name promises a structure, a file
    without an id, in folders that have others with one.

    Raises:
        ConfigError: if the table is no CSV or has no column of values.
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
    """Files that a table may name: all beside it, and those below whose name promises a structure."""
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
    """Names of the columns after the id, those that must be targets, and the numbered lines of the table."""
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
        # With a header there may be columns of text; a single column is what is to be learned.
        return names, names if len(names) == 1 else [], lines
    names = [TARGET, *(f"{TARGET}_{number}" for number in range(2, width))]
    return names, names, lines


def _row(
    cells: Sequence[str], width: int, place: str, index: Mapping[str, Sequence[str]], used: dict[str, str]
) -> tuple[str, str | Refusal]:
    """Id of a line and its file, or why it has none."""
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
    """Files by each name that a table may give them; a path from the table means that file alone."""
    found: dict[str, list[str]] = {}
    for file in files:
        for name in _names(file):
            found.setdefault(name, []).append(file)
    return found | {file: [file] for file in files}


def _names(file: str) -> list[str]:
    """Names of a file: with and without its folders, its suffix, and the POSCAR_ in front."""
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
    """A file name without the suffix of a structure; other dots are part of it."""
    return file[: -len(Path(file).suffix)] if file.lower().endswith(SUFFIXES) else file
