"""Crystal as plain arrays, with conversions from and to pymatgen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.composition import Composition
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import DummySpecies, Element, Species
from pymatgen.core.structure import Structure

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.checks import check_arrays, check_lattice
from deepergatgnn.structures.elements import SYMBOLS, any_charged, atomic_number
from deepergatgnn.structures.formulas import full_formula, reduced_formula
from deepergatgnn.structures.ignored import OXIDATION_STATES, properties_warning, telling_properties
from deepergatgnn.structures.limits import DEFAULT_LIMITS, StructureLimits

if TYPE_CHECKING:
    from pymatgen.core.sites import PeriodicSite

_SHARES_SHOWN = 5  # of a disordered site, in its refusal
_GRAMS_PER_CM3_PER_DALTON_PER_A3 = 1.66053906660


@dataclass(frozen=True, slots=True, eq=False)
class Crystal:
    """Ordered crystal that passed every check, in the posted cell and order of atoms.

    Attributes:
        lattice: cell vectors as rows, in Å, [3, 3].
        atomic_numbers: element of each atom, [N].
        frac_coords: fractional coordinates as posted, not wrapped into the cell, [N, 3].
        warnings: sentences for the person who posted it; empty if everything was read literally.
    """

    lattice: NDArray[np.float64]
    atomic_numbers: NDArray[np.int64]
    frac_coords: NDArray[np.float64]
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Crystal({self.formula}, n_atoms={self.n_atoms}, volume={self.volume:.2f})"

    @property
    def n_atoms(self) -> int:
        """Number of atoms in the cell."""
        return len(self.atomic_numbers)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Element symbol of each atom, in the posted order."""
        return tuple([SYMBOLS[number] for number in self.atomic_numbers.tolist()])

    @property
    def composition(self) -> Composition:
        """Contents of the cell."""
        return Composition(self._counts)

    @property
    def formula(self) -> str:
        """Contents of the cell, by rising electronegativity: Ba2Mg4Pb4."""
        return full_formula(self._counts)

    @property
    def reduced_formula(self) -> str:
        """Smallest formula unit as pymatgen writes it: Ba(MgPb)2."""
        return reduced_formula(self._counts)

    @property
    def formulas(self) -> tuple[str, str]:
        """Return both formulas, counting the atoms once."""
        counts = self._counts
        return full_formula(counts), reduced_formula(counts)

    @property
    def _counts(self) -> dict[str, int]:
        numbers = self.atomic_numbers.tolist()
        # Of so few elements, faster than a Counter.
        return {SYMBOLS[number]: numbers.count(number) for number in dict.fromkeys(numbers)}

    @property
    def volume(self) -> float:
        """Volume of the cell, in Å³."""
        return float(abs(np.linalg.det(self.lattice)))

    @property
    def density(self) -> float:
        """Mass density, in g/cm³."""
        return float(self.composition.weight) * _GRAMS_PER_CM3_PER_DALTON_PER_A3 / self.volume


def crystal_from_arrays(
    lattice: Any,
    species: Sequence[str],
    frac_coords: Any,
    *,
    warnings: Sequence[str] = (),
    limits: StructureLimits = DEFAULT_LIMITS,
) -> Crystal:
    """Make a checked crystal from plain arrays, such as a row of a data set.

    Args:
        lattice: cell vectors as rows, in Å, [3, 3].
        species: element symbol of each atom, [N].
        frac_coords: fractional coordinates, [N, 3].
        warnings: warnings of the reader.
        limits: bounds that the structure must keep.

    Raises:
        StructureError: if the arrays are not a valid crystal.
    """
    if len(species) > limits.max_atoms:
        raise too_many_atoms(len(species), limits)
    looked_up = [atomic_number(symbol, f"atom {index}") for index, symbol in enumerate(species, start=1)]
    notes = [*warnings, *(warning for _, warning in looked_up if warning)]
    if any_charged(set(species)):
        notes.append(OXIDATION_STATES)
    return crystal_from_numbers(
        lattice, [number for number, _ in looked_up], frac_coords, warnings=notes, limits=limits
    )


def crystal_from_numbers(
    lattice: Any,
    atomic_numbers: Any,
    frac_coords: Any,
    *,
    warnings: Sequence[str] = (),
    limits: StructureLimits = DEFAULT_LIMITS,
    places: Callable[[], Sequence[str]] | None = None,
) -> Crystal:
    """Make a checked crystal from atomic numbers; see `crystal_from_arrays`.

    Args:
        lattice: [3, 3], in Å.
        atomic_numbers: [N].
        frac_coords: [N, 3].
        warnings: warnings of the reader.
        limits: bounds that the structure must keep.
        places: returns the names of the atoms in the file, for messages.
    """
    cell = _float_array(lattice, "bad_cell", "The cell is not three vectors of three numbers in Å: post all nine.")
    if cell.shape != (3, 3):
        raise StructureError("bad_cell", f"The cell has the shape {cell.shape}: post three vectors of three numbers.")
    check_lattice(cell, limits)
    return crystal_in_cell(cell, atomic_numbers, frac_coords, warnings=warnings, limits=limits, places=places)


def crystal_in_cell(
    cell: NDArray[np.float64],
    atomic_numbers: Any,
    frac_coords: Any,
    *,
    warnings: Sequence[str] = (),
    limits: StructureLimits = DEFAULT_LIMITS,
    places: Callable[[], Sequence[str]] | None = None,
) -> Crystal:
    """Make a checked crystal in a cell that passed `check_lattice`; see `crystal_from_numbers`."""
    numbers = np.array(atomic_numbers, dtype=np.int64)
    coords = _float_array(frac_coords, "unreadable", "The coordinates are not three numbers for each atom.")
    if not len(numbers):
        raise StructureError("no_structure", "The structure has no atoms: post at least one.")
    if coords.shape != (len(numbers), 3):
        raise StructureError(
            "unreadable",
            f"There are {len(numbers)} atoms and coordinates of the shape {coords.shape}: post three for each atom.",
        )
    check_arrays(cell, numbers, coords, limits, places)
    # A warning that holds for many atoms is given once.
    return Crystal(cell, numbers, coords, tuple(dict.fromkeys(warnings)))


def crystal_from_pymatgen(
    structure: Structure, *, warnings: Sequence[str] = (), limits: StructureLimits = DEFAULT_LIMITS
) -> Crystal:
    """Make a checked crystal from a pymatgen structure, atoms in the same order.

    Args:
        structure: an ordered structure; its labels are ignored, and with a warning its oxidation states and properties.
        warnings: warnings of the reader.
        limits: bounds that the structure must keep.

    Raises:
        StructureError: `disordered` or `unknown_element` for the species, else as `crystal_from_arrays`.
    """
    if len(structure) > limits.max_atoms:
        raise too_many_atoms(len(structure), limits)
    species = [_sole_species(site, index) for index, site in enumerate(structure, start=1)]
    # The symbol of a dummy is never an element: the look-up below refuses it.
    symbols = [str(one) if isinstance(one, DummySpecies) else str(one.symbol) for one in species]
    names = [name for site in structure if site.properties for name in telling_properties(site.properties)]
    charged = [one for one in species if isinstance(one, Species)]
    names += ["spin" for one in charged if one.spin]
    oxidized = any(one.oxi_state for one in charged)
    notes = [*warnings, *([OXIDATION_STATES] if oxidized else []), *properties_warning(names)]
    return crystal_from_arrays(structure.lattice.matrix, symbols, structure.frac_coords, warnings=notes, limits=limits)


def crystal_to_pymatgen(crystal: Crystal) -> Structure:
    """Convert to a pymatgen structure with the same cell and order of atoms."""
    return Structure(Lattice(crystal.lattice), list(crystal.symbols), crystal.frac_coords, to_unit_cell=False)


def too_many_atoms(count: int, limits: StructureLimits) -> StructureError:
    """Build the refusal of a cell with more atoms than the limit."""
    return StructureError(
        "too_many_atoms",
        f"The cell has {count:,} atoms and the limit is {limits.max_atoms:,}: post a smaller or the primitive cell.",
    )


def disordered(place: str, shares: Sequence[tuple[str, float]]) -> StructureError:
    """Build the refusal of a site that several species, or a species and a vacancy, share.

    Args:
        place: the site, such as `site 3`.
        shares: species and occupancy of each occupant.
    """
    mix = ", ".join(f"{100 * occupancy:.4g} % {species}" for species, occupancy in shares[:_SHARES_SHOWN])
    mix += f" and {len(shares) - _SHARES_SHOWN} more" if len(shares) > _SHARES_SHOWN else ""
    return StructureError("disordered", f"{place[:1].upper()}{place[1:]} is {mix}: post an ordered cell.")


def _sole_species(site: "PeriodicSite", index: int) -> Element | Species:
    if not site.is_ordered:
        raise disordered(f"site {index}", [(species.symbol, float(x)) for species, x in site.species.items()])
    return site.specie


def _float_array(values: Any, code: Any, detail: str) -> NDArray[np.float64]:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise StructureError(code, detail) from error
