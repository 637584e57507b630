"""POSCAR and CONTCAR files, read as VASP reads them; parts that VASP ignores must be unambiguous.

VASP reads with Fortran's list-directed input: it takes as many numbers as it needs and passes over the rest of a line.
See https://vasp.at/wiki/POSCAR.
"""

import math
import re
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.checks import check_lattice
from deepergatgnn.structures.crystal import Crystal, crystal_from_numbers, too_many_atoms
from deepergatgnn.structures.element_names import is_pseudo_hydrogen, names_of_formula, number_of_name, split_names
from deepergatgnn.structures.elements import ATOMIC_NUMBERS, ISOTOPE_WARNING, ISOTOPES, SYMBOLS, any_charged, is_element
from deepergatgnn.structures.ignored import AFTER_POSITIONS, OXIDATION_STATES, properties_warning
from deepergatgnn.structures.limits import StructureLimits
from deepergatgnn.structures.text import begins_with_number, leading_numbers, real_number

_VECTORS_AT: Final = 2  # index of the first line of each part
_NAMES_AT: Final = 5
_MOST_NAME_LINES: Final = 120  # VASP writes twenty names on each
_MOST_GROUPS: Final = 10_000  # of like atoms; far more than there are atoms
_MOST_LEFT_OVER: Final = 10_000  # lines that are counted for a message
_DIRECTIONS: Final = 3
_NAMED_COUNT: Final = re.compile(r"[A-Z][a-z]?\d+")
_NAME_IN_TITLE: Final = re.compile(r"([A-Z][a-z]?)(\d*)")
_LONGEST_TITLE: Final = 400  # characters
_BETWEEN_WORDS: Final = re.compile(r"[\s_:;|/.\-\"'=]+")  # of a title, such as Na4Cl4_relaxed
_REMARK: Final = re.compile(r"[!#]")
_WHOLE: Final = re.compile(r"\+?\d{1,12}", re.ASCII)  # 10^12 atoms are too many
_MODE: Final = re.compile(r"(?:direct|cart|selective)", re.IGNORECASE)
_FLAG: Final = re.compile(r"\.?(?:t|f|true|false)\.?", re.IGNORECASE)
# What a format with too few columns writes: 0.25000000-0.25000000 0.5. Without a point, 0.5-1 may be an exponent.
_RUN_TOGETHER: Final = re.compile(r"(?:[+-]?\d*\.\d+(?:[eEdD][+-]?\d+)?(?=[+\s-]|$)\s*){3}")
_ONE_OF_THEM: Final = re.compile(r"[+-]?\d*\.\d+(?:[eEdD][+-]?\d+)?")

_FAR_OUTSIDE: Final = 1.5  # cells from the middle of the cell
_ISOTOPES: Final = frozenset(map(ISOTOPE_WARNING.format, ISOTOPES))

_Vectors = NDArray[np.float64]


class _Elements(NamedTuple):
    """Atomic numbers, and what there is to say of the names that they are taken from."""

    numbers: list[int]  # of each group, or of each atom
    warnings: list[str]


class _Header(NamedTuple):
    names: list[tuple[str, int]]  # each with the number of its line
    counts: list[int]
    mode_at: int  # index of the line that follows the counts


def read_poscar(text: str, limits: StructureLimits) -> Crystal:
    """Read VASP 4, 5 and 6 files, direct or Cartesian; velocities are ignored, with a warning unless they are zero.

    Args:
        text: the file.
        limits: bounds that the structure must keep.

    Raises:
        StructureError: `unknown_element` if the file names no elements, and as `read_structure`.
    """
    lines = text.split("\n")
    if len(lines) <= _NAMES_AT + 1:
        raise StructureError("unreadable", f"The POSCAR ends after {len(lines)} lines: complete it.")
    scale = _read_scale(lines[1])
    vectors = np.array([_read_vector(lines[at], at, "abc"[at - _VECTORS_AT]) for at in range(_VECTORS_AT, _NAMES_AT)])
    header = _read_header(lines)
    total = sum(header.counts)
    if total > limits.max_atoms:
        raise too_many_atoms(total, limits)
    named = _named_elements(header) if header.names else None
    if total == 0:
        raise StructureError("no_structure", "The POSCAR declares 0 atoms: give the number of each element.")
    cartesian, first, warnings = _read_mode(lines, header.mode_at)
    coords, rests = _read_positions(lines, first, header.counts)
    warnings += _check_what_follows(lines, first + total, header.counts)
    at_ends, flags = _line_ends(rests)
    elements = _elements(lines[0], header, named, at_ends, first)
    warnings = [*elements.warnings, *warnings, *([] if cartesian else _unit_warning(coords))]
    if any(flag.strip(".")[0] in "fF" for row in flags for flag in row):
        warnings += properties_warning(["selective_dynamics"])
    factors = _factors(scale, vectors)
    lattice = vectors * factors
    check_lattice(lattice, limits)  # before it is inverted
    frac_coords = (coords * factors) @ np.linalg.inv(lattice) if cartesian else coords
    return crystal_from_numbers(lattice, elements.numbers, frac_coords, warnings=warnings, limits=limits)


def _read_scale(line: str) -> list[float]:
    """Read one factor, one negative volume, or three factors of x, y and z."""
    before = _REMARK.split(line, maxsplit=1)[0]
    found = leading_numbers(before, _DIRECTIONS) or leading_numbers(before, 1)
    if found is None or begins_with_number(found[1]):
        raise _bad_line(1, line, "the scale takes one number, or three factors for x, y and z, with a decimal point")
    if len(found[0]) > 1 and min(found[0]) <= 0:
        raise StructureError(
            "bad_cell",
            f"Line 2 of the POSCAR gives the scale factors {line.strip()[:40]!r}: three of them must be above zero.",
        )
    if found[0][0] == 0:
        raise StructureError(
            "bad_cell", f"Line 2 of the POSCAR gives the scale {line.strip()[:40]!r}: give one that is not zero."
        )
    return found[0]


def _read_vector(line: str, at: int, name: str) -> list[float]:
    found = leading_numbers(_REMARK.split(line, maxsplit=1)[0], _DIRECTIONS)
    if found is None or begins_with_number(found[1]):
        if not line.strip():
            raise _empty_line(at)
        raise _bad_line(at, line, f"the vector {name} takes 3 numbers, with a decimal point")
    return found[0]


def _factors(scale: Sequence[float], vectors: _Vectors) -> _Vectors:
    """Return the factors of x, y and z; a negative scale is the volume of the cell."""
    if scale[0] >= 0 or len(scale) > 1:
        return np.broadcast_to(np.array(scale), _DIRECTIONS)
    volume = abs(float(np.linalg.det(vectors)))
    # A flat cell is left as it is, to be refused for that.
    return np.full(_DIRECTIONS, math.cbrt(-scale[0] / volume) if volume else 1.0)


def _read_header(lines: Sequence[str]) -> _Header:
    """Read the names and the counts, each of which may go on over several lines."""
    names: list[tuple[str, int]] = []
    at = _NAMES_AT
    while at < len(lines):
        words = _REMARK.split(lines[at], maxsplit=1)[0].replace(",", " ").split(None, _MOST_GROUPS)
        if not words:
            raise _empty_line(at, lines[at])
        if begins_with_number(words[0]):
            break
        if not words[0][0].isalpha() or (names and _MODE.match(words[0])):
            raise _bad_line(at, lines[at], "element symbols, or numbers of atoms as whole numbers, are expected there")
        if at == _NAMES_AT + _MOST_NAME_LINES or len(names) + len(words) > _MOST_GROUPS:
            raise StructureError(
                "unreadable", "The POSCAR has no line with the number of atoms of each element: add it."
            )
        names += [(word, at + 1) for word in words]
        at += 1
    else:
        raise StructureError("unreadable", "The POSCAR has no line with the number of atoms of each element: add it.")
    counts = _read_counts(lines[at], at)
    counts_at = at
    at += 1
    if names:
        while len(counts) < len(names) and at < len(lines) and _is_whole(lines[at]):
            counts += _read_counts(lines[at], at)
            at += 1
    else:
        # A forgotten mode would make counts of the first position, unless that is what follows.
        end = next((index for index in range(at, len(lines)) if not _is_whole(lines[index])), at)
        if end > at and end < len(lines) and lines[end].strip() and not begins_with_number(lines[end]):
            for index in range(at, end):
                counts += _read_counts(lines[index], index)
            at = end
    return _Header(_without_remark(names, counts, counts_at), counts, at)


def _read_counts(line: str, at: int) -> list[int]:
    counts: list[int] = []
    for word in _REMARK.split(line, maxsplit=1)[0].replace(",", " ").split(None, _MOST_GROUPS)[:_MOST_GROUPS]:
        if not _WHOLE.fullmatch(word):
            if begins_with_number(word):
                raise StructureError(
                    "unreadable",
                    f"Line {at + 1} of the POSCAR has the atom count {word[:20]!r}: give whole numbers.",
                )
            break
        counts.append(int(word))
    return counts


def _is_whole(line: str) -> bool:
    """Return whether a line holds only integers, except for a remark."""
    words = _REMARK.split(line, maxsplit=1)[0].split(None, _MOST_GROUPS)
    return bool(words) and all(map(_WHOLE.fullmatch, words))


def _without_remark(names: list[tuple[str, int]], counts: Sequence[int], counts_at: int) -> list[tuple[str, int]]:
    """Leave out what follows the names without being one, and refuse names that do not go with the counts."""
    if not names or len(names) == len(counts):
        return names
    if len(names) > len(counts) and names[0][1] == names[-1][1]:
        remark = [word for word, _ in names[len(counts) :]]
        if not any(word.lower().title() in ATOMIC_NUMBERS or begins_with_number(word) for word in remark):
            return names[: len(counts)]
    if len(names) == 1:
        word, line = names[0]
        if of_formula := names_of_formula(word, counts):
            return [(name, line) for name in of_formula]
        ways = split_names(word, len(counts))
        if len(ways) == 1:
            return [(name, line) for name in ways[0]]
        if ways:
            readings = " or ".join(" ".join(way) for way in ways)
            raise StructureError(
                "unreadable",
                f"Line {line} of the POSCAR names {word[:20]!r}, which may be {readings}: separate the elements.",
            )
    raise StructureError(
        "unreadable",
        f"The POSCAR names {len(names)} elements and gives {len(counts)} counts in line {counts_at + 1}: "
        "make them agree.",
    )


def _named_elements(header: _Header) -> _Elements:
    """Look up the elements of the groups that the names line gives."""
    found: dict[str, int] = {}
    warnings: list[str] = []
    for name, line in header.names:
        if name not in found:
            found[name], warning = number_of_name(name, f"line {line} of the POSCAR")
            warnings += [warning] if warning else []
    if any_charged(found):
        warnings.append(OXIDATION_STATES)
    return _Elements([found[name] for name, _ in header.names], warnings)


def _read_mode(lines: Sequence[str], at: int) -> tuple[bool, int, list[str]]:
    """Find whether the positions are Cartesian, the index of the first of them, and what there is to say."""
    if at < len(lines) and lines[at].lstrip()[:1] in ("s", "S"):
        at += 1
    line = lines[at] if at < len(lines) else ""
    if not line.strip():
        raise _empty_line(at)
    if begins_with_number(line):
        raise StructureError(
            "unreadable",
            f"The POSCAR has {line.strip()[:40]!r} in line {at + 1} where the mode of the coordinates is expected: "
            "add a line that says Direct or Cartesian.",
        )
    word = re.split(r"[^A-Za-z]", line.strip()[:40], maxsplit=1)[0].lower()
    if word.startswith("cryst"):
        raise StructureError(
            "unreadable",
            f"Line {at + 1} of the POSCAR is {line.strip()[:40]!r}, which is Cartesian for VASP and fractional for "
            "others: write Direct or Cartesian.",
        )
    cartesian = line.lstrip()[0] in "cCkK"
    if cartesian and line[0] not in "cCkK":
        return True, at + 1, [f"Line {at + 1} of the POSCAR says Cartesian after a blank, where VASP does not see it."]
    known = ("cartesian", "kartesian") if cartesian else ("direct", "fractional", "relative", "reduced")
    if word and any(one.startswith(word) or word.startswith(one) for one in known):
        return cartesian, at + 1, []
    reading = "Cartesian" if cartesian else "direct"
    said = f"Line {at + 1} of the POSCAR is {line.strip()[:40]!r}: as in VASP, the coordinates are taken for {reading}."
    return cartesian, at + 1, [said]


def _read_positions(lines: Sequence[str], first: int, counts: Sequence[int]) -> tuple[_Vectors, list[str]]:
    """Read the coordinates of each atom, and the rest of their lines."""
    total = sum(counts)
    coords: list[list[float]] = []
    rests: list[str] = []
    for at in range(first, first + total):
        line = lines[at] if at < len(lines) else ""
        if not line.strip():
            ends = not any(map(str.strip, lines[at:]))
            raise StructureError(
                "unreadable",
                f"The POSCAR declares {_written(counts)} and has {len(coords)} lines of coordinates "
                + (
                    f"up to its end, line {at}: complete it." if ends else f"before the empty line {at + 1}: remove it."
                ),
            )
        found = _read_position(line)
        if found is None:
            raise StructureError(
                "unreadable",
                f"The position of atom {len(coords) + 1} in the POSCAR is {line.strip()[:40]!r}, in line {at + 1}: "
                "give three numbers, with a decimal point.",
            )
        coords.append(found[0])
        rests.append(found[1])
    _check_not_numbered(coords, rests, first)
    return np.array(coords), rests


def _check_not_numbered(coords: Sequence[Sequence[float]], rests: Sequence[str], first: int) -> None:
    """Refuse lines that begin with 1, 2, 3 and so on and go on with three numbers: the first is no coordinate."""
    begins = [row[0] for row in coords]
    are_numbers = begins in (list(range(1, len(begins) + 1)), list(range(len(begins))))
    if len(begins) > 1 and are_numbers and all(map(begins_with_number, rests)):
        raise StructureError(
            "unreadable",
            f"The positions of the POSCAR, from line {first + 1}, begin with the number of the atom, which VASP "
            "would take for a coordinate: remove it.",
        )


def _unit_warning(coords: _Vectors) -> list[str]:
    """Tell of direct coordinates that lie as far apart as if they were in Å; those of a moving atom are nearer."""
    outside = np.any(np.abs(coords - 0.5) > _FAR_OUTSIDE, axis=1)
    if not outside.any() or 2 * np.count_nonzero(outside) < len(coords):
        return []
    return [
        f"The coordinates are direct and reach {np.abs(coords).max():.3g} cells far: if they are in Å, write Cartesian."
    ]


def _read_position(line: str) -> tuple[list[float], str] | None:
    if found := leading_numbers(line, _DIRECTIONS):
        return found
    if match := _RUN_TOGETHER.match(line.strip()):
        numbers = [real_number(word) for word in _ONE_OF_THEM.findall(match[0])]
        rest = line.strip()[match.end() :]
        if len(numbers) == _DIRECTIONS and not begins_with_number(rest):
            return numbers, rest
    return None


def _check_what_follows(lines: Sequence[str], end: int, counts: Sequence[int]) -> list[str]:
    """Refuse a position too many; warn of the rest, such as velocities, unless it is zero."""
    following = (line for line in lines[end:])
    left_over = 0
    if end < len(lines) and lines[end].strip():
        for line in islice(following, _MOST_LEFT_OVER):
            if leading_numbers(line, _DIRECTIONS) is None:
                break
            left_over += 1
    else:
        # Velocities are as many as the atoms; fewer lines are positions after an empty line.
        block = [line for line in islice(following, 2 * sum(counts) + 1) if line.strip()]
        numeric = [leading_numbers(line, _DIRECTIONS) is not None for line in block]
        if numeric and all(numeric) and len(block) < sum(counts):
            left_over = len(block)
    if left_over:
        raise StructureError(
            "unreadable",
            f"The POSCAR declares {_written(counts)} and has {sum(counts) + left_over} lines of coordinates: "
            "correct the counts, or remove a line.",
        )
    # Nothing but zeros follows a relaxation.
    return [AFTER_POSITIONS] if "\n".join(lines[end:]).strip("0.+-EeDd \t\n") else []


def _line_ends(rests: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Part what follows the coordinates into the word that may be a name, empty if none, and the flags T and F."""
    names: list[str] = []
    flags: list[list[str]] = []
    single: set[str] = set()  # flags that do not come in threes
    for rest in rests:
        words = _REMARK.sub(" ", rest[:200]).split()[: _DIRECTIONS + 1]
        are_flags = [bool(_FLAG.fullmatch(word)) for word in words]
        name_first = words[:1] == ["F"] and words[_DIRECTIONS:] != ["F"]  # fluorine; T before flags is no tritium
        start = 1 if all(are_flags[1:]) and len(words) > _DIRECTIONS and (name_first or not are_flags[0]) else 0
        has_flags = len(words) >= start + _DIRECTIONS and all(are_flags[start : start + _DIRECTIONS])
        flags.append(words[start : start + _DIRECTIONS] if has_flags else [])
        left = [*words[:start], *words[start + _DIRECTIONS :], ""] if has_flags else [*words, ""]
        # A T that is left over is rather one more flag than tritium.
        names.append("" if left[0] != "F" and _FLAG.fullmatch(left[0]) else left[0])
        single |= {left[0]} if _FLAG.fullmatch(left[0]) and not has_flags else set()
    if single - {"F"}:
        names = ["" if name == "F" else name for name in names]
    return names, flags


def _elements(title: str, header: _Header, named: _Elements | None, at_ends: Sequence[str], first: int) -> _Elements:
    """Take the element of each atom from the names line, the line ends or the title, in that order.

    Raises:
        StructureError: if the line ends contradict the names line or the counts, or nothing names the elements.
    """
    groups = [index for index, count in enumerate(header.counts) for _ in range(count)]
    ends = _elements_at_ends(at_ends)
    if named:
        numbers = [named.numbers[group] for group in groups]
        for index, number in enumerate(ends.numbers if ends else ()):
            if number and number != numbers[index]:
                name, line = header.names[groups[index]]
                raise StructureError(
                    "unreadable",
                    f"Line {line} of the POSCAR names atom {index + 1} {name[:20]!r}, and line {first + index + 1} "
                    f"names it {at_ends[index][:20]!r} at its end: correct one of them.",
                )
        # Where one names hydrogen and the other its isotope, a warning says so.
        isotopes = [warning for warning in (ends.warnings if ends else ()) if warning in _ISOTOPES]
        return _Elements(numbers, [*named.warnings, *(one for one in isotopes if one not in named.warnings)])
    if ends and all(ends.numbers):
        seen: dict[int, int] = {}
        for index, (group, number) in enumerate(zip(groups, ends.numbers, strict=True)):
            if seen.setdefault(group, number) != number:
                raise StructureError(
                    "unreadable",
                    f"Group {group + 1} of the POSCAR, of {header.counts[group]} like atoms, has "
                    f"{SYMBOLS[seen[group]]} and, at the end of line {first + index + 1}, {SYMBOLS[number]}: "
                    "correct the counts.",
                )
        return ends
    names = _names_in_title(title, header.counts)
    if names is None:
        raise StructureError(
            "unknown_element",
            "The POSCAR names no elements, which VASP 4 kept in another file: add a line of element symbols, such as "
            f"{' '.join(['Na', 'Cl', 'O'][: max(1, len(header.counts))])}, above the counts in line {_NAMES_AT + 1}.",
        )
    found = [number_of_name(name, "line 1 of the POSCAR") for name in names]
    said = f"The file does not name its elements; {' '.join(dict.fromkeys(names))} are taken from its first line."
    return _Elements([found[group][0] for group in groups], [said, *(warning for _, warning in found if warning)])


def _elements_at_ends(words: Sequence[str]) -> _Elements | None:
    """Look up the elements at the line ends, 0 for an empty end; None where the words there are other remarks."""
    found: dict[str, tuple[int, str | None]] = {"": (0, None)}
    try:
        for number, word in enumerate(words, start=1):
            if word not in found:
                if word[0].islower():  # a Wyckoff letter is no element
                    return None
                found[word] = number_of_name(word, f"atom {number}")
    except StructureError:
        if is_pseudo_hydrogen(word):
            raise
        return None
    # One warning for all labels; the one of heavy hydrogen is another.
    said = {word: warning for word, (_, warning) in found.items() if warning}
    warnings = list(dict.fromkeys(warning for warning in said.values() if warning in _ISOTOPES))
    if label := next((word for word in said if not is_element(word)), ""):
        element = SYMBOLS[found[label][0]]
        warnings.append(
            f"The elements are taken from the labels at the line ends: {label[:20]!r} is read as {element}."
        )
    if any_charged(found):
        warnings.append(OXIDATION_STATES)
    return _Elements([found[word][0] for word in words], warnings)


def _names_in_title(title: str, counts: Sequence[int]) -> list[str] | None:
    """Take `Mg Si` from the first line if that is all it says, or a formula with just these counts from within it."""
    title = title.strip(" #!\t")
    words = title.split()
    matches = [match for match in map(_NAME_IN_TITLE.fullmatch, words) if match and is_element(match[1])]
    if len(matches) == len(words) == len(counts):
        declared = [int(match[2][:12]) if match[2] else None for match in matches]
        if all(stated in (None, count) for stated, count in zip(declared, counts, strict=True)):
            return [match[1] for match in matches]
    words = [word.strip(",") for word in _BETWEEN_WORDS.split(title[:_LONGEST_TITLE])]
    for at in range(len(words) - len(counts) + 1):
        several = words[at : at + len(counts)]
        if len(counts) > 1 and all(_NAMED_COUNT.fullmatch(word) for word in several):  # Na4 Cl4 is a formula, too
            words.append("".join(several))
    found = {tuple(names_of_formula(word, counts)) for word in words if _is_surely_formula(word, len(counts))} - {()}
    return list(found.pop()) if len(found) == 1 else None


def _is_surely_formula(word: str, n_groups: int) -> bool:
    """Whether a word of a title can be nothing else, as the space group C2, the word In, or the short form HCP are."""
    if n_groups == 1:
        return _NAMED_COUNT.fullmatch(word) is not None and word[1].islower()
    return any(one.isdigit() or one.islower() for one in word)


def _written(counts: Sequence[int]) -> str:
    shown = " ".join(map(str, counts[:6])) + (" ..." if len(counts) > 6 else "")  # noqa: PLR2004 - enough to be found
    return f"{sum(counts)} atoms ({shown})" if len(counts) > 1 else f"{sum(counts)} atoms"


def _bad_line(at: int, line: str, remedy: str) -> StructureError:
    return StructureError("unreadable", f"Line {at + 1} of the POSCAR is {line.strip()[:40]!r}: {remedy}.")


def _empty_line(at: int, remark: str = "") -> StructureError:
    if remark.strip():
        return _bad_line(at, remark, "element symbols or counts are expected, and that is a remark: remove its mark")
    return StructureError("unreadable", f"Line {at + 1} of the POSCAR is empty: remove it, or complete it.")
