"""Settings of space groups by their names: every spelling of a Hermann-Mauguin symbol, and what it leaves open.

A symbol such as `F d -3 m` has two origins, `R -3 m` two sets of axes, and `P 21/n` a unique axis that is not written.
So a name gives a list of settings, and the cell and the other statements of the file choose among them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Final

import gemmi

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.cif.operators import Operators, of_gemmi, to_gemmi

_LONGEST_NAME: Final = 80  # characters
_CUBIC: Final = 195  # the first number
_TETRAGONAL: Final = 75
_MONOCLINIC: Final = range(3, 16)

# What programs append to a symbol: `:2`, `:R`, `:b1`, ` Z`, `(origin choice 2)`, `{origin @ centre (-3m)}`.
_OPEN, _CLOSE = r"[\s:;,({\[-]*", r"[)}\]]*"
_ORIGIN: Final = re.compile(
    rf"{_OPEN}\b(?:origin(?:[\s-]+(?:choice|setting))?|o\.?\s?c?\.?)[\s-]*(?:no\.?\s*)?:?\s*([12])\b{_CLOSE}",
    re.IGNORECASE,
)
_ORDINAL: Final = re.compile(
    rf"{_OPEN}\b(?:(?P<one>first|1st)|second|2nd)\s+(?:origin|setting)(?:\s+choice)?{_CLOSE}", re.IGNORECASE
)
_AT_CENTRE: Final = re.compile(
    rf"[\s({{\[]*origin\s+(?:@|at)\s+(?:centre|center|inversion|-[13]\b|-3m)[^)}}\]]*(?:\([^)]*\))?{_CLOSE}",
    re.IGNORECASE,
)
_AXES: Final = re.compile(rf"{_OPEN}\b(hex|rhomb)\w*\.?(?:\s+(?:axes|setting|cell))?{_CLOSE}\s*$", re.IGNORECASE)
_UNIQUE: Final = re.compile(
    rf"{_OPEN}(?:unique\s+axis\s+([abc])|([abc])[\s-]+(?:axis\s+)?unique){_CLOSE}", re.IGNORECASE
)
_NUMBER: Final = re.compile(r"\s*[({\[]?\s*(?:no\.?|nr\.?|#)\s*\d{1,3}\s*[)}\]]?\s*$", re.IGNORECASE)
_TRAILING_NUMBER: Final = re.compile(r"\s+\(\d{1,3}\)\s*$")
_EXTENSION: Final = re.compile(
    r"\s*[:;]\s*(-?[abc][123]?|[12HR]|o[12]|[12]?-?[abc]{3}|[12]?(?:ba-c|a-cb|-cba))\s*$", re.IGNORECASE
)
_ICSD: Final = re.compile(r"(?:(?<=\S)\s+|(?<=[a-z\d]))([ZSHR]|HR|RS|HS)\s*$")  # capital letters behind a symbol
_IN_PARENTHESES: Final = re.compile(r"\s+\((o?[12]|[HRZS])\)\s*$", re.IGNORECASE)  # 2(1) is a screw axis
_ORIGINS: Final = {"1": "1", "2": "2", "s": "1", "z": "2"}  # with the letters of the ICSD


@dataclass(frozen=True)
class Setting:
    """One setting of a space group.

    Attributes:
        name: extended Hermann-Mauguin symbol, such as `F d -3 m:2`, or the Hall symbol.
        number: of the space group type.
        hall: its Hall symbol.
    """

    name: str
    number: int
    hall: str

    @property
    def operators(self) -> Operators:
        """Its symmetry operators."""
        return _operators_of(self.hall)


@dataclass(frozen=True)
class _Marks:
    """What a name says beside its symbol."""

    origin: str = ""  # "1" or "2"
    axes: str = ""  # "H" or "R"
    code: str = ""  # of International Tables, such as b1, -c2 or cab
    unique: str = ""  # "a", "b" or "c"


@lru_cache(maxsize=512)
def settings_of_name(name: str, code: str = "") -> tuple[Setting, ...]:
    """Give the settings that a Hermann-Mauguin symbol can mean, the conventional one first.

    Args:
        name: of a space group, in any spelling that files have: `P 21/n`, `P2(1)/n`, `F_d_-3_m_:2`, `R -3 m H`.
        code: `_space_group_IT_coordinate_system_code` of the file, such as `2`, `-b1` or `h`.

    Returns:
        No setting where the name is not known.
    """
    symbol, marks = _without_marks(name[:_LONGEST_NAME])
    found = _index().get(_compact(symbol)) or _found_by_gemmi(symbol)
    for one in (marks, _marks_of_code(code)):
        found = _filtered(found, one)
    return tuple(_setting(group) for group in found)


@lru_cache(maxsize=512)
def settings_of_number(number: int, code: str = "") -> tuple[Setting, ...]:
    """Give the settings that a number means by convention: both origins, both sets of axes, else the standard one.

    Args:
        number: of the space group type, 1 to 230.
        code: `_space_group_IT_coordinate_system_code` of the file.
    """
    groups = [group for group in gemmi.spacegroup_table() if group.number == number]
    if not groups:
        return ()
    marks = _marks_of_code(code)
    if marks.code:
        groups = _filtered(groups, marks)
    standard = [group for group in groups if group.hm == groups[0].hm]
    return tuple(_setting(group) for group in _filtered(standard, marks))


@lru_cache(maxsize=512)
def setting_of_hall(hall: str) -> Setting | None:
    """Give the setting of a Hall symbol, None where it is not one.

    Args:
        hall: such as `-F 4vw 2vw 3`; underscores may stand for blanks, and case does not matter.
    """
    text = _hall(hall[:_LONGEST_NAME])
    try:
        group = gemmi.symops_from_hall(text)
        operators = _operators_of(text)
    except (RuntimeError, ValueError, StructureError):
        return None
    known = gemmi.find_spacegroup_by_ops(group)
    return _setting(known) if known else Setting(f"Hall symbol {text}", operators.group_number, text)


def is_tabulated(operators: Operators) -> bool:
    """Whether a group of operators is one of the settings that have a symbol."""
    return gemmi.find_spacegroup_by_ops(to_gemmi(operators)) is not None


def _hall(text: str) -> str:
    words = text.replace("_", " ").split()
    if not words:
        return ""
    head = words[0]
    words[0] = head[:-1] + head[-1:].upper()  # the lattice letter
    rest = [word.lower() for word in words[1:]]
    return " ".join([words[0], *rest])


@lru_cache(maxsize=1024)
def _operators_of(hall: str) -> Operators:
    return of_gemmi(gemmi.symops_from_hall(hall))


def _setting(group: gemmi.SpaceGroup) -> Setting:
    return Setting(group.xhm(), group.number, group.hall)


def _without_marks(name: str) -> tuple[str, _Marks]:
    """Part a name into its symbol and what programs append to it."""
    text = name.strip(" '\"").replace("_", " ").replace("~", "")
    origin = axes = code = unique = ""
    extension = _IN_PARENTHESES.search(text)
    text = text[: extension.start()] if extension else text
    text = _AT_CENTRE.sub(" origin 2", text)
    text = _ORDINAL.sub(lambda match: " origin 1" if match["one"] else " origin 2", text)
    if match := _ORIGIN.search(text):
        origin, text = match[1], text[: match.start()] + text[match.end() :]
    text = _TRAILING_NUMBER.sub("", _NUMBER.sub("", text))
    if match := _UNIQUE.search(text):
        unique, text = (match[1] or match[2]).lower(), text[: match.start()] + text[match.end() :]
    if match := _AXES.search(text):
        axes, text = match[1][0].upper(), text[: match.start()]
    if match := _EXTENSION.search(text):
        extension, text = match, text[: match.start()]
    if extension:
        mark = extension[1].lower().removeprefix("o")
        if mark in _ORIGINS:
            origin = _ORIGINS[mark]
        elif mark in ("h", "r"):
            axes = mark.upper()
        else:
            code = mark
    if match := _ICSD.search(text):
        mark = match[1]
        text = text[: match.start()]
        origin = _ORIGINS.get(mark[-1].lower(), origin)
        axes = mark[0] if mark[0] in "HR" else axes
    return text, _Marks(origin, axes, code, unique)


def _marks_of_code(code: str) -> _Marks:
    code = code.strip(" '\"").lower()
    if code in ("", "?", "."):
        return _Marks()
    if match := re.fullmatch(r"([12])", code) or _ORIGIN.fullmatch(code):
        return _Marks(origin=match[1])
    if code in ("h", "r"):
        return _Marks(axes=code.upper())
    origin = code[0] if code[0] in "12" else ""
    return _Marks(origin=origin, code=code.removeprefix(origin))


def _filtered(groups: list[gemmi.SpaceGroup], marks: _Marks) -> list[gemmi.SpaceGroup]:
    """The groups that agree with the marks; a mark that none of them can have says nothing."""
    for agrees in (
        lambda group: group.ext == marks.origin,
        lambda group: group.ext == marks.axes,
        lambda group: (group.qualifier or "abc") in (marks.code, marks.code + "1"),  # b for b1
        lambda group: marks.unique and _unique_axis(group) == marks.unique,
    ):
        groups = [group for group in groups if agrees(group)] or groups
    return groups


def _unique_axis(group: gemmi.SpaceGroup) -> str:
    return group.qualifier.strip("-")[:1] if group.number in _MONOCLINIC else ""


def _compact(symbol: str) -> str:
    """One spelling for all: no blanks or parentheses, the lattice letter in upper case, 3bar as -3."""
    text = re.sub(r"</?\w+>|[\s()\[\]{}$]", "", symbol)
    text = re.sub(r"(\d)(?:bar|\u0305|\?)", r"-\1", text, flags=re.IGNORECASE)
    text = re.sub(r"(?:\\?(?:bar|overline))(\d)", r"-\1", text, flags=re.IGNORECASE)
    return text[:1].upper() + text[1:].lower()


def _found_by_gemmi(symbol: str) -> list[gemmi.SpaceGroup]:
    """What gemmi knows by other names, such as `H 3`; every setting of the symbol that it finds."""
    name = re.sub(r"[()]", "", symbol)
    found = gemmi.find_spacegroup_by_name(name)
    if found is None:
        return []
    if found.ext in ("H", "R") and name.strip()[:1].upper() == "H":
        return [found]
    return [group for group in gemmi.spacegroup_table() if group.hm == found.hm]


@lru_cache(maxsize=1)
def _index() -> dict[str, list[gemmi.SpaceGroup]]:
    """All tabulated settings by every compact spelling, the conventional ones first.

    Exact symbols go before short ones: `P 1 1 2` is no other spelling of `P 1 2 1`, and `P 2` is one of both.
    """
    exact: dict[str, list[gemmi.SpaceGroup]] = {}
    short: dict[str, list[gemmi.SpaceGroup]] = {}
    for group in gemmi.spacegroup_table():
        exact.setdefault(_compact(group.hm), []).append(group)
        for spelling in _spellings(group):
            known = short.setdefault(_compact(spelling), [])
            if group not in known:
                known.append(group)
    return short | exact


def _spellings(group: gemmi.SpaceGroup) -> Iterator[str]:
    """Other spellings of a symbol: without the 1 of axes, full, with the glide plane e, and of before 1935."""
    lattice, *axes = group.hm.split()
    if group.number in _MONOCLINIC:
        yield lattice + "".join(axis for axis in axes if axis != "1")
    yield from _full(lattice, axes, group)
    for other in _with_e(group):
        yield other
        yield from _full(other.split()[0], other.split()[1:], group)
    if group.number >= _CUBIC and "-3" in axes:
        yield group.hm.replace("-3", "3")
        yield f"{lattice} {axes[0]} 3 {' '.join(axes[2:])}"


def _full(lattice: str, axes: list[str], group: gemmi.SpaceGroup) -> Iterator[str]:
    """Full symbols, such as `P 21/n 21/m 21/a` for `P n m a`, with every screw that an axis may have."""
    if group.number < _MONOCLINIC.stop or not group.operations().is_centrosymmetric():
        return
    two = ("2/", "21/")
    if group.number < _TETRAGONAL:
        rotations: list[tuple[str, ...]] = [two, two, two]
    elif group.number < _CUBIC:
        # Tetragonal, trigonal and hexagonal: the first axis is written in full already, and a 1 stays.
        rotations = [("",), *[("",) if axis == "1" else ("", *two) for axis in axes[1:]]]
    else:
        rotations = [("2/", "21/", "4/", "41/", "42/", "43/"), ("",), *[two for _ in axes[2:]]]
        axes = [axes[0], "-3", *axes[2:]]
    for heads in product(*rotations):
        yield " ".join([lattice, *(head + axis for head, axis in zip(heads, axes, strict=True))])


# The letter e of 1992 for two glide planes, and the letters that stand there in the table.
_E_GLIDES: Final = {39: "A e m 2", 41: "A e a 2", 64: "C m c e", 67: "C m m e", 68: "C c c e"}


def _with_e(group: gemmi.SpaceGroup) -> Iterator[str]:
    """The symbol with e, whose place moves with the axes of the setting."""
    if group.number not in _E_GLIDES:
        return
    lattice, *axes = group.hm.split()
    # The glide plane that translates along either axis of a face is perpendicular to the axis that centres the face.
    at = "ABC".find(lattice)
    if at >= 0 and axes[at] in "abc":
        yield " ".join([lattice, *axes[:at], "e", *axes[at + 1 :]])
