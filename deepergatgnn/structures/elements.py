"""Element symbols in common spellings."""

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

ISOTOPES: Final = frozenset({"D", "T"})
ISOTOPE_WARNING: Final = "Heavy hydrogen ({}) is read as H: the models know elements, not isotopes."

# An element with an optional charge (Fe3+, O2-, Na+, Fe+2) or the tail of a pseudopotential name (Fe_pv, Si/79d9).
_SYMBOL: Final = re.compile(r"([A-Z][a-z]?)(?:\d*\.?\d*[+-]\d*\.?\d*|[_/].*)?")

# Fe3+, O2-, Na+ and Fe+2.
_CHARGED: Final = re.compile(r"\s*[A-Za-z]{1,2}(?:(\d*\.?\d*)[+-]|[+-](\d*\.?\d*))\s*")


def atomic_number(symbol: object, place: str) -> tuple[int, str | None]:
    """Look up an element symbol, optionally with a charge or the suffix of a pseudopotential.

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
        if name in ISOTOPES:
            return 1, ISOTOPE_WARNING.format(name)
        if name in ATOMIC_NUMBERS:
            return ATOMIC_NUMBERS[name], None
    raise unknown_element(symbol, place)


def any_charged(symbols: Iterable[str]) -> bool:
    """Return whether any of the symbols has a charge other than zero."""
    for symbol in symbols:
        if symbol not in ATOMIC_NUMBERS and (match := _CHARGED.fullmatch(symbol)):
            digits = match[1] or match[2]
            if not digits or digits.strip("0."):
                return True
    return False


def is_element(symbol: str) -> bool:
    """Return whether this is the plain symbol of an element or of heavy hydrogen."""
    return symbol in ATOMIC_NUMBERS or symbol in ISOTOPES


def unknown_element(symbol: object, place: str) -> StructureError:
    """Build the refusal of a symbol that is not an element.

    Args:
        symbol: what the file says.
        place: what carries the symbol, such as `atom 3`.
    """
    return StructureError(
        "unknown_element",
        f"The species {str(symbol)[:40]!r} of {place} is no chemical element: write a symbol such as Fe or O.",
    )
