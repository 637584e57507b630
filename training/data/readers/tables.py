"""CSV, JSON and Parquet tables with a column of structures."""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from deepergatgnn.errors import ConfigError, StructureError
from deepergatgnn.structures import Crystal
from deepergatgnn.training.data.dataset import Refusal
from deepergatgnn.training.data.readers.columns import Record, dataset_of, id_column, is_empty
from deepergatgnn.training.data.readers.rows import Dataset, optional
from deepergatgnn.training.data.readers.rows import sha256 as digest
from deepergatgnn.training.data.readers.structures import crystal_of, format_of

CSV_SUFFIXES: Final = (".csv", ".csv.gz")
SUFFIXES: Final = (*CSV_SUFFIXES, ".json", ".json.gz", ".parquet")
STRUCTURE_NAMES: Final = (
    "structure",
    "structures",
    "cif",
    "poscar",
    "atoms",
    "crystal",
    "cif_text",
    "structure_text",
    "structure_json",
    "final_structure",
    "relaxed_structure",
)
PATH_NAMES: Final = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "cif_file",
    "cif_path",
    "structure_file",
    "structure_path",
)
ARRAYS: Final = ("lattice", "species", "frac_coords")
_LONGEST_CELL: Final = 64 * 1024 * 1024
_LONGEST_PATH: Final = 1024
_SAMPLE: Final = 5  # filled cells of a column that decide whether it holds structures
_LABEL: Final = object()  # key of the index of a pandas table
_BROKEN: Final = object()  # key of the reason why a line is not a row

Table = list[dict[Any, Any]]


def read_table(path: Path, name: str) -> Dataset:
    """Read a table; the structure column of a CSV file may hold paths of files, relative to the folder of the table.

    Raises:
        ConfigError: if it is not a table, or not exactly one column holds structures.
    """
    content = path.read_bytes()
    table = _table_of(path, content)
    folder = path.parent if path.name.endswith(CSV_SUFFIXES) else None
    return dataset_of_table(table, name, hashlib.sha256(content).hexdigest(), str(path), folder)


def named_files(path: Path) -> list[Path]:
    """Return the structure files that the cells of a CSV file name; empty if its first rows name none."""
    if not path.name.endswith(CSV_SUFFIXES):
        return []
    content = path.read_bytes()
    try:
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        first = csv_rows(b"\n".join(text.split(b"\n", _SAMPLE + 1)[: _SAMPLE + 1]))
        if not any(_file_of(cell, path.parent) for _, cells in first for cell in cells):
            return []  # avoids reading a long table of texts
        named = {_file_of(cell, path.parent) for _, cells in csv_rows(text) for cell in cells}
    except (OSError, EOFError, zlib.error, csv.Error, ValueError):
        return []  # the caller reports the error
    return sorted(file for file in named if file is not None and file.is_file())


def _table_of(path: Path, content: bytes) -> Table:
    try:
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
        return {"csv": _csv_table, "json": _json_table, "parquet": _parquet_table}[kind](text)
    except (OSError, EOFError, zlib.error, csv.Error, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a table of that kind: {error}") from None


def _file_of(cell: Any, folder: Path | None) -> Path | None:
    """Return the file that a cell names, relative to a folder; None if the cell is not the path of a structure."""
    if folder is None or not isinstance(cell, str) or len(cell) > _LONGEST_PATH or "\n" in cell or "\0" in cell:
        return None
    return folder / cell.strip() if format_of(cell.strip()) else None


def dataset_of_table(table: Table, name: str, sha256: str, place: str, folder: Path | None = None) -> Dataset:
    """Find the columns of structures and ids, and read the rows; see `read_table`.

    Args:
        table: rows of the table.
        name: name of the data set.
        sha256: digest of the table, without the files that it names.
        place: name of the table in messages.
        folder: folder of the files that cells may name; None if cells are not paths.
    """
    contents: dict[Path, bytes] = {}

    def read(source: Any) -> Crystal:
        file = _file_of(source, folder)
        if file is None:
            return crystal_of(source)
        try:
            contents[file] = file.read_bytes()
        except OSError as error:
            detail = (
                f"The file {str(source)[:80]!r} cannot be read: {error.strerror or error}; paths begin in {folder}."
            )
            raise StructureError("unreadable", detail) from None
        return crystal_of(contents[file], format_of(file.name) or "auto")

    names = list(dict.fromkeys(key for row in table for key in row if isinstance(key, str)))
    columns = _structure_columns(names, table, place, read)
    identity = id_column(names) or _LABEL
    records = []
    for count, row in enumerate(table, start=1):
        cells = {key: cell for key, cell in row.items() if key not in (*columns, identity, _LABEL, _BROKEN)}
        cell = row.get(identity)
        source = row.get(columns[0]) if len(columns) == 1 else {key: _decoded(row.get(key)) for key in columns}
        row_id = str(cell).strip() if not is_empty(cell) else _path_id(source, folder) or str(count)
        if _BROKEN in row:
            source = Refusal(row_id, "bad_row", row[_BROKEN])
        records.append(Record(row_id, f"row {count}", source, cells))
    dataset = dataset_of(name, sha256, records, read)
    if contents:
        parts = (part for file in sorted(contents) for part in (str(file).encode(), contents[file]))
        dataset = replace(dataset, sha256=digest([sha256.encode(), *parts]))
    return dataset


def _path_id(source: Any, folder: Path | None) -> str | None:
    """Return the path of the file of a row without its suffix, as the id of a row without one."""
    if (file := _file_of(source, folder)) is None or folder is None:
        return None
    return file.relative_to(folder).with_suffix("").as_posix() if file.is_relative_to(folder) else str(source).strip()


def csv_rows(text: bytes) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file that are not blank: the line on which each ends, and its cells.

    The separator is the first comma, semicolon or tab of the first line.

    Raises:
        ValueError, csv.Error: if it is not CSV.
    """
    decoded = text.decode("utf-8-sig")
    separators = [character for character in decoded.split("\n", 1)[0] if character in ",;\t"]
    before = csv.field_size_limit(_LONGEST_CELL)  # a CIF in a cell exceeds the default limit
    try:
        reader = csv.reader(io.StringIO(decoded, newline=""), delimiter=(separators or [","])[0], strict=True)
        found = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    finally:
        csv.field_size_limit(before)
    return [(line, row) for line, row in found if any(row)]


def _csv_table(text: bytes) -> Table:
    found = csv_rows(text)
    if not found:
        raise ValueError("it is empty")
    (_, header), *lines = found
    if len(set(header)) < len(header):
        raise ValueError("two columns have the same name")
    table = []
    for line, cells in lines:
        row: dict[Any, Any] = dict(zip(header, cells, strict=False))
        if len(cells) != len(header):
            row[_BROKEN] = f"The row that ends on line {line} has {len(cells)} cells, the header {len(header)}."
        table.append(row)
    return table


def _parquet_table(content: bytes) -> Table:
    parquet = optional("pyarrow.parquet", "pip install pyarrow")
    found: Table = parquet.read_table(io.BytesIO(content)).to_pylist()
    return found


def _json_table(text: bytes) -> Table:
    """Read records, or a pandas table in the orient `records`, `columns`, `list`, `index` or `split`."""
    document = json.loads(text.decode("utf-8-sig"))
    if isinstance(document, list) and all(isinstance(row, dict) for row in document):
        return document
    if not isinstance(document, dict) or not document:
        raise ValueError("neither a list of objects nor a table of pandas")
    if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):
        labels = document.get("index") or [None] * len(document["data"])
        names = [str(name) for name in document["columns"]]
        rows = [dict(zip(names, row, strict=True)) for row in document["data"]]
        return _labelled(labels, rows)
    if all(isinstance(column, list) for column in document.values()):
        return [dict(zip(document, row, strict=True)) for row in zip(*document.values(), strict=True)]
    if not all(isinstance(column, dict) for column in document.values()):
        raise ValueError("neither a list of objects nor a table of pandas")
    labels = list(next(iter(document.values())))
    counted = all(str(label).isdecimal() for label in labels)
    if counted or {key.lower() for key in document} & {*STRUCTURE_NAMES, *ARRAYS}:
        return _labelled(labels, [{key: column.get(label) for key, column in document.items()} for label in labels])
    return _labelled(list(document), list(document.values()))


def _labelled(labels: Sequence[Any], rows: Table) -> Table:
    """Add the index of pandas to the rows, unless it is a count."""
    if all(label is None or str(label).isdecimal() for label in labels):
        return rows
    return [{_LABEL: label} | row for label, row in zip(labels, rows, strict=True)]


def _structure_columns(
    names: Sequence[str], table: Table, place: str, read: Callable[[Any], Crystal]
) -> tuple[str, ...]:
    """Return the column of structures, or the three columns of their arrays."""
    known = {name.strip().lower(): name for name in reversed(names)}
    for name in STRUCTURE_NAMES:
        if name in known:
            return (known[name],)
    if set(ARRAYS) <= set(names):
        return ARRAYS
    found = [name for name in names if _holds_structures([row.get(name) for row in table], read)]
    if len(found) == 1:
        return (found[0],)
    paths = [known[name] for name in PATH_NAMES if name in known]
    if not found and paths:  # its rows then report the missing files
        return (paths[0],)
    reason = f"columns {', '.join(found)} all hold structures" if found else "no column holds structures"
    shown = ", ".join(names[:12]) or "none"
    raise ConfigError(
        f"{place}: {reason}; call one of its columns `structure`, or `path` where it names files (it has: {shown})"
    )


def _holds_structures(cells: Sequence[Any], read: Callable[[Any], Crystal]) -> bool:
    for cell in [cell for cell in cells if isinstance(cell, str | Mapping) and not is_empty(cell)][:_SAMPLE]:
        try:
            read(cell)
        except StructureError:
            continue
        return True
    return False


def _decoded(cell: Any) -> Any:
    """Decode an array that a CSV file holds as JSON text."""
    if isinstance(cell, str):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell
