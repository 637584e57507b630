"""POSCAR and CONTCAR files: pymatgen reads them once the counts are known to be sane."""

import re
from typing import Final, NamedTuple

from pymatgen.io.vasp.inputs import Poscar

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.crystal import Crystal, crystal_from_pymatgen, too_many_atoms
from deepergatgnn.structures.elements import is_element
from deepergatgnn.structures.ignored import AFTER_POSITIONS
from deepergatgnn.structures.limits import StructureLimits
from deepergatgnn.structures.text import real_number

_HEADER_LINES: Final = 5  # comment, scale, three vectors
_MOST_SYMBOL_LINES: Final = 10  # as many as pymatgen looks for
_MOST_KINDS: Final = 10_000  # groups of like atoms; far more than there are atoms
_NAME_IN_COMMENT: Final = re.compile(r"([A-Z][a-z]?)(\d*)")


class _Header(NamedTuple):
    comment: str
    counts: list[int]
    n_names: int
    n_lines: int


def read_poscar(text: str, limits: StructureLimits) -> Crystal:
    """Read VASP 4, 5 and 6 files, direct or Cartesian; velocities are ignored, with a warning unless they are zero.

    Args:
        text: the file.
        limits: bounds that the structure must keep.

    Raises:
        StructureError: as `read_structure`.
    """
    header = _scan_header(text)
    if header.n_names and header.n_names != len(header.counts):
        raise StructureError(
            "unreadable",
            f"The POSCAR names {header.n_names} elements and gives {len(header.counts)} counts: make them agree.",
        )
    total = sum(header.counts)
    if total > limits.max_atoms:
        raise too_many_atoms(total, limits)
    if total == 0:
        raise StructureError("no_structure", "The POSCAR declares 0 atoms: give the number of each element.")
    lines = text.split("\n")
    first = header.n_lines + _check_mode(lines[header.n_lines :]) + 1
    # Counted before pymatgen sees the file, which believes the declared counts.
    given = sum(1 for line in lines[header.n_lines :] if line.strip()) - 1
    if given < total:
        raise StructureError(
            "unreadable",
            f"The POSCAR declares {total} atoms and has {max(given, 0)} lines of coordinates: complete it.",
        )
    _check_coordinates(lines[first : first + total])
    ignored = [] if _is_zero(lines[first + total :]) else [AFTER_POSITIONS]
    poscar = Poscar.from_str(text, read_velocities=False)
    if header.n_names or poscar.true_names:
        return crystal_from_pymatgen(poscar.structure, warnings=ignored, limits=limits)
    names = _names_from_comment(header)
    if names is None:
        # VASP 4 keeps the elements in another file. pymatgen counts through the periodic table instead, and so does
        # every tool built on it; a reader that differs would disagree with all of them in silence.
        assumed = " ".join(dict.fromkeys(site.specie.symbol for site in poscar.structure))
        said = (
            f"The file does not name its elements: {assumed[:80]} are placeholders, and every answer is for them. "
            "Add a line of element symbols above the counts."
        )
    else:
        poscar = Poscar.from_str(text, default_names=names, read_velocities=False)
        said = f"The file does not name its elements; {' '.join(names)} are taken from its first line."
    return crystal_from_pymatgen(poscar.structure, warnings=[said, *ignored], limits=limits)


def _scan_header(text: str) -> _Header:
    lines = [line.split("#", 1)[0] for line in text.split("\n", _HEADER_LINES + 2 * _MOST_SYMBOL_LINES + 1)]
    if len(lines) <= _HEADER_LINES + 1:
        raise StructureError("unreadable", f"The POSCAR ends after {len(lines)} lines: complete it.")
    _check_numbers(lines)
    for first in range(_HEADER_LINES, min(len(lines), _HEADER_LINES + _MOST_SYMBOL_LINES + 1)):
        words = lines[first].split()
        if words and _is_integer(words[0]):
            break
    else:
        raise StructureError("unreadable", "The POSCAR has no line with the number of atoms of each element: add it.")
    n_symbol_lines = first - _HEADER_LINES
    n_lines = first + max(1, n_symbol_lines)
    for number, line in enumerate(lines[1 : n_lines + 1], start=2):
        if not line.strip():  # what follows would be taken for velocities
            raise StructureError("unreadable", f"Line {number} of the POSCAR is empty: remove it, or complete it.")
    counts: list[int] = []
    for word in " ".join(lines[first:n_lines]).split(None, _MOST_KINDS)[:_MOST_KINDS]:
        if not _is_integer(word) or len(word) > 12 or int(word) < 0:  # noqa: PLR2004 - 10^12 atoms are too many
            raise StructureError("unreadable", f"The POSCAR has the atom count {word[:20]!r}: give whole numbers.")
        counts.append(int(word))
    comment = text.split("\n", 1)[0].strip(" #\t")
    n_names = len(" ".join(lines[_HEADER_LINES:first]).split())
    return _Header(comment, counts, n_names, n_lines)


def _check_numbers(lines: list[str]) -> None:
    for number, (line, what, count) in enumerate(
        zip(lines[1:_HEADER_LINES], ("scale", "vector a", "vector b", "vector c"), (1, 3, 3, 3), strict=True), start=2
    ):
        try:
            # A vector may be followed by a remark in the files of some programs, but pymatgen takes numbers alone.
            good = len([real_number(word) for word in line.split()]) == count
        except ValueError:
            good = False
        if not good:
            raise StructureError(
                "unreadable",
                f"Line {number} of the POSCAR is {line.strip()[:40]!r}: the {what} takes {count} "
                f"number{'s' * (count > 1)} and nothing else.",
            )


def _check_mode(lines: list[str]) -> int:
    """Find the line with the mode of the coordinates among those that follow the counts, and refuse its absence."""
    first = 1 if lines and lines[0].lstrip()[:1] in ("s", "S") else 0  # selective dynamics
    # What pymatgen takes for the mode may be anything, but a forgotten one is a lost atom.
    if len(lines) > first and _n_numbers(lines[first]) == 3:  # noqa: PLR2004 - x, y, z
        raise StructureError(
            "unreadable",
            f"The POSCAR has {lines[first].strip()[:40]!r} where the mode of the coordinates is expected: "
            "add a line that says Direct or Cartesian.",
        )
    return first


def _check_coordinates(lines: list[str]) -> None:
    for number, line in enumerate(lines, start=1):
        if _n_numbers(line) < 3:  # noqa: PLR2004 - x, y, z
            raise StructureError(
                "unreadable",
                f"The position of atom {number} in the POSCAR is {line.strip()[:40]!r}: give three numbers.",
            )


def _is_zero(lines: list[str]) -> bool:
    """Whether there is nothing but zeros, as after a relaxation."""
    return not "\n".join(lines).strip("0.+-Ee \t\n")


def _n_numbers(line: str) -> int:
    """How many of the first three words are numbers, those run together such as 0.1-0.2 counted apart."""
    words = line.split(None, 3)[:3]
    if len(words) < 3:  # noqa: PLR2004 - x, y, z
        words = re.findall(r"-?[^-]+", " ".join(words).replace(" ", ""))
    try:
        return len([real_number(word) for word in words])
    except ValueError:
        return 0


def _names_from_comment(header: _Header) -> list[str] | None:
    """Take `Mg Si` or `Mg2 Si4` from the first line, if that is exactly what it says."""
    matches = [_NAME_IN_COMMENT.fullmatch(word) for word in header.comment.split()]
    names = [match[1] for match in matches if match and is_element(match[1])]
    counts = [int(match[2]) if match and match[2] else None for match in matches]
    agrees = all(said in (None, declared) for said, declared in zip(counts, header.counts, strict=False))
    if len(names) == len(matches) == len(header.counts) and agrees:
        return names
    return None


def _is_integer(word: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", word, re.ASCII) is not None
