"""Extended XYZ: a count, a comment of key=value pairs with the lattice, one line for each atom.

Read as ase reads and writes it, and as https://github.com/libAtoms/extxyz specifies it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.checks import check_lattice
from deepergatgnn.structures.crystal import Crystal, crystal_from_numbers, disordered, too_many_atoms
from deepergatgnn.structures.element_names import number_of_name
from deepergatgnn.structures.elements import SYMBOLS, any_charged
from deepergatgnn.structures.ignored import OXIDATION_STATES, properties_warning
from deepergatgnn.structures.limits import StructureLimits
from deepergatgnn.structures.text import real_number

_QUOTED: Final = r""" "[^"\\]*+(?:\\.[^"\\]*+)*+" | '[^']*+' """
# A key, alone or with a value: quoted, in braces or brackets (which may hold others), or a word. Possessive, for a
# long comment would be tried from each of its characters.
_PAIR: Final = re.compile(
    rf"""
    ( {_QUOTED} | [^\s="'{{}}\[\]]++ )
    (?: \s*+ = \s*+
        ( {_QUOTED} | \{{[^{{}}]*+(?:\{{[^{{}}]*+\}}[^{{}}]*+)*+\}} | \[[^\[\]]*+(?:\[[^\[\]]*+\][^\[\]]*+)*+\] | \S*+ )
    )?+
    """,
    re.VERBOSE,
)
_BRACKETS: Final = re.compile(r"[\[\]{}(),;]")
_INNER_LIST: Final = re.compile(r"[\[{(]([^\[\]{}()]*)[\]})]")
_DEFAULT_PROPERTIES: Final = "species:S:1:pos:R:3"
# As ase names its arrays, too.
_SPECIES: Final = ("species", "symbols")
_NUMBERS: Final = ("Z", "numbers", "atomic_numbers")
_POSITIONS: Final = ("pos", "positions")
_OCCUPANCY: Final = re.compile(r"\w*occupanc(?:y|ies)|occu?", re.IGNORECASE)
_SOLE_KEYS: Final = ("Lattice", "Properties", "pbc")
_SOLE_KEYS_IN_ANY_CASE: Final = frozenset(key.lower() for key in _SOLE_KEYS)
_FLAGS: Final = frozenset({"T", "F", "true", "false", "True", "False", "TRUE", "FALSE"})
_MOST_PAIRS: Final = 10_000  # of a key and a value
_LONGEST_LATTICE: Final = 2000  # characters
_NUMBERED_KIND: Final = re.compile(r"([{,]\s*)(\d{1,9})\s*:")  # {0: {'Na': 1}}
_TRUE: Final = frozenset({"t", "true", "1"})
_WHOLE_SITE: Final = 1e-3  # what an occupancy may lack
_DIRECTIONS: Final = 3

MORE_COLUMNS: Final = "The lines of the atoms have more columns than Properties= says; the last are ignored."

_Pairs = Mapping[str, str]
_Rows = list[list[str]]


def read_extxyz(text: str, limits: StructureLimits) -> Crystal:
    """Read the first frame.

    Args:
        text: the file.
        limits: bounds that the structure must keep.

    Raises:
        StructureError: `no_structure` without `Lattice=` or with a `pbc` that is not periodic in all directions,
            `unreadable` for lines that do not hold what `Properties=` says, and as `read_structure`.
    """
    lines = text.lstrip().split("\n")
    count = _count(lines[0])
    if count > limits.max_atoms:
        raise too_many_atoms(count, limits)
    rows = [line.split() for line in lines[2 : 2 + count] if line.strip()]
    if len(rows) < count:
        raise StructureError(
            "unreadable", f"The extxyz declares {count} atoms and has {len(rows)} lines of them: complete it."
        )
    pairs = _pairs(lines[1])
    lattice = _lattice(pairs)
    said = _check_periodic(pairs)
    columns = _columns(pairs.get("Properties", _DEFAULT_PROPERTIES))
    said += _check_what_follows(lines[2 + count :], count, columns) + _check_widths(columns, rows)
    said += _check_occupancies(pairs, columns, rows)
    numbers, warnings = _elements(columns, rows)
    positions = _positions(columns, rows)
    read = {*_POSITIONS, *_element_columns(columns), *_occupancy_columns(columns)}
    said += warnings + properties_warning(_telling(columns, rows, read))
    check_lattice(lattice, limits)  # before it is inverted
    frac_coords = positions @ np.linalg.inv(lattice)
    return crystal_from_numbers(lattice, numbers, frac_coords, warnings=said, limits=limits)


def _count(line: str) -> int:
    word = line.strip()
    if re.fullmatch(r"\d{1,12}", word, re.ASCII) is None:
        raise StructureError("unreadable", f"The first line of the extxyz is {word[:40]!r}: give the number of atoms.")
    return int(word)


def _pairs(comment: str) -> dict[str, str]:
    """Read the keys and values of a comment; one that is spelt in another case counts where the right one is absent.

    Raises:
        StructureError: if `Lattice`, `Properties` or `pbc` is given twice, with other values.
    """
    found: dict[str, str] = {}
    last = ""
    for index, match in enumerate(_PAIR.finditer(comment)):
        if index == _MOST_PAIRS:
            raise StructureError(
                "unreadable", f"The second line of the extxyz has over {_MOST_PAIRS:,} keys: leave out those of others."
            )
        key = _unquoted(match[1])
        if match[2] is None and key in _FLAGS and last == "pbc":  # pbc=T T F, without the quotes
            found[last] += f" {key}"
            continue
        last = key
        if key.lower() not in _SOLE_KEYS_IN_ANY_CASE and not _OCCUPANCY.fullmatch(key):
            continue
        value = "T" if match[2] is None else _unquoted(match[2])
        if key in _SOLE_KEYS and _plain(found.setdefault(key, value)) != _plain(value):
            raise StructureError(
                "unreadable",
                f"The extxyz gives {key} twice, {found[key][:60]!r} and {value[:60]!r}: remove one of them.",
            )
        found[key] = value
    for key in _SOLE_KEYS:
        if key not in found and (other := next((name for name in found if name.lower() == key.lower()), None)):
            found[key] = found[other]
    return found


def without_structure(comment: str) -> str:
    """A comment without the keys that are read for the structure, however they are written.

    Args:
        comment: the second line of a frame.
    """
    return _PAIR.sub(lambda match: "" if _unquoted(match[1]).lower() in _SOLE_KEYS_IN_ANY_CASE else match[0], comment)


def _unquoted(word: str) -> str:
    if len(word) > 1 and word[0] == word[-1] == '"':
        return re.sub(r"\\(.)", r"\1", word[1:-1])
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] == "'" else word


def _plain(value: str) -> list[str]:
    """Return the words of a value without brackets."""
    return _BRACKETS.sub(" ", value.removeprefix("_JSON ")).split()


def _lattice(pairs: _Pairs) -> NDArray[np.float64]:
    """Read nine numbers, the three vectors one after the other, in one list or in three."""
    if "Lattice" not in pairs:
        raise StructureError(
            "no_structure", 'The file has no cell: add Lattice="ax ay az bx by bz cx cy cz" to its second line.'
        )
    value = pairs["Lattice"][:_LONGEST_LATTICE]
    inner = [len(_plain(one)) for one in _INNER_LIST.findall(value)]
    try:
        numbers = np.array([real_number(word) for word in _plain(value)]).reshape(3, 3)
    except ValueError as error:
        raise StructureError(
            "bad_cell", f"Lattice={value[:60]!r} is not nine numbers: give three vectors in Å."
        ) from error
    if inner not in ([], [_DIRECTIONS**2], [_DIRECTIONS] * _DIRECTIONS):
        raise StructureError("bad_cell", f"Lattice={value[:60]!r} is not three lists of three numbers: give them in Å.")
    return numbers


def _check_periodic(pairs: _Pairs) -> list[str]:
    if "pbc" not in pairs:
        return ["The file does not say pbc; it is taken for periodic in all three directions."]
    flags = [flag.lower().strip(".") for flag in _plain(pairs["pbc"])]
    if len(flags) == 1:  # for all directions, or TTT
        flags = list(flags[0]) if len(flags[0]) == _DIRECTIONS else flags * _DIRECTIONS
    if len(flags) != _DIRECTIONS or not _TRUE.issuperset(flags):
        raise StructureError(
            "no_structure", f'The file has pbc="{pairs["pbc"][:20]}": only crystals with pbc="T T T" are predicted.'
        )
    return []


def _columns(properties: str) -> dict[str, slice]:
    """Find the columns of each property, and refuse the absence of elements and positions."""
    words = properties.split(":")
    found: dict[str, slice] = {}
    column = 0
    for name, kind, width in zip(words[::3], words[1::3], words[2::3], strict=False):
        if not width.isdecimal():
            break
        end = column + min(int(width), 1_000_000)
        key = _property_name(name, kind)
        if key in found:
            raise StructureError(
                "unreadable", f"Properties={properties[:60]!r} has {name[:20]!r} twice: give another name to one."
            )
        found[key] = slice(column, end)
        column = end
    position = _first(_POSITIONS, found)
    if position is None or _width(found[position]) != _DIRECTIONS or not _element_columns(found):
        raise StructureError(
            "unreadable",
            f"Properties={properties[:60]!r} lacks pos:R:3, or one of species:S:1 and Z:I:1: give both, as "
            f"{_DEFAULT_PROPERTIES}.",
        )
    return found


def _property_name(name: str, kind: str) -> str:
    """The name as ase spells it; a column of reals called Z, such as an effective charge, is no atomic number."""
    for known in (*_SPECIES, *_NUMBERS, *_POSITIONS):
        if name.lower() == known.lower():
            return known if known not in _NUMBERS or kind.upper() == "I" else f"{name} "
    return name


def _element_columns(columns: Mapping[str, slice]) -> list[str]:
    return [name for name in (*_SPECIES, *_NUMBERS) if name in columns and _width(columns[name]) == 1]


def _first(names: tuple[str, ...], columns: Mapping[str, slice]) -> str | None:
    return next((name for name in names if name in columns), None)


def _width(columns: slice) -> int:
    return int(columns.stop - columns.start)


def _elements(columns: Mapping[str, slice], rows: _Rows) -> tuple[list[int], list[str]]:
    """Look up the element of each atom, which several columns may say, and refuse columns that disagree."""
    readings: list[tuple[str, list[int]]] = []
    warnings: list[str] = []
    for name in _element_columns(columns):
        at = columns[name].start
        words = [row[at] if at < len(row) else "" for row in rows]
        found = {word: _element(word, name, words.index(word) + 1) for word in dict.fromkeys(words)}
        warnings += [warning for _, warning in found.values() if warning]
        if name in _SPECIES and any_charged(found):
            warnings.append(OXIDATION_STATES)
        readings.append((name, [found[word][0] for word in words]))
    name, numbers = readings[0]
    for other, others in readings[1:]:
        for index, (one, two) in enumerate(zip(numbers, others, strict=True), start=1):
            if one != two:
                raise StructureError(
                    "unreadable",
                    f"Atom {index} of the extxyz is {SYMBOLS[one]} by its {name} and {SYMBOLS[two]} by its {other}: "
                    "correct one of them.",
                )
    return numbers, warnings


def _element(word: str, column: str, atom: int) -> tuple[int, str | None]:
    if not word:
        raise _short_line(atom)
    if column in _NUMBERS:
        number = int(word) if re.fullmatch(r"\+?\d{1,6}", word, re.ASCII) else 0
        if not 0 < number < len(SYMBOLS):
            raise StructureError(
                "unknown_element", f"Atom {atom} of the extxyz has {column} {word[:20]!r}: give 1 to 118."
            )
        return number, None
    if word.isdecimal():
        raise StructureError(
            "unknown_element",
            f"The species of atom {atom} is the number {word[:20]!r}, as a type of LAMMPS, which names no element: "
            "write symbols, or call the column Z:I:1 if these are atomic numbers.",
        )
    return number_of_name(word, f"atom {atom}")


def _positions(columns: Mapping[str, slice], rows: _Rows) -> NDArray[np.float64]:
    at = columns[_first(_POSITIONS, columns) or ""]
    positions = []
    for atom, row in enumerate(rows, start=1):
        try:
            x, y, z = (real_number(word) for word in row[at])
        except ValueError as error:
            raise _short_line(atom) from error
        positions.append((x, y, z))
    return np.array(positions, dtype=np.float64).reshape(-1, _DIRECTIONS)


def _short_line(atom: int) -> StructureError:
    return StructureError(
        "unreadable",
        f"The line of atom {atom} of the extxyz does not hold the element and the three coordinates that Properties= "
        "promises: complete it.",
    )


def _check_what_follows(lines: list[str], count: int, columns: Mapping[str, slice]) -> list[str]:
    """Warn of further frames, and refuse more atoms than the first line counts."""
    following = next((line for line in lines if line.strip()), None)
    if following is None:
        return []
    row = following.split()
    try:
        _elements(columns, [row])
        _positions(columns, [row])
    except StructureError:
        return ["The text goes on after the first frame; only that is read."]
    raise StructureError(
        "unreadable",
        f"The extxyz declares {count} atoms, and {following.strip()[:40]!r} follows them like one more: "
        "correct the number.",
    )


def _check_widths(columns: Mapping[str, slice], rows: _Rows) -> list[str]:
    """Refuse a line with too few columns where one that is missing would move the others; tell of those with more."""
    width = max(at.stop for at in columns.values())
    read = [columns[name] for name in (*_POSITIONS, *_element_columns(columns)) if name in columns]
    may_be_moved = max(at.stop for at in read) > sum(map(_width, read))  # others stand before or between
    for atom, row in enumerate(rows, start=1):
        if may_be_moved and len(row) < width:
            raise StructureError(
                "unreadable",
                f"The line of atom {atom} of the extxyz has {len(row)} columns, and Properties= says {width}: "
                "complete it.",
            )
    more = any(len(row) > width and not row[width].startswith("#") for row in rows)
    return [MORE_COLUMNS] if more else []


def _occupancy_columns(columns: Mapping[str, slice]) -> list[str]:
    return [name for name, at in columns.items() if _OCCUPANCY.fullmatch(name) and _width(at) == 1]


def _check_occupancies(pairs: _Pairs, columns: Mapping[str, slice], rows: _Rows) -> list[str]:
    """Refuse partial occupancies, as ase writes them into the comment or others into a column; tell of other values."""
    unread = []
    for key, value in pairs.items():
        if _OCCUPANCY.fullmatch(key):
            shares_of_kinds = _shares(value)
            unread += [] if shares_of_kinds else [key]
            for kind, shares in shares_of_kinds.items():
                if len(shares) != 1 or abs(next(iter(shares.values())) - 1) > _WHOLE_SITE:
                    raise disordered(f"kind {kind[:20]} in {key}", list(shares.items()) or [("vacancy", 1.0)])
    for name in _occupancy_columns(columns):
        for atom, row in enumerate(rows, start=1):
            at = columns[name].start
            share = _number(row[at]) if at < len(row) else None
            if share is not None and abs(share - 1) > _WHOLE_SITE:
                raise disordered(f"atom {atom}", [("its element", share)])
    return properties_warning(unread)


def _shares(value: str) -> dict[str, dict[str, float]]:
    """Occupancies of each kind of atoms; none where the value is another thing."""
    found = _literal(value.removeprefix("_JSON "))
    if isinstance(found, int | float):
        return {"of all atoms": {"its element": float(found)}}
    if not isinstance(found, dict):
        return {}
    return {
        str(kind): {str(name)[:40]: float(share) for name, share in shares.items() if isinstance(share, int | float)}
        for kind, shares in found.items()
        if isinstance(shares, dict)
    }


def _literal(text: str) -> Any:
    """What JSON or, as older ase writes it, Python has for a value; None for other text."""
    for spelling in (text, _NUMBERED_KIND.sub(r'\1"\2":', text.replace("'", '"'))):
        try:
            return json.loads(spelling)
        except (ValueError, RecursionError):
            continue
    return None


def _number(word: str) -> float | None:
    try:
        return real_number(word)
    except ValueError:
        return None


def _telling(columns: Mapping[str, slice], rows: _Rows, read: set[str]) -> list[str]:
    """Return the names of the unread properties that are not all zero."""
    if not columns.keys() - read:
        return []
    told = {column for row in rows for column, word in enumerate(row) if word.strip("0.+-EeDd")}
    most = max(told, default=0) + 1
    return [
        name.strip()
        for name, at in columns.items()
        if name not in read and not told.isdisjoint(range(at.start, min(at.stop, most)))
    ]
