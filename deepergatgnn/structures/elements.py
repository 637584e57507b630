"""Element symbols as people write them, and the ones that are no element."""

import math
import re
import warnings
from collections.abc import Iterable
from typing import Final

from pymatgen.core.periodic_table import Element

from deepergatgnn.errors import StructureError

# Index 0 is no element, so that SYMBOLS[Z] reads as it should.
SYMBOLS: Final[tuple[str, ...]] = ("X", *(str(Element.from_Z(number).symbol) for number in range(1, 119)))
ATOMIC_NUMBERS: Final[dict[str, int]] = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}
# Pauling's; infinite for an element that has none, of which pymatgen warns when it is first asked: let that be here.
ELECTRONEGATIVITIES: Final[dict[str, float]] = {}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for _symbol in ATOMIC_NUMBERS:
        _value = Element(_symbol).X
        ELECTRONEGATIVITIES[_symbol] = math.inf if math.isnan(_value) else _value

_ISOTOPES: Final = frozenset({"D", "T"})
_ISOTOPE_WARNING: Final = "Heavy hydrogen ({}) is read as H: the models know elements, not isotopes."

# An element with an optional charge (Fe3+, O2-, Na+, Fe+2) or the tail of a pseudopotential name (Fe_pv, Si/79d9).
_SYMBOL: Final = re.compile(r"([A-Z][a-z]?)(?:\d*\.?\d*[+-]\d*\.?\d*|[_/].*)?")

# Fe3+, O2-, Na+ and Fe+2.
_CHARGED: Final = re.compile(r"\s*[A-Za-z]{1,2}(?:(\d*\.?\d*)[+-]|[+-](\d*\.?\d*))\s*")

# CIF type symbols and labels go on with anything: Fe1, Fe3+, OW1, C12A, Siva.
_LETTERS: Final = re.compile(r"[A-Za-z]+")
_PLACEHOLDERS: Final = frozenset({"x", "xx", "va", "vac", "vc", "du", "dum", "bq", "gh", "lp", "q", "cg", "cnt", "m"})
_WATER: Final = {"wat": 8, "ow": 8, "hw": 1}  # water oxygen and hydrogen, WatOW and Ow1 alike


def atomic_number(symbol: object, place: str) -> tuple[int, str | None]:
    """Look up an element symbol, charge and pseudopotential tail allowed.

    Args:
        symbol: what the file says, such as `Fe`, `Fe3+`, `Fe_pv` or `D`.
        place: what carries the symbol, for the message, such as `atom 3`.

    Returns:
        The atomic number, and a warning where the symbol was not taken literally.

    Raises:
        StructureError: `unknown_element` if it is no element.
    """
    if isinstance(symbol, str) and (match := _SYMBOL.fullmatch(symbol.strip())):
        name = match[1]
        if name in _ISOTOPES:
            return 1, _ISOTOPE_WARNING.format(name)
        if name in ATOMIC_NUMBERS:
            return ATOMIC_NUMBERS[name], None
    raise _unknown(symbol, place)


def atomic_number_of_label(symbol: str, place: str) -> tuple[int, str | None]:
    """Look up the element that a CIF type symbol or site label begins with.

    The rule is pymatgen's: two letters if they are an element, else the first; anything but a plain match is reported.

    Args:
        symbol: `_atom_site_type_symbol`, or `_atom_site_label` where the file has no type symbols.
        place: what carries the symbol, for the message.

    Returns:
        The atomic number, and a warning where the symbol was not taken literally.

    Raises:
        StructureError: `unknown_element` if there is no element, or a name for a vacancy or a dummy atom.
    """
    match = _LETTERS.match(symbol.strip())
    letters = match[0] if match else ""
    if not letters or letters.lower() in _PLACEHOLDERS:
        raise _unknown(symbol, place)
    if letters.title() in _ISOTOPES:
        return 1, _ISOTOPE_WARNING.format(letters.title())
    if letters in ATOMIC_NUMBERS:
        return ATOMIC_NUMBERS[letters], None
    if water := next((number for name, number in _WATER.items() if letters.lower().startswith(name)), 0):
        return water, f"The type {symbol.strip()[:20]!r} is read as {SYMBOLS[water]}."
    for name in (letters[:2].title(), letters[0].upper()):
        if name in ATOMIC_NUMBERS:
            warning = None if name == letters.title() else f"The type {symbol.strip()[:20]!r} is read as {name}."
            return ATOMIC_NUMBERS[name], warning
    raise _unknown(symbol, place)


def any_charged(symbols: Iterable[str]) -> bool:
    """Whether one of the symbols has a charge that is not zero."""
    for symbol in symbols:
        if symbol not in ATOMIC_NUMBERS and (match := _CHARGED.fullmatch(symbol)):
            digits = match[1] or match[2]
            if not digits or digits.strip("0."):
                return True
    return False


def is_element(symbol: str) -> bool:
    """Whether this is the plain symbol of an element or of heavy hydrogen."""
    return symbol in ATOMIC_NUMBERS or symbol in _ISOTOPES


def _unknown(symbol: object, place: str) -> StructureError:
    return StructureError(
        "unknown_element",
        f"The species {str(symbol)[:40]!r} of {place} is no chemical element: write a symbol such as Fe or O.",
    )
