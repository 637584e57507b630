"""The rows of the atom loop of a CIF: position and element of each, refused where a model would have to guess."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pymatgen.io.cif import str2float

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.cif.columns import Columns
from deepergatgnn.structures.cif.labels import Element, element_of, refuse
from deepergatgnn.structures.cif.occupancies import FRACT, alternatives, place_of, whole_occupancies
from deepergatgnn.structures.cif.operators import Operators
from deepergatgnn.structures.cif.statements import UNKNOWN, multiplicities
from deepergatgnn.structures.crystal import too_many_atoms
from deepergatgnn.structures.elements import ATOMIC_NUMBERS
from deepergatgnn.structures.limits import StructureLimits

_MOST_DIGITS: Final = 8  # more are a computer's, and say nothing of rounding
_FEWEST_DIGITS: Final = 3  # zeros behind them may have been filled up
_ATTACHED: Final = ("Wat", "wat", "O-H", "OH")  # type symbols of an oxygen with hydrogen atoms


@dataclass(eq=False, slots=True)
class Sites:
    """The rows of the atom loop that are atoms.

    Attributes:
        labels: what the file calls them.
        texts: the type symbol or label that names their element.
        elements: what that can mean.
        frac_coords: [sites, 3].
        rounding: half a unit of the last digit of each coordinate, [sites, 3]; 0 where no symmetry is applied.
        multiplicities: copies that the file says each has, or None.
        rows: their indices in the atom loop.
        alternatives: the refusal of sites that exclude one another, None if none do.
    """

    labels: list[str]
    texts: list[str]
    elements: list[Element]
    frac_coords: NDArray[np.float64]
    rounding: NDArray[np.float64]
    multiplicities: list[int | None] | None
    rows: list[int]
    alternatives: StructureError | None = None

    def place(self, site: int) -> str:
        """Give what a message calls a site."""
        return place_of(self.rows[site], self.labels[site])


def read_sites(columns: Columns, operators: Operators, said: list[str], limits: StructureLimits) -> Sites:
    """Read the atom loop.

    Args:
        columns: the data block.
        operators: of the crystal; half a site and its copy on the other half are one atom.
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
    if types is not labels and UNKNOWN.isdisjoint(types):
        has_type, texts = [True] * rows, types
    else:
        has_type = [types is not labels and symbol not in UNKNOWN for symbol in types]
        texts = [symbol if typed else label for symbol, label, typed in zip(types, labels, has_type, strict=True)]
    is_atom = whole_occupancies(columns, texts, labels, operators, said)
    kept = [index for index, atom in enumerate(is_atom) if atom]
    coords = _whole_columns(columns)
    if coords is None:
        kept, coords = _row_by_row(columns, texts, labels, kept, said)
    if not kept:
        raise StructureError("no_structure", "The CIF has no occupied site: post at least one atom.")
    elements = [
        plain if has_type[index] and (plain := _PLAIN.get(texts[index])) else _element(texts, labels, has_type, index)
        for index in kept
    ]
    stated = multiplicities(columns, rows)
    _note_implicit_hydrogens(columns, texts, said)
    return Sites(
        labels=[labels[index] for index in kept],
        texts=[texts[index] for index in kept],
        elements=elements,
        frac_coords=coords if len(kept) == rows else coords[kept],
        rounding=np.zeros((len(kept), 3)) if operators.is_identity else _rounding(columns, kept),
        multiplicities=[stated[index] for index in kept] if stated is not None else None,
        rows=kept,
        alternatives=alternatives(columns, labels, is_atom),
    )


_PLAIN: Final = {symbol: Element((number,), is_certain=True) for symbol, number in ATOMIC_NUMBERS.items()}


def _element(texts: list[str], labels: list[str], has_type: list[bool], index: int) -> Element:
    found = element_of(texts[index], has_type[index])
    if found is None:
        raise refuse(texts[index], place_of(index, labels[index]), None)
    return found


def _row_by_row(
    columns: Columns, texts: list[str], labels: list[str], kept: list[int], said: list[str]
) -> tuple[list[int], NDArray[np.float64]]:
    """The rows that have a position, and the coordinates of a loop in which not all are plain numbers, [rows, 3]."""
    coords = np.zeros((len(texts), 3))
    positioned = []
    for index in kept:
        place = place_of(index, labels[index])
        if texts[index] in UNKNOWN and all(columns[key][index] in UNKNOWN for key in FRACT):
            said.append(f"The {place} has neither element nor position and is left out.")
            continue
        coords[index] = [_coordinate(columns[key][index], place, key) for key in FRACT]
        positioned.append(index)
    return positioned, coords


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


def _rounding(columns: Columns, kept: Sequence[int]) -> NDArray[np.float64]:
    return np.array([[_half_unit(columns[key][index]) for key in FRACT] for index in kept])


@lru_cache(maxsize=4096)
def _half_unit(text: str) -> float:
    """Half a unit of the last digit: 0.0005 for 0.333; a coordinate of one digit, such as 0.5, is meant exactly."""
    decimals = text[text.find(".") + 1 :] if "(" not in text else text.partition(".")[2].partition("(")[0]
    if len(decimals) > _MOST_DIGITS and decimals[_MOST_DIGITS - 1] != "0":
        return 0.0
    if decimals is text or len(decimals) == len(text):  # no point
        return 0.0
    digits = max(len(decimals.rstrip("0")), min(len(decimals), _FEWEST_DIGITS))  # 0.33300 is 0.333
    return 0.5 * 10.0**-digits if 1 < digits <= _MOST_DIGITS and decimals.isdecimal() else 0.0


def _coordinate(text: str, place: str, key: str) -> float:
    try:
        value = math.nan if text == "." or "_" in text else str2float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise StructureError("unreadable", f"The {place} has {key} {text[:30]!r}: give a number, or remove the site.")
    return value


def _note_implicit_hydrogens(columns: Columns, texts: list[str], said: list[str]) -> None:
    attached = any(text not in UNKNOWN | {"0"} for text in columns.get("_atom_site_attached_hydrogens", []))
    if attached or any(symbol.startswith(_ATTACHED) for symbol in set(texts)):
        said.append("The file counts hydrogen atoms that have no position; they are missing from the structure.")
