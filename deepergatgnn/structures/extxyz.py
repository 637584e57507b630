"""Extended XYZ: a count, a comment of key=value pairs with the lattice, one line for each atom."""

import re
from typing import Final

import numpy as np

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.checks import check_lattice
from deepergatgnn.structures.crystal import Crystal, crystal_from_arrays, too_many_atoms
from deepergatgnn.structures.ignored import properties_warning
from deepergatgnn.structures.limits import StructureLimits
from deepergatgnn.structures.text import real_number

# A key is tried from its first letter only, or a long word would be tried from each of its letters.
_PAIR: Final = re.compile(r"""(?<![\w-])([A-Za-z_][\w-]*)\s*=\s*(?:"([^"]*)"|'([^']*)'|(\S+))""")
_DEFAULT_PROPERTIES: Final = "species:S:1:pos:R:3"
_READ: Final = frozenset({"species", "pos", "z", "numbers", "atomic_numbers"})  # the last three say the species again


def read_extxyz(text: str, limits: StructureLimits) -> Crystal:
    """Read the first frame.

    Args:
        text: the file.
        limits: bounds that the structure must keep.

    Raises:
        StructureError: `no_structure` without `Lattice=` or with a `pbc` that is not periodic in all directions,
            `unreadable` for lines that do not hold what `Properties=` says, and as `read_structure`.
    """
    lines = text.split("\n")
    count = _count(lines[0])
    if count > limits.max_atoms:
        raise too_many_atoms(count, limits)
    rows = [line.split() for line in lines[2 : 2 + count] if line.strip()]
    if len(rows) < count:
        raise StructureError(
            "unreadable", f"The extxyz declares {count} atoms and has {len(rows)} lines of them: complete it."
        )
    pairs = {match[1].lower(): next(filter(None, match.groups()[1:]), "") for match in _PAIR.finditer(lines[1])}
    lattice = _lattice(pairs)
    said = _check_periodic(pairs)
    if any(line.strip() for line in lines[2 + count :]):
        said.append("The text goes on after the first frame; only that is read.")
    columns = _columns(pairs.get("properties", _DEFAULT_PROPERTIES))
    symbol_at, position_at = columns["species"].start, columns["pos"].start
    try:
        symbols = [row[symbol_at] for row in rows]
        positions = np.array([[real_number(word) for word in row[position_at : position_at + 3]] for row in rows])
    except (IndexError, ValueError) as error:
        raise StructureError(
            "unreadable", "A line of the extxyz does not hold the species and the position that Properties= promises."
        ) from error
    said += properties_warning(_telling(columns, rows))
    check_lattice(lattice, limits)  # before it is inverted
    frac_coords = positions.reshape(-1, 3) @ np.linalg.inv(lattice)
    return crystal_from_arrays(lattice, symbols, frac_coords, warnings=said, limits=limits)


def _count(line: str) -> int:
    word = line.strip()
    if re.fullmatch(r"\d{1,12}", word, re.ASCII) is None:
        raise StructureError("unreadable", f"The first line of the extxyz is {word[:40]!r}: give the number of atoms.")
    return int(word)


def _lattice(pairs: dict[str, str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    if "lattice" not in pairs:
        raise StructureError(
            "no_structure", 'The file has no cell: add Lattice="ax ay az bx by bz cx cy cz" to its second line.'
        )
    try:
        return np.array([real_number(word) for word in pairs["lattice"].replace(",", " ").split()]).reshape(3, 3)
    except ValueError as error:
        raise StructureError(
            "bad_cell", f"Lattice={pairs['lattice'][:60]!r} is not nine numbers: give three vectors in Å."
        ) from error


def _check_periodic(pairs: dict[str, str]) -> list[str]:
    if "pbc" not in pairs:
        return ["The file does not say pbc; it is taken for periodic in all three directions."]
    flags = pairs["pbc"].replace(",", " ").split()
    if len(flags) != 3 or any(flag.lower() not in ("t", "true", "1") for flag in flags):  # noqa: PLR2004 - directions
        raise StructureError(
            "no_structure", f'The file has pbc="{pairs["pbc"][:20]}": only crystals with pbc="T T T" are predicted.'
        )
    return []


def _columns(properties: str) -> dict[str, slice]:
    """Find the columns of each property, and refuse the absence of species and position."""
    words = properties.split(":")
    found: dict[str, slice] = {}
    column = 0
    for name, width in zip(words[::3], words[2::3], strict=False):
        end = column + (min(int(width), 1_000_000) if width.isdecimal() else 0)
        found[name.lower()] = slice(column, end)
        if not width.isdecimal():
            break
        column = end
    if "species" not in found or "pos" not in found:
        raise StructureError(
            "unreadable", f"Properties={properties[:60]!r} lacks species or pos: give both, as {_DEFAULT_PROPERTIES}."
        )
    return found


def _telling(columns: dict[str, slice], rows: list[list[str]]) -> list[str]:
    """The names of the properties that are not read and hold anything but zeros."""
    if not columns.keys() - _READ:
        return []
    told = {column for row in rows for column, word in enumerate(row) if word.strip("0.+-Ee")}
    most = max(told, default=0) + 1
    return [
        name
        for name, at in columns.items()
        if name not in _READ and not told.isdisjoint(range(at.start, min(at.stop, most)))
    ]
