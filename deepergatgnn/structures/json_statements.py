"""Comparison of the statements of an OPTIMADE structure, or of a document around a structure, with its atoms."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymatgen.core.composition import Composition

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.crystal import Crystal
from deepergatgnn.structures.elements import ATOMIC_NUMBERS, SYMBOLS, is_element
from deepergatgnn.structures.json_values import number, shown

_FORMULAE: Final = ("chemical_formula_reduced", "chemical_formula_hill")
_OF_NO_ELEMENT: Final = frozenset({"chemical_formula_anonymous", "nelements"})
_ELEMENT: Final = re.compile(r"([A-Z][a-z]?)(\d+(?:\.\d+)?)?")
_LETTER: Final = re.compile(r"([A-Z][a-z]*)(\d+(?:\.\d+)?)?")
# Of documents around a structure, as those of Materials Project, of its older releases and of JARVIS.
_DOCUMENT_FORMULAE: Final = (
    *("composition", "composition_reduced", "unit_cell_formula", "reduced_cell_formula"),
    *("formula_pretty", "pretty_formula", "full_formula", "reduced_formula", "formula", "chemical_formula"),
)
_NUMBERS: Final = ("nsites", "natoms", "n_atoms", "num_atoms")
_SAME_NUMBER: Final = 1e-9
_SAME_VOLUME: Final = 0.02  # relative
_LONGEST_FORMULA: Final = 400  # characters
_ROUNDING: Final = 0.01  # of a share that is written with decimals


def check_statements(
    value: Mapping[str, Any], crystal: Crystal, attached: Counter[str], names: Sequence[str], *, implicit: bool
) -> list[str]:
    """Compare statements about the contents with the sites.

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


def check_document(around: Sequence[Mapping[str, Any]], own: Mapping[str, Any], crystal: Crystal) -> list[str]:
    """Compare the statements of objects around a structure, such as a summary document, with its atoms.

    Args:
        around: the objects that hold the structure.
        own: the object of the structure, which may state the same; empty if that is compared already.
        crystal: that the sites make.

    Returns:
        Warnings: of hydrogen that has no position, and of another number of atoms or another volume.

    Raises:
        StructureError: `unreadable` if the elements or their shares contradict each other.
    """
    counts = Counter(crystal.symbols)
    found: list[str] = []
    lacks_hydrogen = False
    stated = [each for value in around for each in _document_statements(value, with_elements=True)]
    for key, given, kind, read in [*stated, *_document_statements(own, with_elements=False)]:
        if _agrees(kind, read, counts, implicit=False):
            continue
        if _has_more_hydrogen(read, counts):
            if not lacks_hydrogen:
                found.append(f"The {key} counts hydrogen atoms that have no position; they are missing.")
            lacks_hydrogen = True
        elif not (lacks_hydrogen and kind in _OF_NO_ELEMENT):
            raise StructureError(
                "unreadable",
                f"The {key} is {shown(given)}, and the atoms of the structure are {crystal.formula}: correct the one "
                "that is wrong, or remove it.",
            )
    sizes = [
        *((key, float(crystal.n_atoms), _SAME_NUMBER) for key in _NUMBERS),
        ("volume", crystal.volume, _SAME_VOLUME),
    ]
    for key, actual, allowed in sizes:
        for value in (*around, own):
            size = value.get(key)
            if not isinstance(size, int | float) or isinstance(size, bool) or abs(size - actual) <= allowed * actual:
                continue
            found.append(
                f"The {key} beside the structure is {size:.6g}, and it has {actual:.6g}: check which is wrong."
            )
    return list(dict.fromkeys(found))


def _document_statements(value: Mapping[str, Any], *, with_elements: bool) -> list[tuple[str, Any, str, Any]]:
    """Yield key, value, kind and content of each statement, as far as it can be read."""
    formulae = [(key, value[key], key, _composition(value.get(key))) for key in _DOCUMENT_FORMULAE if key in value]
    found: list[tuple[str, Any, str, Any]] = [each for each in formulae if each[-1]]
    if counts := _counts(value.get("formula_anonymous"), _LETTER):
        kind = "chemical_formula_anonymous"
        found.append(("formula_anonymous", value["formula_anonymous"], kind, sorted(counts.values())))
    if not with_elements:  # JARVIS has a list of that name with an entry for each atom
        return found
    system = value.get("chemsys")
    of_system = system.split("-") if isinstance(system, str) and len(system) <= _LONGEST_FORMULA else None
    for key, given in (("elements", value.get("elements")), ("chemsys", of_system)):
        if isinstance(given, list) and given and all(isinstance(each, str) and is_element(each) for each in given):
            found.append((key, value[key], "elements", frozenset(map(_plain_symbol, given))))
    if isinstance(n_elements := value.get("nelements"), int):
        found.append(("nelements", n_elements, "nelements", n_elements))
    return found


def _composition(given: Any) -> dict[str, float]:
    """Atoms by symbol of a formula, with brackets or without, or of an object; empty for what is none."""
    longest = _LONGEST_FORMULA if isinstance(given, str) else len(SYMBOLS)
    if not isinstance(given, str | Mapping) or not 0 < len(given) <= longest:
        return {}
    try:
        read = Composition(given).get_el_amt_dict()
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return {}
    counts: dict[str, float] = {}
    for symbol, count in read.items():
        counts[_plain_symbol(symbol)] = counts.get(_plain_symbol(symbol), 0.0) + float(count)
    return counts if counts.keys() <= ATOMIC_NUMBERS.keys() else {}


def _statements(value: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the statements of the attributes about their contents: fractions or counts, symbols, a number."""
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
    """Return the atoms by symbol; empty if it is not a formula."""
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
    """Return whether a statement has the same atoms except for more hydrogen."""
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
