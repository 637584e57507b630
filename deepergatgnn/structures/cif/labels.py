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
    *("PO4", "PO3", "HPO4", "H2PO4", "SO4", "SO3", "HSO4", "BH4", "BD4", "BF4", "BO3", "BO4", "AlH4", "AlD4", "SiO4"),
    *("ClO4", "ClO3", "IO3", "AsO4", "VO4", "CrO4", "MoO4", "WO4", "SeO4", "SeO3", "TeO3", "GeO4", "PF6", "SiF6"),
    *("SbF6", "AsF6", "CH3", "CD3", "CH2", "CH4", "CF3", "SCN", "NCS", "OCN", "SiO2", "H2S"),
)
# A group of atoms with an index or a charge: NO3, H2O1, NH4_2, PO4A, CO3(1), SO42-.
_INDEX: Final = r"(?:\d?[+-]|[\d_()'\"*a-zA-Z]{0,4})"
_LONGEST_FIRST: Final = sorted(_POLYATOMIC, key=len, reverse=True)
_GROUP: Final = re.compile(rf"({'|'.join(_LONGEST_FIRST)}){_INDEX}")
_GROUP_IN_CAPITALS: Final = re.compile(rf"({'|'.join(_LONGEST_FIRST).upper()}){_INDEX}")
_SHARE: Final = r"[A-Z][a-z]?[\d.]*"
_MIXTURE: Final = re.compile(
    rf"\(?{_SHARE}(?:(?:[,/&|]|(?<=[A-Za-z])\+) *{_SHARE})+\)?\w*"
    r"|(?:[A-Z][a-z]?0?\.\d+){2,}|(?:[A-Z][a-z]){2,3}\d*[a-z]?"
)
_NEVER_GROUPS: Final = frozenset({"OH", "OD", "CH2", "CH3"})  # in labels: atoms by their first letter


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
    numbers = _by_letters(letters, is_type)
    if group := _group(text, is_type):
        return Element(numbers or (1,), is_certain=False, reason=f"is a group of atoms, {group}")
    if letters.title() in ISOTOPES:
        return Element((1,), is_certain=True, warning=ISOTOPE_WARNING.format(letters.title()))
    if not numbers:
        return None
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


@lru_cache(maxsize=4096)
def is_mixture(text: str) -> bool:
    """Whether a type symbol or a label names two elements on one site: `Fe/Mn`, `(Fe,Mn)`, `Fe0.5Mn0.5`, `FeMn1`.

    Args:
        text: `_atom_site_type_symbol`, or `_atom_site_label` of a row without a type.
    """
    if " + " in text:
        return True
    match = _MIXTURE.fullmatch(text)
    symbols = set(re.findall("[A-Z][a-z]?", match[0])) if match else set()
    return len(symbols - ISOTOPES) > 1 and symbols <= ATOMIC_NUMBERS.keys() | ISOTOPES


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


def _by_letters(letters: str, is_type: bool) -> tuple[int, ...]:
    """The elements that the first two letters and the first one are; in a label, of those that crystals are made of."""
    found = [ATOMIC_NUMBERS.get(name) for name in dict.fromkeys((letters[:2].title(), letters[0].upper()))]
    known = [number for number in found if number is not None]
    made = tuple([number for number in known if number <= _HEAVIEST])
    return made or (tuple(known) if is_type else ())


def _group(text: str, is_type: bool) -> str:
    match = (_GROUP_IN_CAPITALS if text.isupper() else _GROUP).fullmatch(text)
    if match is None or (match[1] in _NEVER_GROUPS and not (is_type and match[1] not in ("OH", "OD"))):
        return ""
    return match[1]


def _read_as(text: str, number: int) -> str:
    return f"The type {text[:20]!r} is read as {SYMBOLS[number]}."
