"""What a file says and no model can use is told, once for each kind, and nothing is told of what says nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Species
from pymatgen.core.structure import Structure

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import crystal_from_arrays, crystal_from_pymatgen, read_structure
from deepergatgnn.structures.cif.columns import plain_columns
from deepergatgnn.structures.extxyz import MORE_COLUMNS
from deepergatgnn.structures.ignored import AFTER_POSITIONS, ATTACHED_ATOMS, CHARGE, OXIDATION_STATES, UNCERTAINTIES
from tests.deepergatgnn.structures.test_understood import CALCITE

FILES = Path(__file__).parent / "structure_files"
EXAMPLES = Path(__file__).parents[3] / "examples"
RUTILE = (FILES / "rutile.cif").read_text("utf-8")
CERTAIN = RUTILE.replace("(3)", "").replace("(2)", "").replace("(10)", "")
PLAIN = CERTAIN.replace("O2-", "O").replace("Ti4+", "Ti")
MG2SI = (FILES / "Mg2Si.poscar").read_text("utf-8")
EXTXYZ = (FILES / "CsCl.extxyz").read_text("utf-8")
ROCK_SALT: dict[str, Any] = json.loads((FILES / "NaCl.json").read_text("utf-8"))
OPTIMADE: dict[str, Any] = json.loads((FILES / "NaCl.optimade.json").read_text("utf-8"))
PROPERTIES = "The site properties {} are ignored: the models know elements and positions."
PROPERTY = "The site property {} is ignored: the models know elements and positions."


def spelled(types: str) -> str:
    """The plain CIF with a loop of atom types."""
    return PLAIN.replace("loop_\n_atom_site_label", f"{types}loop_\n_atom_site_label")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLAIN, ()),
        ((EXAMPLES / "ZrO2.cif").read_text("utf-8"), ()),
        (RUTILE, (OXIDATION_STATES, UNCERTAINTIES)),
        (CERTAIN, (OXIDATION_STATES,)),
        (PLAIN.replace("Ti1 Ti ", "Ti1 Ti+4 "), (OXIDATION_STATES,)),
        (PLAIN.replace("Ti1 Ti ", "Ti1 Ti+ "), (OXIDATION_STATES,)),
        (PLAIN.replace("Ti1 Ti ", "Ti1 Ti0+ "), ()),
        (PLAIN.replace("Ti1 Ti ", "C-1 Ti "), ()),
        (spelled("loop_\n_atom_type_symbol\n_atom_type_oxidation_number\nTi 4\nO -2\n"), (OXIDATION_STATES,)),
        (spelled("loop_\n_atom_type_symbol\n_atom_type_oxidation_number\nTi 0\nO ?\n"), ()),
        (PLAIN.replace("_cell_length_c 2.9587", "_cell_length_c 2.9587(2)"), (UNCERTAINTIES,)),
        (PLAIN.replace("0.30479 0.30479", "0.30479(1) 0.30479"), (UNCERTAINTIES,)),
        (PLAIN.replace("0 0 0 1\n", "0 0 0 1.00(2)\n"), (UNCERTAINTIES,)),
    ],
)
def test_cif_tells_of_oxidation_states_and_uncertainties(text: str, said: tuple[str, ...]) -> None:
    crystal = read_structure(text)
    assert crystal.formula == "Ti2O4" or "ZrO2" in text
    assert crystal.warnings == said
    # A quote within a quote sends the same file to pymatgen's tokeniser.
    forgiven = text.replace("_cell_length_a", "_title 'an 'inner' quote'\n_cell_length_a")
    assert plain_columns(text) is not None
    assert plain_columns(forgiven) is None
    assert read_structure(forgiven).warnings == said


def test_a_label_with_a_charge_is_told_where_it_stands_for_the_element() -> None:
    text = PLAIN.replace("_atom_site_type_symbol\n", "").replace("O1 O ", "O2- ").replace("Ti1 Ti ", "Ti-1 ")
    assert read_structure(text).warnings == (OXIDATION_STATES,)
    assert read_structure(text.replace("O2- ", "O-2 ")).warnings == ()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("data_global\n_x 1\n", "", "The data block global holds no structure and is ignored."),
        (
            "",
            "\ndata_hkl\n_x 1\ndata_\n_y 2\n",
            "The data blocks hkl, without a name hold no structure and are ignored.",
        ),
        ("data_1\n_x 1\ndata_2\n_x 1\ndata_3\n_x 1\ndata_4\n_x 1\n", "", "The data blocks 1, 2, 3 and 1 more hold no"),
        ("data_empty\n", "", ""),
    ],
)
def test_cif_names_the_blocks_without_a_structure(before: str, after: str, said: str) -> None:
    warnings = read_structure(before + PLAIN + after).warnings
    assert len(warnings) == bool(said)
    assert "".join(warnings).startswith(said)


def test_cif_names_both_kinds_of_other_blocks() -> None:
    text = "data_global\n_x 1\n" + PLAIN + PLAIN.replace("data_rutile", "data_second")
    first, second = read_structure(text).warnings
    assert first == "The structure of the data block rutile is read; ignored: second."
    assert second == "The data block global holds no structure and is ignored."


def test_the_refusal_of_a_guessed_setting_names_the_setting_whatever_else_is_said() -> None:
    with pytest.raises(StructureError, match=r"^The atoms of the file, read as the space group R -3 c"):
        read_structure("data_global\n_x 1\n" + CALCITE.replace("O .507 -.007 .25", "O .507 0 0"))


SELECTIVE = (
    MG2SI.replace("Direct", "Selective dynamics\nDirect").replace("5\n", "5 T T T\n").replace("0\n-", "0 T T T\n-")
)
ZEROS = "\n  0.00000000E+00  0.00000000E+00 -0.0\n" * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MG2SI, ()),
        (MG2SI + ZEROS, ()),
        (MG2SI + "\n0.0 0.0 0.1\n0.0 0.0 0.2\n0.0 0.0 0.3\n", (AFTER_POSITIONS,)),
        (MG2SI + "Direct\n0.0 0.0 0.1\n0.0 0.0 0.2\n0.0 0.0 0.3\n", (AFTER_POSITIONS,)),
        (MG2SI.replace("Mg Si Mg", "Mg2+ Si Mg2+"), (OXIDATION_STATES,)),
        (SELECTIVE, ()),
        (SELECTIVE.replace("T T T", "T T F", 1), (PROPERTY.format("selective_dynamics"),)),
    ],
)
def test_poscar_tells_of_what_follows_the_positions(text: str, said: tuple[str, ...]) -> None:
    assert read_structure(text).warnings == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("", ""), (PROPERTY.format("forces"),)),
        ((":forces:R:3", ""), (MORE_COLUMNS,)),
        (("0.1 0.0 0.0", "0.0 0.0 0.0"), (PROPERTY.format("forces"),)),
        ((":forces:R:3", ":Z:I:1:magmom:R:1:x:R:1"), (PROPERTY.format("magmom"),)),
        ((":forces:R:3", ":magmoms:R:0:a:R:1:b:R:9"), (PROPERTIES.format("a, b"),)),
        ((":forces:R:3", ":a:R:1:b:R:1:c:R:1"), (PROPERTIES.format("a, b"),)),
        (("Cs 0.0", "Cs+ 0.0"), (PROPERTY.format("forces"), OXIDATION_STATES)),
    ],
)
def test_extxyz_tells_of_other_columns(change: tuple[str, str], said: tuple[str, ...]) -> None:
    text = EXTXYZ.replace("-0.1 0.0 0.0", "-0.1 1.0 0.0").replace(*change)
    if ":Z:I:1" in text:
        text = text.replace("0.0 0.1", "0.0 55").replace("2.1 -0.1", "2.1 17")
    assert set(read_structure(text).warnings) == set(said)


def test_many_empty_columns_cost_no_more_than_their_names() -> None:
    names = "".join(f":{index}:R:0" for index in range(300_000))
    rows = "".join(f"Fe {3 * index} 0 0 1\n" for index in range(300))
    text = f'300\nLattice="900 0 0 0 5 0 0 0 5" pbc="T T T" Properties=species:S:1:pos:R:3{names}\n{rows}'
    assert read_structure(text).warnings == (MORE_COLUMNS,)


def structure(charge: int = 1, spin: int | None = None, **properties: list[Any]) -> Structure:
    species = [Species("Na", charge, spin=spin), Species("Cl", -charge)]
    return Structure(Lattice(ROCK_SALT["lattice"]), species, ROCK_SALT["frac_coords"], site_properties=properties)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (structure(0), ()),
        (structure(0, magmom=[0.0, None], velocities=[[0, 0, 0], [0.0, 0, 0]]), ()),
        (structure(), (OXIDATION_STATES,)),
        (structure(0, magmom=[0.0, 1.0]), (PROPERTY.format("magmom"),)),
        (structure(0, magmom=[1.0, 1.0], forces=[[0, 0, 1], [0, 0, 0]]), (PROPERTIES.format("magmom, forces"),)),
        (structure(1, 5), (OXIDATION_STATES, PROPERTY.format("spin"))),
        (structure(0, selective_dynamics=[[True] * 3, [True] * 3]), ()),
        (structure(0, selective_dynamics=[[False] * 3] * 2), (PROPERTY.format("selective_dynamics"),)),
        (structure(0, magmom=[np.array([0, 0, 1.0]), np.zeros(3)]), (PROPERTY.format("magmom"),)),
    ],
)
def test_pymatgen_structures_tell_of_oxidation_states_and_properties(value: Structure, said: tuple[str, ...]) -> None:
    assert crystal_from_pymatgen(value).warnings == said
    assert read_structure(value.as_dict()).warnings == said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"id": "x", "source": ["one", "two", "three"], "labels": ["Na1", "Cl1"]}, ()),
        ({"magmoms": [0.0, 0.0]}, ()),
        ({"magmoms": [0.0, 2.0], "forces": [[0, 0, 1], [0, 0, -1]]}, (PROPERTIES.format("magmoms, forces"),)),
        ({"site_properties": {"magmom": [1, 1]}}, (PROPERTY.format("magmom"),)),
        ({"species": ["Na+", "Cl-"]}, (OXIDATION_STATES,)),
        ({"charge": 1}, (CHARGE,)),
    ],
)
def test_plain_arrays_tell_of_what_has_an_entry_for_each_atom(more: dict[str, Any], said: tuple[str, ...]) -> None:
    assert read_structure(ROCK_SALT | more).warnings == said


def test_optimade_tells_of_attached_atoms() -> None:
    species = [one | {"attached": ["H"], "nattached": [1]} for one in OPTIMADE["species"]]
    assert read_structure(OPTIMADE).warnings == ()
    assert read_structure(OPTIMADE | {"species": species}).warnings == (ATTACHED_ATOMS,)


def test_a_kind_is_told_once() -> None:
    crystal = crystal_from_arrays(np.eye(3) * 9, ["Fe3+", "Fe2+", "O2-"], [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]])
    assert crystal.warnings == (OXIDATION_STATES,)


def test_names_of_properties_are_shortened() -> None:
    value = ROCK_SALT | {f"{'long' * 100} {index}\u0007": [1, 2] for index in range(9)}
    (warning,) = read_structure(value).warnings
    assert warning.isprintable()
    assert "and 6 more are ignored" in warning
    assert len(warning) < 300
