"""The decision between the readings of a CIF: each is held against everything that the file states."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.periodic_table import Element as PymatgenElement
from pymatgen.optimization.neighbors import find_points_in_spheres

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.cif.candidates import Symmetry
from deepergatgnn.structures.cif.copies import Copies
from deepergatgnn.structures.cif.formula import LACKS_HYDROGEN, Formula
from deepergatgnn.structures.cif.labels import refuse
from deepergatgnn.structures.cif.sites import Sites
from deepergatgnn.structures.cif.statements import Statements
from deepergatgnn.structures.elements import SYMBOLS

_HYDROGEN: Final = 1
_GRAMS_PER_CM3_PER_DALTON_PER_A3: Final = 1.66053906660
_DENSITY_TOLERANCE: Final = 0.2  # of itself; a lost centring or the wrong origin is a third or more
_ELECTRONS_TOLERANCE: Final = 0.2  # of itself
_UNITS_TOLERANCE: Final = 0.02  # formula units, of themselves
_MOST_READINGS: Final = 1024  # of the labels together
_TOO_CLOSE: Final = 0.7  # of the sum of the atomic radii
_REACH: Final = 3.2  # Å; as far as distances are compared
_SAME_ENVIRONMENT: Final = 6.0  # Å; as far as two readings must agree to be the same crystal
_SAME_SITE: Final = 1e-8  # Å


@dataclass(eq=False)
class Reading:
    """One reading of the file.

    Attributes:
        symmetry: of the crystal.
        sites: rows of the atom loop.
        copies: the atoms that the symmetry makes of them.
        numbers: atomic number of each site.
        said: warnings.
        contradicts: statements of the file that the atoms do not agree with, in words.
        counts: atoms of each atomic number in the cell.
    """

    symmetry: Symmetry
    sites: Sites
    copies: Copies
    numbers: tuple[int, ...]
    said: tuple[str, ...]
    contradicts: tuple[str, ...] = ()
    counts: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = _counted(self.numbers, self.copies.counts)

    @property
    def atomic_numbers(self) -> NDArray[np.int64]:
        """Element of every atom, [N]."""
        numbers = np.array(self.numbers, dtype=np.int64)
        return numbers if len(numbers) == len(self.copies.frac_coords) else np.repeat(numbers, self.copies.counts)


def read_elements(sites: Sites, copies: Copies, statements: Statements) -> tuple[tuple[int, ...], list[str]]:
    """Tell the element of every site; the formula of the file decides what a label leaves open.

    Args:
        sites: rows of the atom loop.
        copies: their atoms.
        statements: of the file.

    Returns:
        Atomic numbers, and warnings.

    Raises:
        StructureError: `unknown_element` for a label that nothing decides.
    """
    elements = sites.elements
    plain = tuple([element.numbers[0] for element in elements])
    is_open = not all(element.is_certain for element in elements)
    formula = statements.formula
    if is_open or (formula is not None and any(len(element.numbers) > 1 for element in elements)):
        decided = _decided(sites, copies, formula, plain, is_open)
        if decided is not None:
            names = {
                text: number
                for text, element, number in zip(sites.texts, elements, decided, strict=True)
                if not element.is_certain or number != element.numbers[0]
            }
            said = [
                f"The label {text[:20]!r} is read as {SYMBOLS[number]}, which the formula of the file decides."
                for text, number in names.items()
            ]
            return decided, said + [
                element.warning
                for text, element in zip(sites.texts, elements, strict=True)
                if element.warning and text not in names
            ]
        if is_open:
            index = next(index for index, element in enumerate(elements) if not element.is_certain)
            raise refuse(sites.texts[index], sites.place(index), elements[index])
    return plain, [element.warning for element in elements if element.warning]


def _decided(
    sites: Sites, copies: Copies, formula: Formula | None, plain: tuple[int, ...], is_open: bool
) -> tuple[int, ...] | None:
    """The one reading of the labels that gives the formula; None if there is none, or no need for one."""
    if formula is None:
        return None
    if not is_open and formula.verdict(_counted(plain, copies.counts)) != "differs":
        return None
    # Labels of the same letters mean the same element.
    kinds: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for index, (text, element) in enumerate(zip(sites.texts, sites.elements, strict=True)):
        kinds.setdefault((text.rstrip("0123456789'\"()*+-"), element.numbers), []).append(index)
    is_certain = [sites.elements[rows[0]].is_certain for rows in kinds.values()]
    # The labels that are open are tried first, then those as well that seemed to be certain.
    every = [numbers for _, numbers in kinds]
    first = [numbers[:1] if certain else numbers for numbers, certain in zip(every, is_certain, strict=True)]
    for options in (first, every) if is_open else (every,):
        fitting = _fitting(options, list(kinds.values()), copies.counts, formula)
        if fitting:
            return fitting[0] if len(fitting) == 1 else None
    return None


def _fitting(
    options: Sequence[tuple[int, ...]], kinds: Sequence[list[int]], counts: Sequence[int], formula: Formula
) -> list[tuple[int, ...]]:
    """The elements of all sites that give the formula, for each choice of one element for each kind of label."""
    if math.prod(map(len, options)) > _MOST_READINGS:
        return []
    found = []
    numbers = [0] * len(counts)
    for chosen in product(*options):
        for number, rows in zip(chosen, kinds, strict=True):
            for row in rows:
                numbers[row] = number
        if formula.verdict(_counted(numbers, counts)) == "agrees":
            found.append(tuple(numbers))
    return found


def _counted(numbers: Sequence[int], counts: Sequence[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for number, count in zip(numbers, counts, strict=True):
        found[number] = found.get(number, 0) + count
    return found


def contradictions(reading: Reading, statements: Statements, lattice: NDArray[np.float64]) -> tuple[str, ...]:
    """Give the statements of the file about its contents that a reading does not agree with, in words.

    Args:
        reading: of the file.
        statements: of the file.
        lattice: cell vectors as rows, in Å, [3, 3].
    """
    found = list(_multiplicity_contradictions(reading))
    formula = statements.formula
    verdict = formula.verdict(reading.counts) if formula is not None else None
    if formula is not None:
        found[:0] = _formula_contradictions(reading, formula, verdict == LACKS_HYDROGEN, statements.z)
    elif statements.z and any(count % statements.z for count in reading.counts.values()):
        found[:0] = [f"Z = {statements.z:g}, with {_content(reading)} in the cell"]
    if verdict != LACKS_HYDROGEN and (statements.density or statements.electrons):
        found += _mass_contradictions(reading, statements, float(abs(np.linalg.det(lattice))))
    return tuple(found)


def _formula_contradictions(reading: Reading, formula: Formula, lacks_hydrogen: bool, z: float | None) -> Iterator[str]:
    counts = reading.counts
    if lacks_hydrogen:
        formula = formula.without_hydrogen
        counts = {number: count for number, count in counts.items() if number != _HYDROGEN}
    units = formula.units(counts)
    if units is None:
        yield f"the formula {formula.text[:60]}"
    elif z and abs(units - z) > _UNITS_TOLERANCE * z and not (units == 1 and formula.is_of_cell(z)):
        yield f"Z = {z:g}, with {units:.4g} formula units in the cell"
    elif units < 1 - _UNITS_TOLERANCE:
        yield f"the formula {formula.text[:60]}, of which the cell has {units:.3g}"


def _multiplicity_contradictions(reading: Reading) -> Iterator[str]:
    stated, counts = reading.sites.multiplicities, reading.copies.counts
    if stated is None or stated == counts:
        return
    pairs = [(m, n) for m, n in zip(stated, counts, strict=True) if m is not None]
    order = reading.symmetry.operators.n_operators
    # Some programs write the order of the site symmetry in the place of the multiplicity.
    if any(m != n for m, n in pairs) and any(m * n != order for m, n in pairs):
        index = next(i for i, m in enumerate(stated) if m is not None and m != counts[i])
        yield f"the multiplicity {stated[index]} of {reading.sites.place(index)}"


def _mass_contradictions(reading: Reading, statements: Statements, volume: float) -> Iterator[str]:
    """What the density and F(000) do not agree with.

    Args:
        reading: of the file.
        statements: of the file.
        volume: of the cell, in Å³.
    """
    counts = reading.counts
    if statements.density:
        mass = sum(n * float(PymatgenElement.from_Z(z).atomic_mass) for z, n in counts.items())
        density = mass * _GRAMS_PER_CM3_PER_DALTON_PER_A3 / volume
        if abs(density - statements.density) > _DENSITY_TOLERANCE * statements.density:
            yield f"the density {statements.density:g} g/cm³, with {density:.3g} of the atoms"
    if statements.electrons:
        electrons = sum(z * n for z, n in counts.items())
        if abs(electrons - statements.electrons) > _ELECTRONS_TOLERANCE * statements.electrons:
            yield f"F(000) = {statements.electrons:g}, with {electrons} electrons in the cell"


def choose(readings: Sequence[Reading], statements: Statements, lattice: NDArray[np.float64]) -> Reading:
    """Choose the reading that agrees with most of what the file states.

    Args:
        readings: at least two, with their contradictions.
        statements: of the file.
        lattice: cell vectors as rows, in Å, [3, 3].

    Raises:
        StructureError: `unreadable` if two different crystals agree equally well.
    """
    judged = [_with_distances(reading, lattice) for reading in _with_units(readings, statements)]
    ranked = sorted(judged, key=lambda reading: len(_against(reading)))
    best = ranked[0]
    equal = [one for one in ranked[1:] if len(_against(one)) == len(_against(best))]
    different = [one for one in equal if not _is_same_crystal(best, one, lattice)]
    if different:
        raise _open(best, different[0], statements)
    check_unlisted(best, statements)
    others = [one for one in ranked if one not in (best, *equal)]
    own = {*best.contradicts, *best.symmetry.contradicts}
    why = next((what for one in others for what in _against(one) if what not in own), "")
    if why:
        said = f"The symmetry is read as {best.symmetry.name}; {others[0].symmetry.name} would contradict {why}."
        best = replace(best, said=(*best.said, said))
    return best


def _against(reading: Reading) -> tuple[str, ...]:
    """All statements that a reading contradicts, of contents and of symmetry."""
    return (*reading.contradicts, *reading.symmetry.contradicts)


def agrees_with_formula(reading: Reading, statements: Statements) -> bool:
    """Whether the file has a formula, and the atoms are a whole number of its units.

    Args:
        reading: of the file.
        statements: of the file.
    """
    return statements.formula is not None and statements.formula.verdict(reading.counts) == "agrees"


def check_unlisted(reading: Reading, statements: Statements) -> None:
    """Refuse symmetry that the file does not list where its atoms are not those that the file states.

    Args:
        reading: the one that is left.
        statements: of the file.

    Raises:
        StructureError: `unreadable`, with the statement.
    """
    symmetry = reading.symmetry
    is_named = statements.name_of_group and (symmetry.is_listed or symmetry.operators.is_identity)
    # Beside a name that agrees, atoms may be missing; a list alone may be the one that lacks something.
    if is_named and not symmetry.contradicts:
        return
    if reading.contradicts:
        group = (
            f"the space group {statements.name_of_group[:40]}" if statements.name_of_group else reading.symmetry.name
        )
        raise StructureError(
            "unreadable",
            f"The atoms of the file, read as {group} ({_content(reading)}), do not agree with "
            f"{reading.contradicts[0]}: list all symmetry operators, or the full cell in P 1.",
        )


def _open(one: Reading, other: Reading, statements: Statements) -> StructureError:
    names = f"{one.symmetry.name} ({_content(one)}) or {other.symmetry.name} ({_content(other)})"
    named = next((reading.symmetry.name for reading in (other, one) if ":" in reading.symmetry.name), "")
    remedy = f"write _space_group_name_H-M_alt '{named}' or list" if named else "list"
    return StructureError(
        "unreadable",
        f"The symmetry {statements.name_of_group[:30]} can be read in two ways, {names}, and nothing decides: {remedy} "
        "the operators in _space_group_symop_operation_xyz.",
    )


def _content(reading: Reading) -> str:
    return "".join(f"{SYMBOLS[number]}{count}" for number, count in sorted(reading.counts.items()))[:40]


def _with_units(readings: Sequence[Reading], statements: Statements) -> list[Reading]:
    """The readings with Z as what some contradict, where it counts the reduced formulae of others."""
    units = [math.gcd(*reading.counts.values()) for reading in readings]
    if statements.formula is not None or statements.z not in units:
        return list(readings)
    return [
        reading if count == statements.z else _against_z(reading, statements.z, count)
        for reading, count in zip(readings, units, strict=True)
    ]


def _against_z(reading: Reading, z: float, units: int) -> Reading:
    """The reading with one contradiction of Z, in words."""
    others = tuple([what for what in reading.contradicts if not what.startswith("Z = ")])
    return replace(reading, contradicts=(f"Z = {z:g}, with {units} formula units in the cell", *others))


def _with_distances(reading: Reading, lattice: NDArray[np.float64]) -> Reading:
    """The reading with what its distances contradict."""
    pair = too_close(reading, lattice)
    return replace(reading, contradicts=(*reading.contradicts, f"distances, with {pair} apart")) if pair else reading


def too_close(reading: Reading, lattice: NDArray[np.float64]) -> str:
    """Give the two atoms that are closer than atoms of their elements are in crystals, and how close; or nothing.

    Args:
        reading: of the file.
        lattice: cell vectors as rows, in Å, [3, 3].
    """
    numbers = reading.atomic_numbers
    points = np.ascontiguousarray((reading.copies.frac_coords % 1.0) @ lattice)
    radii = _radii()[numbers]
    one, other, distances = _pairs(points, lattice, min(_REACH, 2 * _TOO_CLOSE * float(radii.max())))
    if len(distances) == 0:
        return ""
    ratio = distances / (radii[one] + radii[other])
    worst = int(ratio.argmin())
    if ratio[worst] >= _TOO_CLOSE:
        return ""
    first, second = sorted((int(one[worst]), int(other[worst])))
    return f"{SYMBOLS[numbers[first]]} and {SYMBOLS[numbers[second]]} {distances[worst]:.2f} Å"


@cache
def _radii() -> NDArray[np.float64]:
    """The atomic radius of every element, in Å; a middling one where none was measured."""
    return np.array([0.0, *(float(PymatgenElement.from_Z(z).atomic_radius or 1.5) for z in range(1, len(SYMBOLS)))])


def _pairs(
    points: NDArray[np.float64], lattice: NDArray[np.float64], reach: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    one, other, _, distances = find_points_in_spheres(
        points, points, r=reach, pbc=np.ones(3, dtype=np.int64), lattice=np.ascontiguousarray(lattice), tol=_SAME_SITE
    )
    apart = distances > _SAME_SITE
    return one[apart], other[apart], distances[apart]


def _is_same_crystal(one: Reading, other: Reading, lattice: NDArray[np.float64]) -> bool:
    """Whether two readings have the same atoms in the same surroundings, as far as a model looks."""
    if one.counts != other.counts:
        return False
    return _environments(one, lattice) == _environments(other, lattice)


def _environments(reading: Reading, lattice: NDArray[np.float64]) -> list[tuple[int, tuple[tuple[int, float], ...]]]:
    numbers = reading.atomic_numbers
    points = np.ascontiguousarray((reading.copies.frac_coords % 1.0) @ lattice)
    one, other, distances = _pairs(points, lattice, _SAME_ENVIRONMENT)
    around: list[list[tuple[int, float]]] = [[] for _ in numbers]
    for i, j, distance in zip(one.tolist(), other.tolist(), np.round(distances, 1).tolist(), strict=True):
        around[i].append((int(numbers[j]), distance))
    return sorted((int(number), tuple(sorted(near))) for number, near in zip(numbers, around, strict=True))
