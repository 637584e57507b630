"""Real crystals, written in every setting of their space group with few tags and digits, come back or are refused."""

import itertools
from dataclasses import dataclass
from functools import cache

import gemmi
import numpy as np
import pytest
import spglib
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import Crystal, read_structure
from deepergatgnn.structures.crystal import crystal_from_numbers
from deepergatgnn.structures.elements import SYMBOLS
from tests.support.fixtures import bundled

SYMPREC = 1e-2
REACH = 5.0  # Å
FILES = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Cell:
    """A crystal in one setting of its space group."""

    setting: gemmi.SpaceGroup
    crystal: Crystal
    sites: tuple[int, ...]  # one atom of each orbit


@cache
def halls() -> dict[int, list[int]]:
    """The Hall numbers that spglib has for each space group."""
    found: dict[int, list[int]] = {}
    for hall in range(1, 531):
        found.setdefault(int(spglib.get_spacegroup_type(hall).number), []).append(hall)
    return found


@cache
def in_setting(index: int, choice: int) -> Cell | None:
    """A crystal of the bundled set in one of the settings of its group; None where it is refused there."""
    crystal = bundled().rows[index].crystal
    cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    dataset = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
    choices = halls()[int(dataset.number)]
    hall = choices[choice % len(choices)]
    dataset = spglib.get_symmetry_dataset(cell, symprec=SYMPREC, hall_number=hall)
    group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(spglib.get_spacegroup_type(hall).hall_symbol))
    if group is None:
        return None
    # Idealized, so that rounding alone is what is lost.
    try:
        ideal = crystal_from_numbers(dataset.std_lattice, dataset.std_types, dataset.std_positions)
    except StructureError:
        return None
    lattice, coords = ideal.lattice, ideal.frac_coords
    orbit = np.arange(len(coords))
    for operator in group.operations():
        moved = coords @ (np.array(operator.rot).T / gemmi.Op.DEN) + np.array(operator.tran) / gemmi.Op.DEN
        between = moved[:, None] - coords[None]
        between -= np.rint(between)
        apart = np.linalg.norm(between @ lattice, axis=-1)
        if apart.min(axis=1).max() > 0.1:
            return None
        orbit = np.minimum(orbit, orbit[apart.argmin(axis=1)])
    for _ in range(len(coords)):  # until each atom knows the first of its orbit
        orbit = orbit[orbit]
    return Cell(group, ideal, tuple(sorted(set(orbit.tolist()))))


def parameters(lattice: NDArray[np.float64]) -> list[float]:
    lengths = np.linalg.norm(lattice, axis=1)
    unit = lattice / lengths[:, None]
    angles = [np.degrees(np.arccos(unit[i] @ unit[j])) for i, j in ((1, 2), (0, 2), (0, 1))]
    return [*lengths.tolist(), *angles]


NAMES = {
    "symbol": ("_symmetry_space_group_name_H-M", lambda group: group.hm),
    "short symbol": ("_space_group_name_H-M_alt", lambda group: group.hm.replace(" ", "")),
    "marked symbol": ("_space_group_name_H-M_alt", lambda group: group.xhm()),
    "full symbol": ("_space_group_name_H-M_full", lambda group: group.hm),
    "Hall symbol": ("_space_group_name_Hall", lambda group: group.hall),
    "old Hall symbol": ("_symmetry_space_group_name_Hall", lambda group: group.hall),
    "number": ("_space_group_IT_number", lambda group: group.number),
    "old number": ("_symmetry_Int_Tables_number", lambda group: group.number),
}
# A number alone stands for the standard setting, so it is given beside a name only.
COMBINATIONS = [
    names
    for size in (1, 2, 3)
    for names in itertools.combinations(NAMES, size)
    if not all("number" in name for name in names) and len({NAMES[name][0] for name in names}) == size
]


def written(cell: Cell, names: tuple[str, ...], digits: int, with_formula: bool, with_z: bool) -> str:
    keys = [
        *(f"_cell_length_{axis}" for axis in "abc"),
        *(f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")),
    ]
    lines = ["data_crystal"]
    lines += [f"{tag} '{write(cell.setting)}'" for tag, write in (NAMES[name] for name in names)]
    lines += [f"{key} {value:.5f}" for key, value in zip(keys, parameters(cell.crystal.lattice), strict=True)]
    composition = cell.crystal.composition
    reduced, units = composition.get_reduced_composition_and_factor()
    if with_formula:
        lines.append(f"_chemical_formula_sum '{' '.join(f'{symbol}{int(n)}' for symbol, n in reduced.items())}'")
    if with_z:
        lines.append(f"_cell_formula_units_Z {int(units)}")
    lines += ["loop_", "_atom_site_label", "_atom_site_type_symbol"]
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"]
    for site in cell.sites:
        symbol = SYMBOLS[cell.crystal.atomic_numbers[site]]
        position = " ".join(f"{value:.{digits}f}" for value in cell.crystal.frac_coords[site])
        lines.append(f"{symbol}{site + 1} {symbol} {position}")
    return "\n".join([*lines, ""])


def distances(crystal: Crystal) -> dict[tuple[int, int], NDArray[np.float64]]:
    """All distances up to a reach, by the elements of the pair, sorted."""
    points = np.ascontiguousarray((crystal.frac_coords % 1) @ crystal.lattice)
    one, other, _, apart = find_points_in_spheres(
        points, points, r=REACH, pbc=np.ones(3, dtype=np.int64), lattice=np.ascontiguousarray(crystal.lattice), tol=1e-8
    )
    numbers = crystal.atomic_numbers
    found = {}
    for first, second in itertools.product(sorted(set(numbers.tolist())), repeat=2):
        of_pair = (numbers[one] == first) & (numbers[other] == second)
        found[first, second] = np.sort(apart[of_pair])
    return found


def assert_same(crystal: Crystal, expected: Crystal, tolerance: float) -> None:
    assert crystal.formula == expected.formula
    found = distances(crystal)
    for pair, wanted in distances(expected).items():
        # At the border of the sphere rounding may take one more or one less.
        kept = wanted[wanted < REACH - tolerance]
        assert len(found[pair]) >= len(kept), pair
        np.testing.assert_allclose(found[pair][: len(kept)], kept, atol=tolerance, err_msg=str(pair))


@FILES
@given(data=st.data())
def test_a_crystal_in_any_setting_comes_back_or_is_refused(data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(bundled().rows) - 1), label="row")
    cell = in_setting(index, data.draw(st.integers(0, 20), label="setting"))
    if cell is None:
        return
    names = data.draw(st.sampled_from(COMBINATIONS), label="names")
    digits = data.draw(st.integers(3, 6), label="digits")
    text = written(cell, names, digits, data.draw(st.booleans(), label="formula"), data.draw(st.booleans(), label="z"))
    try:
        crystal = read_structure(text)
    except StructureError as error:
        refusal = error.detail
    else:
        refusal = ""
    if refusal:
        # A symbol without a mark leaves an origin or an axis open, and few digits may put two atoms onto each other.
        is_open = cell.setting.ext in ("1", "2") and not {"marked symbol", "Hall symbol", "old Hall symbol"} & {*names}
        assert (is_open and "two ways" in refusal) or digits == 3, refusal
        return
    # Each coordinate is off by half a unit of its last digit, in a cell of some length, and so is its copy.
    longest = float(np.linalg.norm(cell.crystal.lattice, axis=1).max())
    assert_same(crystal, cell.crystal, tolerance=4 * 10.0**-digits * longest + 2e-3)


@pytest.mark.parametrize("digits", [3, 4, 5, 6])
def test_special_positions_survive_rounding(digits: int) -> None:
    """Rows of the set in their standard settings, by the marked symbol: as many atoms as before."""
    for index in range(0, len(bundled().rows), 12):
        cell = in_setting(index, 0)
        if cell is not None:
            crystal = read_structure(written(cell, ("marked symbol",), digits, with_formula=False, with_z=False))
            assert crystal.formula == cell.crystal.formula, (index, cell.setting.xhm())
