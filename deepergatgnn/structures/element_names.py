"""Names of elements in files: FE, na, Na1, Fe_pv/79d9, H.5, and NaCl for two elements."""

import re
from collections.abc import Sequence
from typing import Final

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.elements import ATOMIC_NUMBERS, SYMBOLS, atomic_number, is_element

# Heavier elements have no potential in VASP, so that CN and OG are rather two elements than Cn and Og.
_HEAVIEST_IN_ANY_CASE: Final = 96
# Fractional hydrogen that saturates the bonds of a surface: H.5, H1.25, H.75/8a7f; H0.5+ is a charge.
_PSEUDO_HYDROGEN: Final = re.compile(r"H_?\d*\.\d+(?:[_/].*)?")
_ANY_CASE: Final = re.compile(r"([A-Za-z]{1,2})(?:[_/].*)?")
_MOST_JOINED: Final = 6  # elements in one word
_LABEL: Final = re.compile(r"([A-Za-z]{1,2})(\d\w*)")
_ELEMENT_AND_COUNT: Final = re.compile(r"([A-Z][a-z]?)(\d{0,9})")
_FORMULA: Final = re.compile(r"(?:[A-Z][a-z]?\d*)++")
_LONGEST_FORMULA: Final = 400  # characters
_SUM: Final = re.compile(r"\[(\d{1,9}(?:\+\d{1,9}){1,9})\]")  # Li[12+8]
_GROUP: Final = re.compile(r"\(([A-Za-z0-9,]+)\)(\d{0,9})")  # (OH)2, and (Li24,Li48) for two kinds of sites


def number_of_name(name: str, place: str) -> tuple[int, str | None]:
    """Look up the name of an element in any case, with the tail of a potential or the number of a label.

    Args:
        name: such as `Fe`, `FE`, `Fe_pv`, `Fe/79d9`, `Fe1` or `Fe3+`.
        place: where it stands, for the messages.

    Returns:
        The atomic number, and a warning where the name was not taken literally.

    Raises:
        StructureError: `unknown_element` if it is no element, and for pseudo-hydrogen.
    """
    if is_pseudo_hydrogen(name):
        raise StructureError(
            "unknown_element",
            f"{name[:20]!r} of {place} is a pseudo-hydrogen, whose charge is a fraction, and no model knows it: "
            "post a cell without such atoms.",
        )
    if match := _LABEL.fullmatch(name):
        letters = match[1]
        # CO1 and CA1 are the labels of a carbon as often as of cobalt and calcium.
        if letters in SYMBOLS or len(letters) == 1 or letters[0].upper() not in ATOMIC_NUMBERS:
            number, warning = number_of_name(letters, place)
            return number, warning or f"The name {name[:20]!r} of {place} is read as {SYMBOLS[number]}."
    if (match := _ANY_CASE.fullmatch(name)) and (match[1].isupper() or match[1].islower()):
        number = ATOMIC_NUMBERS.get(match[1].title(), 0)
        if match[1] not in ATOMIC_NUMBERS and 0 < number <= _HEAVIEST_IN_ANY_CASE:
            return number, f"The name {name[:20]!r} of {place} is read as {SYMBOLS[number]}."
    return atomic_number(name, place)


def is_pseudo_hydrogen(name: str) -> bool:
    """Return whether this is hydrogen with a fraction of its charge, such as `H.75`."""
    return _PSEUDO_HYDROGEN.fullmatch(name) is not None


def names_of_formula(word: str, counts: Sequence[int]) -> list[str]:
    """Return the element of each group of atoms if a word is the formula of these groups; else empty.

    Args:
        word: such as `Na4Cl4`, `Ca1(OH)2`, `(Li24,Li48)La24` or `Li[12+8]La12`, where no number is one atom.
        counts: atoms of each group, in the order of the formula.
    """
    if len(word) > _LONGEST_FORMULA:
        return []
    plain = _GROUP.sub(_without_brackets, _SUM.sub(lambda match: str(sum(map(int, match[1].split("+")))), word))
    if not _FORMULA.fullmatch(plain):
        return []
    listed = [(name, int(number or "1")) for name, number in _ELEMENT_AND_COUNT.findall(plain)]
    together: dict[str, int] = {}
    for name, number in listed:
        together[name] = together.get(name, 0) + number
    for groups in (listed, list(together.items())):
        if [number for _, number in groups] == list(counts) and all(is_element(name) for name, _ in groups):
            return [name for name, _ in groups]
    return []


def _without_brackets(match: re.Match[str]) -> str:
    times = int(match[2] or "1")
    parts = _ELEMENT_AND_COUNT.findall(match[1])
    return "".join(f"{name}{int(number or '1') * times}" for name, number in parts)


def split_names(word: str, count: int) -> list[list[str]]:
    """Return every way to split a word, such as `NaCl` or `NACL`, into the given number of elements.

    Args:
        word: letters; capitals begin an element unless all letters are of one case.
        count: how many elements there must be.
    """
    if not word.isalpha() or not count <= len(word) <= 2 * count:
        return []
    one_case = word.isupper() or word.islower()
    ways: list[list[str]] = []

    def go_on(rest: str, before: list[str]) -> None:
        left = count - len(before)
        if not left or not left <= len(rest) <= 2 * left:
            if not left and not rest:
                ways.append(before)
            return
        for length in (1, 2):
            name = rest[:length].title() if one_case else rest[:length]
            if len(rest) >= length and name in ATOMIC_NUMBERS:
                go_on(rest[length:], [*before, name])

    if count <= _MOST_JOINED:
        go_on(word, [])
    return ways
