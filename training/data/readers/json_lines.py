"""JSON lines of this project: one object `{"id", "structure", "targets", ...}` a line, compressed or not."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deepergatgnn.errors import ConfigError, StructureError
from deepergatgnn.training.data.dataset import Refusal
from deepergatgnn.training.data.readers.columns import Record, as_number, bad_target, is_empty, no_row
from deepergatgnn.training.data.readers.rows import Dataset, Row
from deepergatgnn.training.data.readers.structures import crystal_of

SUFFIXES = (".jsonl", ".jsonl.gz")
_OWN = {"id", "structure", "targets"}


def read_json_lines(path: Path, name: str) -> Dataset:
    """Read a file; an invalid line is refused alone.

    A target with a number in some row is numeric: text is read as a number there, and rows with other values are
    refused. Null, NaN, infinity and words such as `n/a` are missing values.

    Raises:
        ConfigError: if no line is an object with a structure.
    """
    content = path.read_bytes()
    records = [_record(count, line) for count, line in enumerate(_lines(path, content), start=1) if line.strip()]
    numeric = {key for record in records for key, value in _targets(record).items() if as_number(value) is not None}
    rows, refused = [], []
    places: dict[str, str] = {}
    for record in records:
        refusal = no_row(record, places) or _bad_target(record, numeric)
        if refusal is not None:
            refused.append(refusal)
            continue
        places[record.id] = record.place
        try:
            crystal = crystal_of(record.source)
        except StructureError as error:
            refused.append(Refusal(record.id, error.code, error.detail))
            continue
        targets = {key: _read(value) if key in numeric else value for key, value in _targets(record).items()}
        fields = {key: value for key, value in record.cells.items() if key not in _OWN}
        rows.append(Row(record.id, crystal, targets, fields))
    if records and all(record.source is None or isinstance(record.source, Refusal) for record in records):
        raise ConfigError(f"{path} is not JSON lines, none is an object with a structure: {refused[0].detail}")
    return Dataset(name, hashlib.sha256(content).hexdigest(), tuple(rows), tuple(refused))


def lines_of(rows: Iterable[Row]) -> Iterator[bytes]:
    """Yield rows as lines that `read_json_lines` reads back unchanged."""
    for row in rows:
        structure = {
            "lattice": row.crystal.lattice.tolist(),
            "species": list(row.crystal.symbols),
            "frac_coords": row.crystal.frac_coords.tolist(),
        }
        fields = {key: value for key, value in row.fields.items() if key not in _OWN}
        document = {"id": row.id, "structure": structure, "targets": row.targets, **fields}
        yield json.dumps(document, separators=(",", ":")).encode() + b"\n"


def write_json_lines(dataset: Dataset, path: Path) -> None:
    """Write the readable rows atomically; equal rows give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(gzip.compress(b"".join(lines_of(dataset.rows)), mtime=0))
    part.replace(path)


def _lines(path: Path, content: bytes) -> list[bytes]:
    try:
        text = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} is not JSON lines: it is not a whole gzip file ({error}), copy it again") from None
    return text.splitlines()


def _record(count: int, line: bytes) -> Record:
    place, row_id = f"line {count}", str(count)
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        detail = f"Line {count} is not JSON ({_reason(error)}): write one object on it."
        return Record(row_id, place, Refusal(row_id, "bad_row", detail), {})
    if not isinstance(document, dict):
        detail = f"Line {count} is a {type(document).__name__}: write an object with id, structure and targets."
        return Record(row_id, place, Refusal(row_id, "bad_row", detail), {})
    if not is_empty(document.get("id")):
        row_id = str(document["id"]).strip()
    source, targets = document.get("structure"), document.get("targets") or {}
    if not isinstance(targets, dict):
        detail = f"The targets in line {count} are a {type(targets).__name__}: write an object of numbers by name."
        source, targets = Refusal(row_id, "bad_target", detail), {}
    return Record(row_id, place, source, document | {"targets": targets})


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} in column {error.colno}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else "a number in it is too long"


def _targets(record: Record) -> Mapping[str, Any]:
    found: Mapping[str, Any] = record.cells.get("targets", {})
    return found


def _bad_target(record: Record, numeric: set[str]) -> Refusal | None:
    for key, value in _targets(record).items():
        if key in numeric and not is_empty(value) and _read(value) is None:
            return bad_target(record, key, value)
    return None


def _read(value: Any) -> float | None:
    return value if isinstance(value, int | float) else as_number(value)
