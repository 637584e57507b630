"""Chemical formulas, identical to those of `Composition` of pymatgen and several times faster."""

import math
from collections.abc import Mapping
from typing import Final

from pymatgen.core.composition import Composition

from deepergatgnn.structures.elements import ELECTRONEGATIVITIES

_IN_ORDER: Final = sorted(ELECTRONEGATIVITIES, key=lambda symbol: (ELECTRONEGATIVITIES[symbol], symbol))
_RANKS: Final = {symbol: rank for rank, symbol in enumerate(_IN_ORDER)}
_ANION: Final = 1.65  # the last two elements are one, such as SO4, if their electronegativities differ by less


def full_formula(counts: Mapping[str, int]) -> str:
    """All atoms, by rising electronegativity: Ba2Mg4Pb4.

    Args:
        counts: atoms of each element, at least one.
    """
    return _written({symbol: counts[symbol] for symbol in sorted(counts, key=_RANKS.__getitem__)})


def reduced_formula(counts: Mapping[str, int]) -> str:
    """Smallest formula unit: Ba(MgPb)2.

    Args:
        counts: atoms of each element, at least one.
    """
    divisor = math.gcd(*counts.values())
    symbols = sorted(counts, key=_RANKS.__getitem__)
    reduced = {symbol: counts[symbol] // divisor for symbol in symbols}
    formula = _written(reduced)
    if len(symbols) > 2:  # noqa: PLR2004 - a cation and both elements of an anion
        one, other = symbols[-2:]
        units = math.gcd(reduced[one], reduced[other])
        if units > 1 and ELECTRONEGATIVITIES[other] - ELECTRONEGATIVITIES[one] < _ANION:
            anion = _written({one: reduced.pop(one) // units, other: reduced.pop(other) // units})
            formula = f"{_written(reduced)}({anion}){units}"
    # Oxygen is O2, and peroxides such as Na2O2 stay what they are.
    return str(Composition.special_formulas.get(formula, formula))


def _written(counts: Mapping[str, int]) -> str:
    return "".join([symbol if count == 1 else f"{symbol}{count}" for symbol, count in counts.items()])
