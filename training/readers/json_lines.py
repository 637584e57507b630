"""Our own form: one JSON object a line, as `{"id", "structure", "targets", ...}`, compressed or not."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deepergatgnn.errors import ConfigError, StructureError
from deepergatgnn.structures import crystal_from_arrays
from training.prepared import Refusal
from training.readers.rows import Dataset, Row

SUFFIXES = (".jsonl", ".jsonl.gz")
_OWN = {"id", "structure", "targets"}


def read_json_lines(path: Path, name: str) -> Dataset:
    """Read a whole file.

    Raises:
        ConfigError: if the file is not such a data set.
    """
    content = path.read_bytes()
    documents = json_lines(path, content)
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
        fields = {key: value for key, value in document.items() if key not in _OWN}
        rows.append(Row(row_id, crystal, document.get("targets") or {}, fields))
    return Dataset(name, hashlib.sha256(content).hexdigest(), tuple(rows), tuple(refused))


def json_lines(path: Path, content: bytes) -> list[Any]:
    """Parse the lines of a file.

    Raises:
        ConfigError: if it is something else.
    """
    try:
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON lines: {error}") from None


def lines_of(rows: Iterable[Row]) -> Iterable[bytes]:
    """Rows as lines that `read_json_lines` gives back equal."""
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
    """Write the readable rows; the same rows always give the same bytes. A half-written file is never left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(gzip.compress(b"".join(lines_of(dataset.rows)), mtime=0))
    part.replace(path)
