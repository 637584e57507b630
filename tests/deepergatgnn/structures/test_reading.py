"""The door: formats, dialects, order, warnings."""

import copy
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import (
    crystal_from_arrays,
    crystal_from_pymatgen,
    crystal_to_pymatgen,
    read_structure,
)

FILES = Path(__file__).parent / "structure_files"
RUTILE = (FILES / "rutile.cif").read_text("utf-8")
# Atoms of one kind in two groups, as VASP writes them, and one outside of the cell.
MG2SI = (FILES / "Mg2Si.poscar").read_text("utf-8")
EXTXYZ = (FILES / "CsCl.extxyz").read_text("utf-8")
ROCK_SALT: dict[str, Any] = json.loads((FILES / "NaCl.json").read_text("utf-8"))
OPTIMADE: dict[str, Any] = json.loads((FILES / "NaCl.optimade.json").read_text("utf-8"))


def test_cif_keeps_the_order_of_its_loop_and_the_copies_of_a_site_together() -> None:
    crystal = read_structure(RUTILE)
    assert crystal.symbols == ("O", "O", "O", "O", "Ti", "Ti")
    assert crystal.formula == "Ti2O4"
    assert crystal.reduced_formula == "TiO2"
    assert crystal.volume == pytest.approx(4.5937**2 * 2.9587)
    assert crystal.density == pytest.approx(4.25, abs=0.01)
    np.testing.assert_allclose(crystal.frac_coords[0], [0.30479, 0.30479, 0.0])
    np.testing.assert_allclose(crystal.frac_coords[4], [0.0, 0.0, 0.0])
    assert [warning.split(" ", 1)[0] for warning in crystal.warnings] == ["Oxidation", "Uncertainties"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.encode(),
        lambda text: "\ufeff".encode() + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: (text + "\n# café").encode("latin-1"),
        lambda text: "#\\#CIF_2.0\n" + text,
        lambda text: text.replace("data_", "DATA_").replace("loop_", "LOOP_"),
        lambda text: text.replace("_atom_site_fract_", "_atom_site.fract_").replace("_cell_length", "_Cell_Length"),
        lambda text: "data_global\n_publ_author_name 'A. Author'\n" + text,
        lambda text: text.replace("_cell_length_b", "_publ_section\n;\ndata_of no block\n;\n_cell_length_b"),
        lambda text: text.replace("O2-", "O").replace("Ti4+", "Ti"),
        lambda text: text.replace("Ti1 Ti4+", "Ti1 ?"),
        lambda text: text.replace("0 0 0 1\n", "0 0 0 .\n"),
    ],
)
def test_cif_spellings_do_not_matter(change: Any) -> None:
    crystal, plain = read_structure(change(RUTILE)), read_structure(RUTILE)
    assert crystal.symbols == plain.symbols
    np.testing.assert_array_equal(crystal.frac_coords, plain.frac_coords)
    np.testing.assert_array_equal(crystal.lattice, plain.lattice)


def test_cif_without_operators_uses_its_space_group_and_says_so() -> None:
    start, end = RUTILE.index("loop_"), RUTILE.index("loop_\n_atom_site")
    crystal = read_structure(RUTILE[:start] + RUTILE[end:])
    assert crystal.formula == "Ti2O4"
    assert any("P 42/m n m" in warning for warning in crystal.warnings)


def test_cif_of_an_unknown_space_group_is_not_taken_for_p1() -> None:
    start, end = RUTILE.index("loop_"), RUTILE.index("loop_\n_atom_site")
    with pytest.raises(StructureError, match="'P 99/q' of the CIF is not known"):
        read_structure((RUTILE[:start] + RUTILE[end:]).replace("P 42/m n m", "P 99/q"))


def test_cif_sites_of_four_digits_on_a_special_position_are_one_atom() -> None:
    crystal = read_structure(RUTILE.replace("0.30479(10) 0.30479(10)", "0.3047 0.3049"))
    assert crystal.formula == "Ti2O4"
    assert any("nearly coincide" in warning for warning in crystal.warnings)


def test_cif_names_the_blocks_that_it_ignores() -> None:
    crystal = read_structure(RUTILE + RUTILE.replace("data_rutile", "data_second"))
    assert crystal.n_atoms == 6
    assert any("second" in warning for warning in crystal.warnings)


def test_cif_that_lacks_the_hydrogens_of_its_formula_says_so() -> None:
    warning, *ignored = read_structure(RUTILE.replace("'Ti O2'", "'Ti O2 H2'")).warnings
    assert "without any H" in warning
    assert tuple(ignored) == read_structure(RUTILE).warnings


def test_cif_site_of_occupancy_zero_is_left_out_and_named() -> None:
    crystal = read_structure(RUTILE + "N1 N 0.5 0 0 0\n")
    assert crystal.formula == "Ti2O4"
    assert any("N1" in warning for warning in crystal.warnings)


def test_cif_deuterium_is_hydrogen() -> None:
    crystal = read_structure(RUTILE.replace("O1 O2-", "D1 D"))
    assert set(crystal.symbols) == {"H", "Ti"}
    assert any("isotope" in warning for warning in crystal.warnings)


def test_cif_without_angles_takes_the_default_of_the_dictionary() -> None:
    crystal = read_structure(RUTILE.replace("_cell_angle_gamma 90\n", ""))
    assert crystal.volume == pytest.approx(4.5937**2 * 2.9587)
    assert any("_cell_angle_gamma" in warning for warning in crystal.warnings)


def test_poscar_keeps_order_and_does_not_wrap() -> None:
    crystal = read_structure(MG2SI)
    assert crystal.symbols == ("Mg", "Si", "Mg")
    np.testing.assert_array_equal(crystal.frac_coords[2], [-0.25, -0.25, 0.75])
    assert crystal.warnings == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("Mg Si Mg", "Mg_pv/f474ac0d Si/79d9987ad87 Mg_sv"),
        lambda text: text.replace("Direct", "Selective dynamics\nDirect").replace("5\n", "5 T T F\n").replace(
            "0.0 0.0 0.0\n-", "0.0 0.0 0.0 T F F\n-"
        ),
        lambda text: text + "\n0.0 0.0 0.1\n0.0 0.0 0.2\n0.0 0.0 0.3\n",
        lambda text: text.replace("\n1.0\n", f"\n-{2 * 3.184**3}\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("Mg2Si\n", "\n", 1),
        lambda text: text.replace("Mg Si Mg\n", "").replace("Mg2Si", "Mg Si Mg"),
        lambda text: text.replace("Mg Si Mg\n", "").replace("Mg2Si", "Mg1 Si1 Mg1"),
        lambda text: text.replace("Mg Si Mg\n", "").replace("5 0.25\n", "5 0.25 Mg\n").replace(
            "0.0 0.0 0.0\n-", "0.0 0.0 0.0 Si\n-"
        ).replace("0.75\n", "0.75 Mg\n"),
    ],
)  # fmt: skip
def test_poscar_dialects(change: Any) -> None:
    crystal, plain = read_structure(change(MG2SI)), read_structure(MG2SI)
    assert crystal.symbols == plain.symbols
    np.testing.assert_allclose(crystal.lattice, plain.lattice)
    np.testing.assert_allclose(crystal.frac_coords, plain.frac_coords)


def test_poscar_that_names_no_elements_is_refused() -> None:
    text = MG2SI.replace("Mg Si Mg\n", "")
    # In the second, the counts of the first line are not those of the file.
    for unnamed in (text, text.replace("Mg2Si", "Mg2 Si1 Mg1")):
        with pytest.raises(StructureError, match="add a line of element symbols") as caught:
            read_structure(unnamed)
        assert caught.value.code == "unknown_element"


def test_extxyz() -> None:
    crystal = read_structure(EXTXYZ)
    assert crystal.symbols == ("Cs", "Cl")
    np.testing.assert_allclose(crystal.frac_coords, [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert [warning.split(":", 1)[0] for warning in crystal.warnings] == ["The site property forces is ignored"]
    assert "pbc" in read_structure(EXTXYZ.replace(' pbc="T T T"', "")).warnings[0]
    assert "first frame" in read_structure(EXTXYZ + EXTXYZ).warnings[0]


@pytest.mark.parametrize(
    "value",
    [
        ROCK_SALT,
        OPTIMADE,
        {"id": "1", "type": "structures", "attributes": OPTIMADE},
        {"data": {"attributes": OPTIMADE}},
        {key: value for key, value in OPTIMADE.items() if key != "species"} | {"species_at_sites": ["Na", "Cl"]},
        crystal_to_pymatgen(crystal_from_arrays(**ROCK_SALT)).as_dict(),
        crystal_to_pymatgen(crystal_from_arrays(**ROCK_SALT)).add_oxidation_state_by_guess().as_dict(),
        crystal_to_pymatgen(crystal_from_arrays(**ROCK_SALT)).as_dict(verbosity=0),
    ],
)
def test_objects(value: dict[str, Any]) -> None:
    before = copy.deepcopy(value)
    crystal = read_structure(value)
    assert value == before
    assert crystal.formula == "NaCl"
    np.testing.assert_allclose(crystal.frac_coords, ROCK_SALT["frac_coords"], atol=1e-12)
    np.testing.assert_allclose(crystal.lattice, ROCK_SALT["lattice"])


def test_objects_are_read_without_running_what_they_name() -> None:
    value = crystal_to_pymatgen(crystal_from_arrays(**ROCK_SALT)).as_dict()
    value["sites"][0]["properties"] = {"x": {"@module": "no.such.module", "@class": "Danger"}}
    assert read_structure(value).formula == "NaCl"


def test_a_crystal_survives_pickling_and_pymatgen() -> None:
    crystal = read_structure(RUTILE)
    for other in (pickle.loads(pickle.dumps(crystal)), crystal_from_pymatgen(crystal_to_pymatgen(crystal))):  # noqa: S301
        assert other.symbols == crystal.symbols
        np.testing.assert_array_equal(other.frac_coords, crystal.frac_coords)
        np.testing.assert_allclose(other.lattice, crystal.lattice)
    assert repr(crystal) == "Crystal(Ti2O4, n_atoms=6, volume=62.43)"


def test_the_crystal_does_not_share_memory_with_what_was_posted() -> None:
    lattice = np.array(ROCK_SALT["lattice"])
    crystal = crystal_from_arrays(lattice, ["Na", "Cl"], ROCK_SALT["frac_coords"])
    lattice[0, 0] = 9.0
    assert crystal.lattice[0, 0] == 0.0


def test_noble_gases_have_formulas_without_a_python_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crystal = crystal_from_arrays(np.eye(3) * 4, ["Ar", "He"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        assert {crystal.formula, crystal.reduced_formula} <= {"ArHe", "HeAr"}
