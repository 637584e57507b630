"""What an OPTIMADE structure states of its contents, compared with the atoms that it lists."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.crystal import Crystal
from deepergatgnn.structures.json_values import number, shown

_FORMULAE: Final = ("chemical_formula_reduced", "chemical_formula_hill")
_OF_NO_ELEMENT: Final = frozenset({"chemical_formula_anonymous", "nelements"})
_ELEMENT: Final = re.compile(r"([A-Z][a-z]?)(\d+(?:\.\d+)?)?")
_LETTER: Final = re.compile(r"([A-Z][a-z]*)(\d+(?:\.\d+)?)?")
_ROUNDING: Final = 0.01  # of a share that is written with decimals


def check_statements(
    value: Mapping[str, Any], crystal: Crystal, attached: Counter[str], names: Sequence[str], *, implicit: bool
) -> list[str]:
    """Compare what is stated of the contents with the sites.

    Args:
        value: the attributes.
        crystal: that the sites make.
        attached: atoms without a position, by symbol.
        names: of the species at the sites.
        implicit: whether further atoms have no position; then only what the sites have too much is wrong.

    Returns:
        Warnings: of hydrogen that has no position, as in a CIF, and of a formula made of the names of the species.

    Raises:
        StructureError: `unreadable` if they contradict each other.
    """
    sites = Counter(crystal.symbols)
    readings = [sites, sites + attached]
    by_name = Counter(names)
    found: list[str] = []
    lacks_hydrogen = False
    for key, stated in _statements(value):
        if any(_agrees(key, stated, counts, implicit=implicit) for counts in readings):
            continue
        if by_name.keys() != sites.keys() and _agrees(key, stated, by_name, implicit=implicit):
            found.append(f"The {key} is of the names of the species; what they hold is read, {crystal.formula}.")
        elif _has_more_hydrogen(stated, sites):
            lacks_hydrogen = True
            found.append(f"The {key} counts hydrogen atoms that have no position; they are missing.")
        elif not (lacks_hydrogen and key in _OF_NO_ELEMENT):
            raise StructureError(
                "unreadable",
                f"The {key} is {shown(value[key])}, and the sites are {crystal.formula}: correct the one that is "
                "wrong, or add the atoms that are missing.",
            )
    return found[:1]


def _statements(value: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What the attributes state of their contents, as far as it can be read: shares or counts, symbols, a number."""
    formulae = [(key, _counts(value.get(key), _ELEMENT)) for key in _FORMULAE]
    found: list[tuple[str, Any]] = [(key, counts) for key, counts in formulae if counts]
    elements = value.get("elements")
    if isinstance(elements, list) and elements:
        symbols = [_plain_symbol(str(element)) for element in elements]
        found.append(("elements", frozenset(symbols)))
        ratios = value.get("elements_ratios")
        if isinstance(ratios, list) and len(ratios) == len(elements):
            read = [number(ratio, "elements_ratios") for ratio in ratios]
            found.append(("elements_ratios", dict(zip(symbols, read, strict=True))))
    if counts := _counts(value.get("chemical_formula_anonymous"), _LETTER):
        found.append(("chemical_formula_anonymous", sorted(counts.values())))
    if isinstance(n_elements := value.get("nelements"), int):
        found.append(("nelements", n_elements))
    return found


def _counts(formula: Any, token: re.Pattern[str]) -> dict[str, float]:
    """Atoms by symbol; empty for what is no formula."""
    text = re.sub(r"\s", "", formula) if isinstance(formula, str) else ""
    matches = list(token.finditer(text))
    if "".join(match[0] for match in matches) != text:
        return {}
    counts: dict[str, float] = {}
    for match in matches:
        symbol = _plain_symbol(match[1]) if token is _ELEMENT else match[1]
        counts[symbol] = counts.get(symbol, 0.0) + float(match[2] or 1)
    return counts


def _plain_symbol(symbol: str) -> str:
    return "H" if symbol in ("D", "T") else symbol


def _agrees(key: str, stated: Any, counts: Counter[str], *, implicit: bool) -> bool:
    if key == "nelements":
        return len(counts) == stated or (implicit and len(counts) < stated)
    if key == "elements":
        return counts.keys() == stated or (implicit and counts.keys() < stated)
    if key == "chemical_formula_anonymous":
        return implicit or _proportional(stated, sorted(counts.values()))
    return counts.keys() <= stated.keys() if implicit else _same_shares(stated, counts)


def _has_more_hydrogen(stated: Any, sites: Counter[str]) -> bool:
    """Whether a statement is of the same atoms but for more hydrogen."""
    if isinstance(stated, frozenset):
        return stated == sites.keys() | {"H"}
    if not isinstance(stated, Mapping) or "H" not in stated:
        return False
    others, other_sites = ({s: n for s, n in each.items() if s != "H"} for each in (stated, sites))
    more = stated["H"] * sum(other_sites.values()) > sites["H"] * sum(others.values())
    return more and _same_shares(others, other_sites)


def _same_shares(stated: Mapping[str, float], counts: Mapping[str, float]) -> bool:
    symbols = sorted(counts)
    return counts.keys() == stated.keys() and _proportional([stated[s] for s in symbols], [counts[s] for s in symbols])


def _proportional(stated: Sequence[float], counts: Sequence[float]) -> bool:
    if len(stated) != len(counts) or not sum(stated):
        return False
    allowed = 1e-9 if all(float(each).is_integer() for each in stated) else _ROUNDING
    pairs = zip(stated, counts, strict=True)
    return all(abs(one / sum(stated) - other / sum(counts)) <= allowed for one, other in pairs)
