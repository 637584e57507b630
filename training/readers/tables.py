"""CSV, JSON and Parquet tables with a column of structures."""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deepergatgnn.errors import ConfigError, StructureError
from training.prepared import Refusal
from training.readers.columns import Record, dataset_of, id_column, is_empty
from training.readers.rows import Dataset, optional
from training.readers.structures import crystal_of

SUFFIXES: Final = (".csv", ".csv.gz", ".json", ".json.gz", ".parquet")
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
ARRAYS: Final = ("lattice", "species", "frac_coords")
_LONGEST_CELL: Final = 64 * 1024 * 1024
_LOOKED_AT: Final = 5  # filled cells of a column that tell whether it holds structures
_LABEL: Final = object()  # key of the index of a pandas table, beside its columns
_BROKEN: Final = object()  # key of why a line is no row, beside what it has

Table = list[dict[Any, Any]]


def read_table(path: Path, name: str) -> Dataset:
    """Read a whole table.

    Raises:
        ConfigError: if it is no table, or none or several of its columns hold structures.
    """
    content = path.read_bytes()
    try:
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
        table = {"csv": _csv_table, "json": _json_table, "parquet": _parquet_table}[kind](text)
    except (OSError, EOFError, zlib.error, csv.Error, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a table of that kind: {error}") from None
    return dataset_of_table(table, name, hashlib.sha256(content).hexdigest(), str(path))


def dataset_of_table(table: Table, name: str, sha256: str, place: str) -> Dataset:
    """Find the columns of structures and ids, and read the rows; see `read_table`."""
    names = list(dict.fromkeys(key for row in table for key in row if isinstance(key, str)))
    columns = _structure_columns(names, table, place)
    identity = id_column(names) or _LABEL
    records = []
    for count, row in enumerate(table, start=1):
        cells = {key: cell for key, cell in row.items() if key not in (*columns, identity, _LABEL, _BROKEN)}
        cell = row.get(identity)
        source = row.get(columns[0]) if len(columns) == 1 else {key: _decoded(row.get(key)) for key in columns}
        row_id = str(count) if is_empty(cell) else str(cell).strip()
        if _BROKEN in row:
            source = Refusal(row_id, "bad_row", row[_BROKEN])
        records.append(Record(row_id, f"row {count}", source, cells))
    return dataset_of(name, sha256, records, crystal_of)


def csv_rows(text: bytes) -> list[tuple[int, list[str]]]:
    """Rows of a CSV that are not blank: the line on which each ends, and its cells.

    They are separated by whichever of comma, semicolon and tab comes first in the text.

    Raises:
        ValueError, csv.Error: if it is no such text.
    """
    decoded = text.decode("utf-8-sig")
    separators = [character for character in decoded.split("\n", 1)[0] if character in ",;\t"]
    before = csv.field_size_limit(_LONGEST_CELL)  # a CIF in a cell is longer than Python's limit
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
    """Records, or a pandas table in the orient `records`, `columns`, `list`, `index` or `split`."""
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
    """Rows with the index of pandas, where that is more than a count."""
    if all(label is None or str(label).isdecimal() for label in labels):
        return rows
    return [{_LABEL: label} | row for label, row in zip(labels, rows, strict=True)]


def _structure_columns(names: Sequence[str], table: Table, place: str) -> tuple[str, ...]:
    """The column that holds structures; or the three that hold their arrays."""
    known = {name.strip().lower(): name for name in reversed(names)}
    for name in STRUCTURE_NAMES:
        if name in known:
            return (known[name],)
    if set(ARRAYS) <= set(names):
        return ARRAYS
    found = [name for name in names if _holds_structures([row.get(name) for row in table])]
    if len(found) == 1:
        return (found[0],)
    said = f"columns {', '.join(found)} all hold structures" if found else "no column holds structures"
    shown = ", ".join(names[:12]) or "none"
    raise ConfigError(f"{place}: {said}; call one of its columns `structure` (it has: {shown})")


def _holds_structures(cells: Sequence[Any]) -> bool:
    for cell in [cell for cell in cells if isinstance(cell, str | Mapping) and not is_empty(cell)][:_LOOKED_AT]:
        try:
            crystal_of(cell)
        except StructureError:
            continue
        return True
    return False


def _decoded(cell: Any) -> Any:
    """An array that a CSV has as JSON text."""
    if isinstance(cell, str):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell
