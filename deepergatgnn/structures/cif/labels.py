"""The element that a type symbol or a site label of a CIF means: certain, open between two, or none."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.elements import ATOMIC_NUMBERS, ISOTOPE_WARNING, ISOTOPES, SYMBOLS, unknown_element

_LETTERS: Final = re.compile(r"[A-Za-z]+")
_PLACEHOLDERS: Final = frozenset({"x", "xx", "va", "vac", "vc", "du", "dum", "bq", "gh", "lp", "q", "cg", "cnt", "m"})
_WATER: Final = {"wat": 8, "ow": 8, "hw": 1}  # water oxygen and hydrogen, WatOW and Ow1 alike
_HEAVIEST: Final = 103  # lawrencium; no crystal of a heavier element was ever made
# Two capital letters that are an element, and in labels of molecules, water and zeolites as often an atom of the first
# letter with a name: C alpha, the H of an O, the N of an ammonium ion.
_AMBIGUOUS: Final = frozenset(
    {"CA", "CD", "CE", "CF", "CM", "CN", "CO", "HE", "HF", "HG", "HO", "HS", "NA", "NB", "ND", "NE", "NH", "NO", "OG"}
    | {"OS", "SB", "SG", "SC", "PA", "PB", "PO"}
)
_POLYATOMIC: Final = (
    *("H2O", "D2O", "H3O", "D3O", "OH", "OD", "NH4", "ND4", "NH3", "ND3", "NH2", "NO3", "NO2", "CO3", "CO2", "HCO3"),
    *("PO4", "PO3", "HPO4", "H2PO4", "SO4", "SO3", "HSO4", "BH4", "BD4", "BF4", "BO3", "BO4", "ALH4", "ALD4", "SIO4"),
    *("CLO4", "CLO3", "IO3", "ASO4", "VO4", "CRO4", "MOO4", "WO4", "SEO4", "SEO3", "TEO3", "GEO4", "PF6", "SIF6"),
    *("SBF6", "ASF6", "CH3", "CD3", "CH2", "CH4", "CF3", "SCN", "NCS", "OCN", "C2O4", "SIO2", "H2S"),
)
# A group of atoms with an index or a charge: NO3, H2O1, NH4_2, PO4A, CO3(1), SO42-.
_GROUP: Final = re.compile(
    rf"({'|'.join(sorted(_POLYATOMIC, key=len, reverse=True))})(?:\d?[+-]|[\d_()'\"*a-zA-Z]{{0,4}})"
)
_NEVER_GROUPS: Final = frozenset({"OH", "OD", "CH2", "CH3", "C2O4"})  # in labels: atoms by their first letter


@dataclass(frozen=True)
class Element:
    """What a type symbol or label can mean.

    Attributes:
        numbers: atomic numbers, the likeliest first.
        is_certain: whether the first stands where nothing else in the file refutes it.
        warning: a sentence where the text was not taken literally.
        reason: why it is open, for the refusal.
    """

    numbers: tuple[int, ...]
    is_certain: bool
    warning: str | None = None
    reason: str = ""


@lru_cache(maxsize=4096)
def element_of(text: str, is_type: bool) -> Element | None:
    """Read a type symbol or a label.

    Args:
        text: `_atom_site_type_symbol`, or `_atom_site_label` of a row without a type.
        is_type: whether it is a type symbol.

    Returns:
        None where it begins with no element, or names a vacancy or a dummy.
    """
    text = text.strip()
    match = _LETTERS.match(text)
    letters = match[0] if match else ""
    if not letters or letters.lower() in _PLACEHOLDERS or (letters in ("T", "t") and not is_type):
        return None
    if letters.title() in ISOTOPES:
        return Element((1,), is_certain=True, warning=ISOTOPE_WARNING.format(letters.title()))
    if not (numbers := _by_letters(letters)):
        return None
    if group := _group(text, is_type):
        return Element(numbers, is_certain=False, reason=f"is a group of atoms, {group}")
    return _of_letters(text, letters, numbers, is_type)


def _of_letters(text: str, letters: str, numbers: tuple[int, ...], is_type: bool) -> Element:
    if letters in ATOMIC_NUMBERS and (ATOMIC_NUMBERS[letters] <= _HEAVIEST or is_type):
        return Element((ATOMIC_NUMBERS[letters], *(n for n in numbers if SYMBOLS[n] != letters)), is_certain=True)
    if water := next((number for name, number in _WATER.items() if letters.lower().startswith(name)), 0):
        return Element((water,), is_certain=True, warning=_read_as(text, water))
    first = SYMBOLS[numbers[0]]
    is_open = len(numbers) > 1 and not letters.startswith(first) and letters[:2].upper() in _AMBIGUOUS
    if is_open and not (is_type and len(letters) == 2):  # noqa: PLR2004 - a type symbol of two letters
        names = " or ".join(SYMBOLS[number] for number in numbers)
        return Element(numbers, is_certain=False, reason=f"may mean {names}")
    warning = None if first.upper() == letters.upper() else _read_as(text, numbers[0])
    return Element(numbers, is_certain=True, warning=warning)


def refuse(text: str, place: str, element: Element | None) -> StructureError:
    """Build the refusal of a type symbol or label that no statement of the file decides.

    Args:
        text: of the row.
        place: what the message calls the row.
        element: what it can mean.
    """
    if element is None:
        return unknown_element(text, place)
    return StructureError(
        "unknown_element",
        f"The label {text[:20]!r} of {place} {element.reason}: give each row its _atom_site_type_symbol, "
        "and list every atom.",
    )


def _by_letters(letters: str) -> tuple[int, ...]:
    """The elements that the first two letters and the first one are."""
    found = [ATOMIC_NUMBERS.get(name) for name in dict.fromkeys((letters[:2].title(), letters[0].upper()))]
    known = [number for number in found if number is not None]
    made = [number for number in known if number <= _HEAVIEST]
    return tuple(made or known)


def _group(text: str, is_type: bool) -> str:
    match = _GROUP.fullmatch(text.upper() if text.isupper() else text)
    if match is None or (match[1] in _NEVER_GROUPS and not (is_type and match[1] not in ("OH", "OD"))):
        return ""
    return match[1]


def _read_as(text: str, number: int) -> str:
    return f"The type {text[:20]!r} is read as {SYMBOLS[number]}."
