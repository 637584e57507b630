"""Columns of a table → ids, targets and fields."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import Crystal
from deepergatgnn.training.data.dataset import Refusal
from deepergatgnn.training.data.readers.rows import Dataset, Row

ID_NAMES: Final = (
    "id",
    "material_id",
    "structure_id",
    "mp_id",
    "mpid",
    "mp-id",
    "jid",
    "mat_id",
    "matid",
    "cod_id",
    "icsd_id",
    "task_id",
    "unique_id",
    "uid",
    "identifier",
    "name",
)
FOLD: Final = "fold"  # a column with this in its name numbers folds and is not a target
_EMPTY: Final = {"", "nan", "na", "n/a", "#n/a", "null", "none", "-"}


@dataclass(frozen=True, eq=False)
class Record:
    """One line of a table before its structure is read.

    Attributes:
        id: id of the row.
        place: place in the file for messages, such as `line 3`.
        source: structure for `read`, or the reason why there is none.
        cells: other columns.
    """

    id: str
    place: str
    source: Any
    cells: Mapping[str, Any]


def dataset_of(
    name: str, sha256: str, records: Sequence[Record], read: Callable[[Any], Crystal], required: Sequence[str] = ()
) -> Dataset:
    """Determine the types of the columns and read the structures.

    A column of numbers is a target; a column of integers is a field too; a column with `fold` in its name, or mostly
    text, is a field only. In a column of numbers any other cell is a missing value.

    Args:
        name: name of the data set.
        sha256: digest of its content.
        records: lines in file order.
        read: returns the crystal of a `source`, or raises StructureError.
        required: columns that are targets. A row is refused if all of them are empty, or if one of them is not a number
            although other rows have numbers there; a column without any number is one of classes.
    """
    required = [key for key in required if not _holds_classes([record.cells.get(key) for record in records])]
    names = list(dict.fromkeys(key for record in records for key in record.cells))
    kinds = {key: _kind([record.cells.get(key) for record in records]) for key in names}
    rows, refused = [], []
    places: dict[str, str] = {}
    for record in records:
        refusal = _refusal(record, places, required)
        if refusal is not None:
            refused.append(refusal)
            continue
        places[record.id] = record.place
        try:
            crystal = read(record.source)
        except StructureError as error:
            refused.append(Refusal(record.id, error.code, error.detail))
            continue
        targets, fields = _typed(record.cells, kinds, required)
        rows.append(Row(record.id, crystal, targets, fields))
    return Dataset(name, sha256, tuple(rows), tuple(refused))


def id_column(names: Sequence[str]) -> str | None:
    """Return the column of ids, if there is one."""
    known = {name.strip().lower(): name for name in reversed(names)}
    return next((known[name] for name in ID_NAMES if name in known), None)


def is_empty(cell: Any) -> bool:
    """Return whether a cell is empty."""
    if isinstance(cell, str):
        return cell.strip().lower() in _EMPTY
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def as_number(cell: Any) -> float | None:
    """Return a cell as a finite number; a boolean is not a number."""
    cell = plain(cell)
    if isinstance(cell, bool) or not isinstance(cell, int | float | str) or "_" in str(cell):
        return None  # Python reads 1_2 as a number
    try:
        value = float(cell)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def no_row(record: Record, places: Mapping[str, str]) -> Refusal | None:
    """Return the refusal of a record that is refused already, or whose id is in `places`."""
    if isinstance(record.source, Refusal):
        return record.source
    if record.id in places:
        detail = f"The id of {record.place} is also that of {places[record.id]}: only the first is read."
        return Refusal(record.id, "duplicate_id", detail)
    return None


def bad_target(record: Record, key: str, cell: Any) -> Refusal:
    """Return the refusal of a row whose target is not a number."""
    return Refusal(record.id, "bad_target", f"{key} in {record.place} is {str(cell)[:40]!r}: give a number.")


def plain(cell: Any) -> Any:
    """Convert a NumPy scalar to a Python scalar."""
    return cell.item() if hasattr(cell, "item") and getattr(cell, "ndim", 0) == 0 else cell


@dataclass(frozen=True)
class _Kind:
    target: bool
    field: bool
    whole: bool


def _kind(cells: Sequence[Any]) -> _Kind:
    filled = [cell for cell in cells if not is_empty(cell)]
    numbers = [number for number in map(as_number, filled) if number is not None]
    target = 2 * len(numbers) > len(filled)
    whole = target and all(number.is_integer() for number in numbers)
    return _Kind(target, field=whole or len(numbers) < len(filled), whole=whole)


def _holds_classes(cells: Sequence[Any]) -> bool:
    """Return whether cells are filled and none is a number."""
    filled = [cell for cell in cells if not is_empty(cell)]
    return bool(filled) and all(as_number(cell) is None for cell in filled)


def _typed(
    cells: Mapping[str, Any], kinds: Mapping[str, _Kind], required: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    targets: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for key, cell in cells.items():
        kind, value = kinds[key], as_number(cell)
        fold = FOLD in key.lower() and key not in required
        if key in required or (kind.target and not fold):
            targets[key] = value
        if is_empty(cell) or key in required or not (kind.field or fold):
            continue
        if kind.whole and value is not None:
            fields[key] = int(value)
        elif isinstance(shown := plain(cell), str | int | float | bool):
            fields[key] = shown
    return targets | dict(_nested(cells)), fields


def _nested(cells: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Yield the targets of a nested mapping `targets`, as in JSON lines."""
    found = cells.get("targets")
    if isinstance(found, Mapping):
        yield from ((str(key), as_number(value)) for key, value in found.items())


def _refusal(record: Record, places: Mapping[str, str], required: Sequence[str]) -> Refusal | None:
    if refusal := no_row(record, places):
        return refusal
    for key in required:
        cell = record.cells.get(key)
        if not is_empty(cell) and as_number(cell) is None:
            return bad_target(record, key, cell)
    if required and all(is_empty(record.cells.get(key)) for key in required):
        return Refusal(record.id, "no_target", f"No value in {record.place}: give a number for {', '.join(required)}.")
    return None
