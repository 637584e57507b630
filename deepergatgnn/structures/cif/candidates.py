"""The symmetries that a CIF allows: its operator lists, and the settings that its names leave open."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.cif.operators import P1, Operators, are_written, parse_operators
from deepergatgnn.structures.cif.settings import (
    Setting,
    is_tabulated,
    setting_of_hall,
    settings_of_name,
    settings_of_number,
)
from deepergatgnn.structures.cif.statements import Name, Statements

_MOST_CANDIDATES: Final = 8
_NO_SYMMETRY: Final = frozenset({"C1", "C1^1", "C1(1)"})  # as Schoenflies wrote P 1
_SYSTEMS: Final = {  # numbers of the space group types
    "triclinic": range(1, 3),
    "monoclinic": range(3, 16),
    "orthorhombic": range(16, 75),
    "tetragonal": range(75, 143),
    "trigonal": range(143, 195),
    "rhombohedral": range(143, 195),
    "hexagonal": range(143, 195),
    "cubic": range(195, 231),
}
_FIRST_MONOCLINIC, _LAST_MONOCLINIC = 3, 15


@dataclass(frozen=True)
class Symmetry:
    """One reading of what the file says of its symmetry.

    Attributes:
        operators: of the crystal.
        name: what to call the reading in a message.
        contradicts: the statements about symmetry that it does not agree with, in words.
        is_listed: whether the operators are those that the file lists.
    """

    operators: Operators
    name: str
    contradicts: tuple[str, ...] = ()
    is_listed: bool = False


@dataclass(frozen=True, eq=False)
class _Named:
    """The settings that the names allow, and the statements that each contradicts."""

    settings: tuple[Setting, ...]
    contradicts: tuple[tuple[str, ...], ...]
    unknown: str  # a name that is not known, where no other is
    is_of_setting: bool  # whether one of the names is of a setting, and not of a type alone


def symmetries(statements: Statements, lattice: NDArray[np.float64], said: list[str]) -> list[Symmetry]:
    """Give the readings of the symmetry that the file and the cell allow; one where nothing is open.

    Args:
        statements: of the file.
        lattice: cell vectors as rows, in Å, [3, 3].
        said: warnings are added here.

    Raises:
        StructureError: `unreadable` for operators and space groups that are none, `bad_cell` for those that would
            deform the cell, such as hexagonal ones in a rhombohedral cell.
    """
    named = _named_by(statements)
    lists = [_parsed(listed, named, said) for listed in statements.operators]
    if len(lists) > 1:
        lists = list({one.key: one for one in lists}.values())
    if lists:
        return _listed(lists, named, statements, lattice, said)
    if not named.settings:
        return [_unnamed(statements, named, said)]
    found = _fitting(named, lattice)
    if not found:
        misfit = min(setting.operators.misfit(lattice) for setting in named.settings)
        raise _does_not_fit(misfit)
    return found[:_MOST_CANDIDATES]


def _parsed(listed: tuple[str, ...], named: _Named, said: list[str]) -> Operators:
    """A list of operators, without those that are none where the name of the group tells what they should be."""
    try:
        return parse_operators(listed)
    except StructureError:
        if not named.settings or not are_written(listed):
            raise
        rest = tuple([one for one in listed if _is_operator(one)])
        if not rest or len(listed) - len(rest) > _most_mistyped(len(listed)):
            raise
    wrong = next(one for one in listed if not _is_operator(one))
    said.append(f"The symmetry operator {wrong[:30]!r} of the file is not one and is left out.")
    return parse_operators(rest)


def _is_operator(text: str) -> bool:
    try:
        parse_operators((text,))
    except StructureError:
        return False
    return True


def _most_mistyped(n_operators: int) -> int:
    """How many operators of a list may be wrong where it is still the list of the named group."""
    return max(1, n_operators // 4)


def otherwise(symmetry: Symmetry, statements: Statements, lattice: NDArray[np.float64]) -> list[Symmetry]:
    """Give the named settings that a list of operators contradicts; asked where its atoms contradict the file.

    Args:
        symmetry: the listed one.
        statements: of the file.
        lattice: cell vectors as rows, in Å, [3, 3].
    """
    against = f"the list of {_number_of_operators(symmetry.operators)}"
    return [
        replace(other, contradicts=(*other.contradicts, against))
        for other in _fitting(_named_by(statements), lattice)
        if other.operators.key != symmetry.operators.key
    ]


def _unnamed(statements: Statements, named: _Named, said: list[str]) -> Symmetry:
    if named.unknown:
        raise StructureError(
            "unreadable",
            f"The space group {named.unknown[:30]!r} of the CIF is not known: list its operators as x,y,z, or the full "
            "cell in P 1.",
        )
    for name in statements.other_symmetry:
        if name.tag.endswith("schoenflies") and name.text.replace("_", "").upper() not in _NO_SYMMETRY:
            raise StructureError(
                "unreadable",
                f"The CIF gives its space group as {name.text[:20]!r} alone, which leaves the setting open: list the "
                "operators as x,y,z, or the full cell in P 1.",
            )
    said.append("The file says nothing about symmetry; its atoms are taken for the whole cell.")
    return Symmetry(P1, "the whole cell")


def _listed(
    lists: Sequence[Operators], named: _Named, statements: Statements, lattice: NDArray[np.float64], said: list[str]
) -> list[Symmetry]:
    """The listed operators, and the named settings where the list is no group or not the one named."""
    operators = lists[0]
    if len(lists) == 1 and operators.is_group and _agrees(operators, named):
        if not operators.fits(lattice):
            raise _does_not_fit(operators.misfit(lattice))
        system = () if named.settings else _other_system(operators, statements)
        return [Symmetry(operators, "the operators of the file", system, is_listed=True)]
    of_names = {reading.operators.key: reading for reading in _fitting(named, lattice)}
    found = [
        reading
        for one in lists
        for reading in _of_list(one, named, statements, said)
        if reading.operators.fits(lattice) and (one.is_group or reading.operators.key not in of_names)
    ]
    known = {reading.operators.key for reading in found}
    for key, reading in of_names.items():
        # What is no group is the list of the named one if that has its operators, but for some that are mistyped.
        outside = [0 if one.is_group else len(one.key - key) for one in lists]
        is_possible = any(count <= _most_mistyped(len(one.key)) for one, count in zip(lists, outside, strict=True))
        if key not in known and is_possible:
            # A list that is a part of the named group and no group is one that lost some of its operators.
            is_part = any(one.key < key and not one.is_group for one in lists)
            against = () if is_part else (f"the list of {_number_of_operators(operators)}",)
            found.append(replace(reading, contradicts=(*reading.contradicts, *against)))
    if not found:
        raise _does_not_fit(operators.misfit(lattice)) if operators.is_group else _no_group(operators)
    return found[:_MOST_CANDIDATES]


def _other_system(operators: Operators, statements: Statements) -> tuple[str, ...]:
    """The crystal system that the file states, if it is not that of the operators."""
    for name in statements.other_symmetry:
        stated = _SYSTEMS.get(name.text.lower())
        if stated is not None and operators.group_number not in stated:
            return (f"the crystal system {name.text}",)
    return ()


@lru_cache(maxsize=1024)
def _agrees(operators: Operators, named: _Named) -> bool:
    """Whether operators are those of a named setting, or of the named type at an origin that no symbol has."""
    if not named.settings or any(setting.operators.key == operators.key for setting in named.settings):
        return True
    is_of_type = any(setting.number == operators.group_number for setting in named.settings)
    # Another setting that has a symbol, such as P 21/c under the name P 21/n, contradicts the name.
    return is_of_type and not (named.is_of_setting and is_tabulated(operators))


def _of_list(operators: Operators, named: _Named, statements: Statements, said: list[str]) -> list[Symmetry]:
    """The readings of one list of operators: as it stands, and completed where it is no group."""
    what = _number_of_operators(operators)
    against = () if _agrees(operators, named) else (f"the space group {statements.name_of_group}",)
    if operators.is_group:
        return [Symmetry(operators, f"the {what} of the file ({operators.group_symbol})", against, is_listed=True)]
    closure = operators.closure
    if closure is None:
        return []
    if closure.key - operators.key == P1.key:
        said.append("The operators of the file lack the identity, x,y,z; it is added.")
        return [Symmetry(closure, "the operators of the file with x,y,z", against, is_listed=True)]
    # Where the completed list makes the same atoms, it does not matter which of them are missing.
    no_group = "the rules of a group"
    return [
        Symmetry(operators, f"the {what} of the file as they are", (no_group, *against), is_listed=True),
        Symmetry(
            closure, f"the {what} of the file completed to {closure.n_operators}", (no_group, *against), is_listed=True
        ),
    ]


def _number_of_operators(operators: Operators) -> str:
    return "one operator" if operators.n_operators == 1 else f"{operators.n_operators} operators"


def _fitting(named: _Named, lattice: NDArray[np.float64]) -> list[Symmetry]:
    """The named settings that leave the cell as it is; one for each set of operators, in the order of convention."""
    found: dict[object, Symmetry] = {}
    axis = None
    for setting, contradicts in zip(named.settings, named.contradicts, strict=True):
        operators = setting.operators
        if not operators.fits(lattice):
            continue
        unique = _unique_axis(operators)
        # Where the cell leaves the unique axis of a short monoclinic symbol open, it is the convention's.
        if unique is not None and not contradicts:
            if axis is not None and unique != axis:
                continue
            axis = unique
        found.setdefault(operators.key, Symmetry(operators, setting.name, contradicts))
    return list(found.values())


def _unique_axis(operators: Operators) -> int | None:
    """The axis of a monoclinic group, None for every other group."""
    if not _FIRST_MONOCLINIC <= operators.group_number <= _LAST_MONOCLINIC:
        return None
    rotation = next(one for one in operators.rotations if abs(np.trace(one)) == 1)  # an axis, or the plane across it
    diagonal = np.diag(rotation) * np.linalg.det(rotation)
    return int(np.argmax(diagonal))


def _named_by(statements: Statements) -> _Named:
    return _named(
        statements.names, statements.type_names, statements.halls, statements.numbers, statements.setting_code
    )


@lru_cache(maxsize=1024)
def _named(
    names: tuple[Name, ...], types: tuple[Name, ...], halls: tuple[Name, ...], numbers: tuple[Name, ...], code: str
) -> _Named:
    """Combine the names of a space group into the settings that agree with most of them."""
    statements: list[tuple[str, tuple[Setting, ...]]] = [
        (f"the Hall symbol {name.text}", (setting,))
        for name in halls
        if (setting := setting_of_hall(name.text)) is not None
    ]
    symbols = [(f"the symbol {name.text}", settings_of_name(name.text, code)) for name in names]
    statements += [(what, found) for what, found in symbols if found]
    # What names a type agrees with every setting of it, and stands for the standard one where nothing names a setting.
    of_types = [(f"the symbol {name.text}", settings_of_name(name.text, code)) for name in types]
    of_types += [(f"the number {name.text}", settings_of_number(_number(name.text), code)) for name in numbers]
    of_types = [(what, found) for what, found in of_types if found]
    order = dict.fromkeys(setting for _, found in statements for setting in found)
    for _, found in of_types:
        if all(setting.number != found[0].number for setting in order):
            order |= dict.fromkeys(found)
    if not order:
        unknown = next((name.text for name in (*names, *halls, *types, *numbers)), "")
        return _Named((), (), unknown, is_of_setting=False)
    against = {
        setting: tuple(
            [what for what, found in statements if setting not in found]
            + [what for what, found in of_types if setting.number != found[0].number]
        )
        for setting in order
    }
    fewest = min(map(len, against.values()))
    settings = tuple(setting for setting in order if len(against[setting]) == fewest)
    return _Named(settings, tuple(against[setting] for setting in settings), "", bool(statements))


def _number(text: str) -> int:
    """The number of a space group type; 0 for what is none."""
    return int(text) if text.isdecimal() and len(text) <= len("230") else 0


def _does_not_fit(misfit: float) -> StructureError:
    return StructureError(
        "bad_cell",
        f"A symmetry operator of the CIF changes the cell by {100 * misfit:.3g} %: the space group and the cell do not "
        "belong together, correct one or post the full cell in P 1.",
    )


def _no_group(operators: Operators) -> StructureError:
    return StructureError(
        "unreadable",
        f"The {operators.n_operators} symmetry operators of the CIF are no group, since some are missing, given twice "
        "or wrong: list all operators, or the full cell in P 1.",
    )
