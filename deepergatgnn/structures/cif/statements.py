"""What a CIF states about its crystal, gathered in one place; nothing is believed or compared here."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from pymatgen.io.cif import str2float

from deepergatgnn.structures.cif.columns import Columns, value_of
from deepergatgnn.structures.cif.formula import Formula, parse_formula

UNKNOWN: Final = frozenset({"?", ".", ""})
OPERATOR_TAGS: Final = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz", "_symmetry_equiv_pos_xyz")
_NAME_TAGS: Final = (
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_alt",
    "_space_group_name_h-m",
    "_space_group_name_h-m_full",
    "_symmetry_space_group_name_h-m_full",
)
_TYPE_TAGS: Final = ("_space_group_name_h-m_ref",)  # of the type, in the standard setting
_HALL_TAGS: Final = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NUMBER_TAGS: Final = ("_space_group_it_number", "_symmetry_int_tables_number", "_space_group_int_tables_number")
_SCHOENFLIES_TAGS: Final = ("_space_group_name_schoenflies", "_symmetry_space_group_name_schoenflies")
_SYSTEM_TAGS: Final = ("_space_group_crystal_system", "_symmetry_cell_setting")
_SYMMETRY_TAGS: Final = (
    *(*_NAME_TAGS, *_TYPE_TAGS, *_HALL_TAGS, *_NUMBER_TAGS),
    *(*_SCHOENFLIES_TAGS, *_SYSTEM_TAGS),
)
_FORMULA_TAGS: Final = (
    "_chemical_formula_sum",
    "_chemical_formula_moiety",
    "_chemical_formula_structural",
    "_chemical_formula_iupac",
)
_ALL_FORMULA_TAGS: Final = (*_FORMULA_TAGS, "_chemical_formula_analytical")  # the last one is measured
_SYMMETRY: Final = ("_symmetry", "_space_group_symop")
_CODE_TAG: Final = "_space_group_it_coordinate_system_code"
_Z_TAG: Final = "_cell_formula_units_z"
_ELECTRONS_TAG: Final = "_exptl_crystal_f_000"
_DENSITY_TAG: Final = "_exptl_crystal_density_diffrn"
_VOLUME_TAG: Final = "_cell_volume"
_TAGS: Final = frozenset(
    {*_NAME_TAGS, *_TYPE_TAGS, *_HALL_TAGS, *_NUMBER_TAGS, *_SCHOENFLIES_TAGS, *_SYSTEM_TAGS}
    | {*_ALL_FORMULA_TAGS, _CODE_TAG, _Z_TAG, _ELECTRONS_TAG, _DENSITY_TAG, _VOLUME_TAG}
)
_MULTIPLICITY_TAGS: Final = ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity")
_WYCKOFF_TAGS: Final = ("_atom_site_wyckoff_symbol", "_atom_site_wyckoff_letter", "_atom_site_wyckoff_label")
_NUMBERED_WYCKOFF: Final = re.compile(r"\s*(\d{1,3})\s*\(?[a-zA-Z]\)?\s*")
_LONGEST_NAME: Final = 80  # characters


@dataclass(frozen=True)
class Name:
    """A name that the file gives to its space group.

    Attributes:
        tag: where it stands.
        text: as written.
    """

    tag: str
    text: str


@dataclass(eq=False, slots=True)
class Statements:
    """Everything that a data block states about the crystal beside its cell and the rows of its atoms.

    Attributes:
        operators: each list of symmetry operators that the block has.
        names: Hermann-Mauguin symbols of the setting.
        type_names: Hermann-Mauguin symbols of the space group type, in whatever setting.
        halls: Hall symbols.
        numbers: of the space group type.
        setting_code: `_space_group_IT_coordinate_system_code`, or empty.
        other_symmetry: what else speaks of symmetry, such as a Schoenflies symbol or a crystal system.
        formula: the sum, or where that is not given or cannot be counted another one.
        other_formulas: that can be counted.
        uncounted: formulae that cannot be counted, or are measured.
        z: formula units in the cell.
        electrons: in the cell, F(000).
        density: in g/cm³, calculated from the structure.
        volume: of the cell, in Å³.
    """

    operators: tuple[tuple[str, ...], ...]
    names: tuple[Name, ...]
    type_names: tuple[Name, ...]
    halls: tuple[Name, ...]
    numbers: tuple[Name, ...]
    setting_code: str
    other_symmetry: tuple[Name, ...]
    formula: Formula | None
    other_formulas: tuple[Formula, ...]
    uncounted: tuple[str, ...]
    z: float | None
    electrons: float | None
    density: float | None
    volume: float | None

    @property
    def name_of_group(self) -> str:
        """What to call the space group in a message: the first name that the file gives it, or empty."""
        for name in (*self.names, *self.halls, *self.type_names):
            return name.text[:40]
        return f"number {self.numbers[0].text[:40]}" if self.numbers else ""


def gather(columns: Columns) -> Statements:
    """Gather what a data block states.

    Args:
        columns: the data block.
    """
    given = {
        tag: value for tag in columns.keys() & _TAGS if (value := _unquoted(value_of(columns, tag))) not in UNKNOWN
    }
    symmetry = _names_of_symmetry(tuple([(tag, given[tag]) for tag in _SYMMETRY_TAGS if tag in given]))
    formulas = [one for tag in _FORMULA_TAGS if tag in given and (one := parse_formula(tag, given[tag])) is not None]
    counted = {one.tag for one in formulas}
    tags: list[str] = [tag for tag in OPERATOR_TAGS if tag in columns]
    if not tags:  # a tag that no dictionary has
        tags = [tag for tag in columns if tag.startswith(_SYMMETRY) and "xyz" in tag]
    return Statements(
        operators=tuple(dict.fromkeys(filter(None, (_listed(columns, tag) for tag in tags)))),
        names=symmetry.names,
        type_names=symmetry.type_names,
        halls=symmetry.halls,
        numbers=symmetry.numbers,
        setting_code=given.get(_CODE_TAG, ""),
        other_symmetry=symmetry.others,
        formula=formulas[0] if formulas else None,
        other_formulas=tuple(formulas[1:]),
        uncounted=tuple([given[tag] for tag in _ALL_FORMULA_TAGS if tag in given and tag not in counted]),
        z=_number(given, _Z_TAG),
        electrons=_number(given, _ELECTRONS_TAG),
        density=_number(given, _DENSITY_TAG),
        volume=_number(given, _VOLUME_TAG),
    )


def multiplicities(columns: Columns, rows: int) -> list[int | None] | None:
    """Give what the atom loop says of the number of copies of each site, None where it says nothing.

    Args:
        columns: the data block.
        rows: of the atom loop.
    """
    for tag in _MULTIPLICITY_TAGS:
        column = columns.get(tag, [])
        if len(column) == rows and any(text.isdecimal() for text in column):
            return [int(text) if text.isdecimal() and len(text) <= 3 else None for text in column]  # noqa: PLR2004 - 192
    for tag in _WYCKOFF_TAGS:
        column = columns.get(tag, [])
        matches = [_NUMBERED_WYCKOFF.fullmatch(text) for text in column]
        if len(column) == rows and any(matches):
            return [int(match[1]) if match else None for match in matches]
    return None


def _unquoted(text: str) -> str:
    """The text without quotes around it; a Hall symbol such as -P 3 2" ends with one of its own."""
    text = text.strip()
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1].strip() if is_quoted else text


def _listed(columns: Columns, tag: str) -> tuple[str, ...]:
    texts = columns[tag]
    written = "".join(texts)
    if "'" in written or '"' in written or "\n" in written:
        texts = [text.strip("'\"\n") for text in texts]
    distinct = dict.fromkeys(texts)
    return (
        tuple(distinct) if UNKNOWN.isdisjoint(distinct) else tuple([text for text in distinct if text not in UNKNOWN])
    )


class _SymmetryNames(NamedTuple):
    names: tuple[Name, ...]
    type_names: tuple[Name, ...]
    halls: tuple[Name, ...]
    numbers: tuple[Name, ...]
    others: tuple[Name, ...]


@lru_cache(maxsize=1024)  # many files name the same few space groups
def _names_of_symmetry(given: tuple[tuple[str, str], ...]) -> _SymmetryNames:
    found = {tag: Name(tag, text[:_LONGEST_NAME]) for tag, text in given}
    kinds = [_NAME_TAGS, _TYPE_TAGS, _HALL_TAGS, _NUMBER_TAGS, (*_SCHOENFLIES_TAGS, *_SYSTEM_TAGS)]
    return _SymmetryNames(*[tuple([found[tag] for tag in tags if tag in found]) for tags in kinds])


def _number(given: Mapping[str, str], tag: str) -> float | None:
    if tag not in given:
        return None
    text = given[tag]
    try:
        value = str2float(text) if "(" in text else float(text)
    except ValueError:
        return None
    return float(value) if math.isfinite(value) and value > 0 else None
