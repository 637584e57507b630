"""The sites of a CIF: one row of the atom loop each, refused where a model would have to guess."""

import math
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymatgen.io.cif import str2float

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.cif_occupancies import FRACT, place_of, whole_occupancies
from deepergatgnn.structures.cif_symmetry import Columns, Operators, value_of
from deepergatgnn.structures.crystal import too_many_atoms
from deepergatgnn.structures.elements import ATOMIC_NUMBERS, SYMBOLS, atomic_number_of_label
from deepergatgnn.structures.limits import StructureLimits

_UNKNOWN: Final = frozenset({"?", ".", ""})
_FORMULA_PART: Final = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)")
_LONGEST_FORMULA: Final = 1000  # characters
_FORMULA_TOLERANCE: Final = 0.01  # of the share of an element; pymatgen's `comp_tol`


class Sites(NamedTuple):
    """The rows of the atom loop that are atoms.

    Attributes:
        labels: what the file calls them.
        atomic_numbers: [sites].
        frac_coords: [sites, 3].
    """

    labels: list[str]
    atomic_numbers: list[int]
    frac_coords: NDArray[np.float64]


def read_sites(columns: Columns, operators: Operators, said: list[str], limits: StructureLimits) -> Sites:
    """Read the atom loop.

    Args:
        columns: the data block.
        operators: of the file.
        said: warnings are added here.
        limits: `max_atoms` holds for the rows too.

    Raises:
        StructureError: `disordered`, `unknown_element`, `no_structure`, `unreadable` or `too_many_atoms`.
    """
    rows = len(columns[FRACT[0]])
    if rows > limits.max_atoms:
        raise too_many_atoms(rows, limits)
    types = columns.get("_atom_site_type_symbol") or columns.get("_atom_site_label")
    if types is None:
        raise StructureError("unreadable", "The CIF names no element: add _atom_site_type_symbol or _atom_site_label.")
    labels = columns.get("_atom_site_label") or types
    if any(len(column) != rows for column in (types, labels, *(columns.get(key, []) for key in FRACT))):
        raise StructureError("unreadable", "The atom loop of the CIF has columns of different lengths: complete it.")
    if types is not labels:
        types = [label if symbol in _UNKNOWN else symbol for symbol, label in zip(types, labels, strict=True)]
    is_atom = whole_occupancies(columns, types, labels, operators, said)
    coords = _whole_columns(columns)
    if coords is not None and all(is_atom) and ATOMIC_NUMBERS.keys() >= set(types):
        sites = Sites(labels, [ATOMIC_NUMBERS[symbol] for symbol in types], coords)
    else:
        sites = _row_by_row(columns, types, labels, is_atom, coords, said)
    if not sites.labels:
        raise StructureError("no_structure", "The CIF has no occupied site: post at least one atom.")
    _note_implicit_hydrogens(columns, types, said)
    return sites


def _row_by_row(
    columns: Columns,
    types: list[str],
    labels: list[str],
    is_atom: list[bool],
    coords: NDArray[np.float64] | None,
    said: list[str],
) -> Sites:
    """The atoms of a loop that is not written plainly throughout."""
    sites = Sites([], [], np.empty((0, 3)))
    positions: list[Sequence[float] | NDArray[np.float64]] = []
    for index in np.flatnonzero(is_atom).tolist():
        symbol, label = types[index], labels[index]
        if symbol in _UNKNOWN and all(columns[key][index] in _UNKNOWN for key in FRACT):
            said.append(f"The {place_of(index, label)} has neither element nor position and is left out.")
            continue
        number = ATOMIC_NUMBERS.get(symbol)
        if number is None:
            number, warning = atomic_number_of_label(symbol, place_of(index, label))
            said += [warning] if warning else []
        sites.labels.append(label)
        sites.atomic_numbers.append(number)
        positions.append(coords[index] if coords is not None else _coordinates(columns, index, place_of(index, label)))
    return sites._replace(frac_coords=np.array(positions))


def formula_warning(columns: Columns, numbers: Sequence[int]) -> str | None:
    """Compare the formula of the file with the atoms that it gives.

    Args:
        columns: the data block.
        numbers: atomic number of every atom of the cell.

    Returns:
        A sentence if they differ: as a rule the hydrogen atoms were not located.
    """
    formula = value_of(columns, "_chemical_formula_sum").strip(" '\"")
    tokens = _FORMULA_PART.findall(formula[:_LONGEST_FORMULA])
    if not tokens or "".join(map("".join, tokens)) != "".join(formula.split()):
        return None  # not a formula that can be compared
    said: dict[int, float] = {}
    for symbol, count in tokens:
        number = 1 if symbol in ("D", "T") else ATOMIC_NUMBERS.get(symbol)
        if number is None or count == ".":
            return None
        said[number] = said.get(number, 0.0) + float(count or 1)
    found = {number: numbers.count(number) for number in set(numbers)}
    if said == found:
        return None
    total = sum(said.values())
    elements = said.keys() | found.keys()
    if total and all(
        abs(said.get(z, 0.0) / total - found.get(z, 0) / len(numbers)) <= _FORMULA_TOLERANCE for z in elements
    ):
        return None
    missing = ", ".join(SYMBOLS[z] for z in said if z not in found)
    lacks = f" without any {missing}" if missing else ""
    return f"The formula of the file, {formula[:60]}, is not that of its atoms{lacks}: atoms may be missing."


def _whole_columns(columns: Columns) -> NDArray[np.float64] | None:
    """All coordinates at once, [rows, 3]; None if one of them is not a plain finite number."""
    x, y, z = (columns[key] for key in FRACT)
    texts = x + y + z
    try:
        values = list(map(float, texts))
    except ValueError:
        return None
    if "_" in "".join(texts) or not math.isfinite(sum(values)):  # Python alone takes 0_5 for 5
        return None
    return np.array(values).reshape(3, -1).T.copy()


def _coordinates(columns: Columns, index: int, place: str) -> tuple[float, ...]:
    return tuple(_coordinate(columns[key][index], place, key) for key in FRACT)


def _coordinate(text: str, place: str, key: str) -> float:
    try:
        value = math.nan if text == "." or "_" in text else str2float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise StructureError("unreadable", f"The {place} has {key} {text[:30]!r}: give a number, or remove the site.")
    return value


def _note_implicit_hydrogens(columns: Columns, types: list[str], said: list[str]) -> None:
    attached = any(text not in _UNKNOWN | {"0"} for text in columns.get("_atom_site_attached_hydrogens", []))
    if attached or any(symbol.startswith(("Wat", "wat", "O-H", "OH")) for symbol in set(types)):
        said.append("The file counts hydrogen atoms that have no position; they are missing from the structure.")
