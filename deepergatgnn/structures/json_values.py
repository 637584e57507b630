"""Values of JSON structures: lists, numbers, positions, cells; errors name the key."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import mul
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.lattice import Lattice

from deepergatgnn.errors import StructureError, StructureErrorCode
from deepergatgnn.structures.crystal import disordered
from deepergatgnn.structures.text import real_number

Array = NDArray[np.float64]
CELL_PARAMETERS: Final = ("a", "b", "c", "alpha", "beta", "gamma")
_FULL: Final = 1e-3  # how far from 1 an occupancy may be by rounding
_SAME_POSITION: Final = 0.05  # Å; two records of a position that differ by more differ by more than rounding
_PLAINLY_SAME: Final = 1e-6  # fractional; less than that in the longest cell
_SAME_ANGLE: Final = 0.6  # degrees; an angle may be rounded to a whole one
_SAME_LENGTH: Final = 0.01  # relative, of a length or a volume
_RIGHT: Final = 1e-6  # cosine, within which an angle is a right one
_TRUE: Final = frozenset({"t", "true", "1"})
_FALSE: Final = frozenset({"f", "false", "0"})
OCCUPANCY: Final = re.compile(r"\w*occupanc(?:y|ies)|occupation|occu?", re.IGNORECASE)
_VACANCIES: Final = frozenset({"vacancy"})


def shown(value: Any) -> str:
    """Quote a value in JSON for a message."""
    try:
        return json.dumps(value)[:40]
    except (TypeError, ValueError, RecursionError):
        return str(value)[:40]


def list_of(value: Any, name: str, code: StructureErrorCode = "unreadable") -> Sequence[Any]:
    """Return the list of a key.

    Raises:
        StructureError: of the given code, if it holds something else.
    """
    if isinstance(value, np.ndarray):
        return list(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return value
    what = "missing" if value is None else f"{shown(value)}, which is no list"
    raise StructureError(code, f"The {name} of the structure is {what}: give a list.")


def number(value: Any, name: str, code: StructureErrorCode = "unreadable") -> float:
    """Return a number, which may be text but not a boolean.

    Raises:
        StructureError: of the given code.
    """
    try:
        # `true` would be 1.
        return real_number(str(value)) if isinstance(value, str | bool | np.bool_) else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise StructureError(code, f"The {name} is {shown(value)}: give a number.") from error


def rows_of_three(rows: Any, name: str, place: Callable[[int], str], code: StructureErrorCode = "unreadable") -> Array:
    """Return rows of three numbers, [N, 3].

    Args:
        rows: a list of lists, or an array.
        name: of the list.
        place: what a message calls the row of an index, such as `position of site 3`.
        code: of the refusals.
    """
    rows = list_of(rows, name, code)
    if all(isinstance(row, list | tuple) and len(row) == 3 for row in rows):  # noqa: PLR2004 - directions
        # True is an int, and text may be a number: numpy would take both.
        plain = set(map(type, chain.from_iterable(rows))) <= {int, float}
        if plain and _fits_float(rows):
            return np.array(rows, dtype=np.float64).reshape(-1, 3)
    read = np.empty((len(rows), 3))
    for index, row in enumerate(rows):
        values = row.tolist() if isinstance(row, np.ndarray) else row
        if not isinstance(values, list | tuple) or len(values) != 3:  # noqa: PLR2004 - directions
            raise StructureError(code, f"The {place(index)} is {shown(values)}: give three numbers.")
        # As `nan` is, which JSON writes as null: a coordinate that is there and is no number.
        read[index] = [number(value, place(index), "bad_cell" if _is_none(value) else code) for value in values]
    return read


def _is_none(value: Any) -> bool:
    return value is None or isinstance(value, bool | np.bool_)


def _fits_float(rows: Sequence[Sequence[float]]) -> bool:
    try:
        return bool(np.array(rows, dtype=np.float64).size)
    except OverflowError:
        return False


def cell_of(value: Any, name: str) -> tuple[Array, bool]:
    """Return the cell vectors as rows in Å, [3, 3], and whether the structure gives their directions.

    Args:
        value: three vectors, nine numbers, or an object with a `matrix`, or with six parameters `a` to `gamma`.
        name: of the key, for messages.

    Raises:
        StructureError: `bad_cell`, also for a matrix that contradicts the parameters beside it.
    """
    if not isinstance(value, Mapping):
        return _matrix(value, name), True
    if value.get("matrix") is not None:
        cell = _matrix(value["matrix"], f"{name} matrix")
        check_parameters(cell, {key: value.get(key) for key in (*CELL_PARAMETERS, "volume")}, f"{name} matrix")
        return cell, True
    lacking = [key for key in CELL_PARAMETERS if value.get(key) is None]
    if lacking:
        raise StructureError("bad_cell", f"The {name} has neither matrix nor {', '.join(lacking)}: give the matrix.")
    parameters = [number(value[key], f"{key} of the {name}", "bad_cell") for key in CELL_PARAMETERS]
    try:
        return np.array(Lattice.from_parameters(*parameters).matrix, dtype=np.float64), False
    except (ValueError, ZeroDivisionError) as error:
        raise StructureError(
            "bad_cell", f"The {name} has the parameters {parameters}, which make no cell: give the matrix."
        ) from error


def _matrix(value: Any, name: str) -> Array:
    rows = list_of(value, f"{name}, which should be three vectors in Å,", "bad_cell")
    if len(rows) == 9:  # noqa: PLR2004 - numbers, as pymatgen takes them too
        rows = [rows[start : start + 3] for start in (0, 3, 6)]
    if len(rows) != 3:  # noqa: PLR2004 - vectors
        raise StructureError("bad_cell", f"The {name} has {len(rows)} rows: give three vectors of three numbers in Å.")
    return rows_of_three(rows, name, lambda index: f"vector {index + 1} of the {name}", "bad_cell")


def check_parameters(cell: Array, parameters: Mapping[str, Any], name: str) -> None:
    """Refuse a cell that contradicts the statements beside it.

    Args:
        cell: [3, 3].
        parameters: stated values by the names `a` to `gamma` and `volume`; None where there is none.
        name: of the cell, for messages.

    Raises:
        StructureError: `bad_cell`.
    """
    stated = {key: number(value, f"{key} beside the {name}") for key, value in parameters.items() if value is not None}
    rows: list[list[float]] = cell.tolist()  # of nine numbers, faster than arrays
    lengths = [math.hypot(*row) for row in rows]
    if not stated or not all(0 < length < math.inf for length in lengths):
        return
    cosines = [sum(map(mul, rows[i], rows[j])) / lengths[i] / lengths[j] for i, j in ((1, 2), (0, 2), (0, 1))]
    angles = [math.degrees(math.acos(max(-1.0, min(1.0, cosine)))) for cosine in cosines]
    gram = 1 + 2 * math.prod(cosines) - sum(cosine**2 for cosine in cosines)
    volume = math.prod(lengths) * math.sqrt(max(gram, 0.0))
    actual = dict(zip((*CELL_PARAMETERS, "volume"), (*lengths, *angles, volume), strict=True))
    for key, value in stated.items():
        is_angle = key in ("alpha", "beta", "gamma")
        allowed = _SAME_ANGLE if is_angle else _SAME_LENGTH * actual[key]
        if not abs(value - actual[key]) <= allowed:
            raise StructureError(
                "bad_cell",
                f"The {name} has the {key} {actual[key]:.5g}, and beside it {key} is {value:.5g}: "
                "correct the one that is wrong, or remove it.",
            )


def fractional(cell: Array, positions: Array, name: str, *, oriented: bool) -> Array:
    """Convert Cartesian positions to fractional ones, [N, 3].

    Args:
        cell: that passed `check_lattice`, [3, 3].
        positions: in Å, [N, 3].
        name: of their key.
        oriented: whether the structure gives the directions of the cell vectors.

    Raises:
        StructureError: `bad_cell`, if the directions matter and are not given.
    """
    if not oriented:
        directions = cell / np.linalg.norm(cell, axis=1)[:, None]
        if np.abs(directions @ directions.T - np.eye(3)).max() > _RIGHT:
            raise StructureError(
                "bad_cell",
                f"The {name} are Cartesian, and the cell is given by lengths and angles, without directions: "
                "give its three vectors, or fractional positions.",
            )
    return positions @ np.linalg.inv(cell)


def check_same_positions(
    cell: Array, one: Array, other: Array, names: tuple[str, str], place: Callable[[int], str]
) -> None:
    """Refuse two records of positions that differ by more than rounding and lattice translations.

    Args:
        cell: [3, 3].
        one: fractional, [N, 3].
        other: fractional, [N, 3].
        names: of both, for the message.
        place: what a message calls the atom of an index.

    Raises:
        StructureError: `unreadable`.
    """
    if len(one) != len(other):
        raise StructureError("unreadable", f"There are {len(one)} {names[0]} and {len(other)} {names[1]}: keep one.")
    between = one - other
    if np.abs(between).max(initial=0) < _PLAINLY_SAME:  # nan is not
        return
    apart = np.linalg.norm((between - np.rint(between)) @ cell, axis=1)
    wrong = np.flatnonzero(~(apart <= _SAME_POSITION))  # nan is wrong, too
    if len(wrong):
        index = int(wrong[0])
        raise StructureError(
            "unreadable",
            f"The {names[0]} and {names[1]} of {place(index)} are two positions, {apart[index]:.3g} Å apart: "
            "correct the one that is wrong, or remove it.",
        )


def check_periodic(value: Any, name: str = "pbc") -> None:
    """Refuse structures that are not periodic in all three directions.

    Args:
        value: one flag or three, as booleans, 0 and 1, or text such as `T T F`; None says nothing.
        name: of the key.

    Raises:
        StructureError: `no_structure`, or `unreadable` for what is no such flag.
    """
    if value is None:
        return
    flags = _flags(value)
    if flags is None or len(flags) not in (1, 3):
        raise StructureError("unreadable", f"The {name} is {shown(value)}: give [true, true, true] for a crystal.")
    if not all(flags):
        raise StructureError(
            "no_structure",
            f"The {name} is {shown(value)}, so it is not periodic in all three directions: post a crystal.",
        )


def _flags(value: Any) -> list[bool] | None:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str):
        words = value.replace(",", " ").strip("[]() ").lower().split()
        value = list(words[0]) if len(words) == 1 and set(words[0]) <= {"t", "f"} else words
    read = []
    for each in value if isinstance(value, list | tuple) else [value]:
        word = str(each).lower() if isinstance(each, bool | int | str) else ""
        if word not in _TRUE | _FALSE:
            return None
        read.append(word in _TRUE)
    return read


def sole_species(shares: Sequence[tuple[str, float]], place: str, said: list[str]) -> str | None:
    """Return the only species of a site; None with a warning if it is vacant.

    Args:
        shares: species and occupancy of each occupant; the same one may stand there twice, with two charges.
        place: the site, such as `site 3`.
        said: warnings are added here.

    Raises:
        StructureError: `disordered`, or `unknown_element` if nothing is said of the occupants.
    """
    if len(shares) == 1 and shares[0][1] == 1 and shares[0][0] not in _VACANCIES:
        return shares[0][0]
    together: dict[str, float] = {}
    for symbol, occupancy in shares:
        together[symbol] = together.get(symbol, 0.0) + occupancy
    present = [(symbol, occupancy) for symbol, occupancy in together.items() if occupancy != 0]
    if not shares:
        raise StructureError("unknown_element", f"The {place} has no species: give it an element, or remove it.")
    if all(symbol in _VACANCIES for symbol, _ in present):
        said.append(f"The {place} is vacant and is left out.")
        return None
    if len(present) > 1 or not abs(present[0][1] - 1) <= _FULL:  # nor is nan
        names = [("vacant" if symbol in _VACANCIES else symbol, occupancy) for symbol, occupancy in present]
        raise disordered(place, names)
    return present[0][0]
