"""What people write and pymatgen drops, takes for P 1 or cannot say: understood where there is one meaning."""

from pathlib import Path

import numpy as np
import pytest

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import read_structure

FILES = Path(__file__).parent / "structure_files"
RUTILE = (FILES / "rutile.cif").read_text("utf-8")
MG2SI = (FILES / "Mg2Si.poscar").read_text("utf-8")


def cif(group: str, cell: tuple[float, float], atoms: str, formula: str) -> str:
    """A CIF of equal lengths and equal angles that names its space group and lists no operators."""
    length, angle = cell
    lengths = "".join(f"_cell_length_{axis} {length}\n" for axis in "abc")
    angles = "".join(f"_cell_angle_{name} {angle}\n" for name in ("alpha", "beta", "gamma"))
    return (
        f"data_x\n_chemical_formula_sum '{formula}'\n{group}\n{lengths}{angles}loop_\n_atom_site_label\n"
        f"_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n{atoms}"
    )


# LaB6, diamond, FeCl3 and calcite of the Crystallography Open Database and Wyckoff's tables.
LAB6 = cif("_symmetry_space_group_name_H-M 'P m 3 m'", (4.156, 90), "La 0 0 0\nB 0.199 0.5 0.5\n", "La B6")
DIAMOND = cif(
    "_symmetry_space_group_name_H-M 'F d -3 m {origin @ centre (-3m)}'\n_symmetry_space_group_name_Hall '-F 4vw 2vw 3'",
    (3.567, 90),
    "C 0.125 0.125 0.125\n",
    "C",
)
MOLYSITE = cif(
    "_symmetry_space_group_name_H-M 'R -3'", (6.69, 52.3), "Fe 0.3333 0.3333 0.3333\nCl -0.256 0.41 0.077\n", "Fe Cl3"
)
CALCITE = cif(
    "_symmetry_space_group_name_H-M 'R -3 c'", (6.375, 46.08), "Ca 0 0 0\nC .25 .25 .25\nO .507 -.007 .25\n", "Ca C O3"
)


@pytest.mark.parametrize(
    ("text", "formula", "setting"),
    [
        (LAB6, "LaB6", "P m -3 m"),
        (DIAMOND, "C8", "F d -3 m:2"),
        (MOLYSITE, "Fe2Cl6", "R -3:R"),
        (CALCITE, "Ca2C2O6", "R -3 c:R"),
    ],
)
def test_the_setting_of_a_space_group_is_told_from_the_cell(text: str, formula: str, setting: str) -> None:
    crystal = read_structure(text)
    assert crystal.formula == formula
    assert any(warning.endswith(f"is read as {setting}.") for warning in crystal.warnings)


def test_a_setting_that_does_not_give_the_formula_is_refused() -> None:
    with pytest.raises(
        StructureError, match=r"read as the space group R -3 c \(\w+\), do not agree with the formula Ca C O3"
    ):
        read_structure(CALCITE.replace("O .507 -.007 .25", "O .507 0 0"))


HALVES = RUTILE.replace("Ti1 Ti4+ 0 0 0 1", "Ti1 Ti4+ 0 0 0 0.5\nTi2 Ti4+ 0.5 0.5 0.5 0.5")


def test_halves_that_symmetry_puts_on_one_another_are_one_atom() -> None:
    crystal = read_structure(HALVES)
    assert crystal.formula == "Ti2O4"
    assert any("Ti1, Ti2 lie on one another" in warning for warning in crystal.warnings)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("0.5 0.5 0.5 0.5", "0.5 0.5 0.5 0.4"),
        lambda text: text.replace("0.5 0.5 0.5 0.5", "0.5 0.5 0.4 0.5"),
        lambda text: text.replace("Ti2 Ti4+", "Zr2 Zr4+"),
        lambda text: text.replace("Ti2 Ti4+ 0.5 0.5 0.5 0.5\n", ""),
    ],
)
def test_halves_that_are_not_one_atom_are_disorder(change: object) -> None:
    assert callable(change)
    with pytest.raises(StructureError, match="Site 2") as caught:
        read_structure(change(HALVES))
    assert caught.value.code == "disordered"


def test_a_row_without_element_and_position_is_left_out_and_named() -> None:
    crystal = read_structure(RUTILE + ". . . . . .\n")
    assert crystal.formula == "Ti2O4"
    assert any("neither element nor position" in warning for warning in crystal.warnings)


@pytest.mark.parametrize("minus", ["\u2212", "\u2013", "\u2010"])
def test_a_typeset_minus_is_a_minus(minus: str) -> None:
    plain, typeset = read_structure(MG2SI), read_structure(MG2SI.replace("-", minus))
    np.testing.assert_array_equal(typeset.frac_coords, plain.frac_coords)
    np.testing.assert_array_equal(
        read_structure(RUTILE.replace("0.30479(10) 0.30479", f"{minus}0.30479 {minus}0.30479")).frac_coords[0],
        [-0.30479, -0.30479, 0.0],
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RUTILE.replace("-x,-y,z\n", "-x,-y,z+1..2\n"), "'-x,-y,z+1..2' of the file is not one: write it as x,y,z"),
        (RUTILE.replace("-x,-y,z\n", "-x,-y,z+1/0\n"), "'-x,-y,z+1/0' of the file is not one"),
        (RUTILE.replace("0.30479(10) ", "0.3\u00e9479 "), "_atom_site_fract_x '0.3\\\\xe9479'"),
        (RUTILE.replace("0.30479(10) ", "0_30479 "), "_atom_site_fract_x '0_30479'"),
        (RUTILE + "O9 O 0.1\n", "columns and 15 values: complete its rows"),
        (MG2SI.replace("Mg Si Mg\n", "Mg Si\n"), "names 2 elements and gives 3 counts"),
        (MG2SI.replace("Direct\n", ""), "where the mode of the coordinates is expected"),
        (MG2SI.replace("Direct\n", "\nDirect\n"), "is empty"),
        (MG2SI.replace("0.0 0.0 0.0", "0.0 zero 0.0"), "The position of atom 2 in the POSCAR is '0.0 zero 0.0'"),
    ],
)
def test_refusals_say_where(text: str, said: str) -> None:
    with pytest.raises(StructureError) as caught:
        read_structure(text)
    assert said in caught.value.detail


def test_what_a_file_says_is_quoted_without_its_control_characters() -> None:
    with pytest.raises(StructureError) as caught:
        read_structure({"a\x85\u202eb\n": 1})
    assert caught.value.detail.isprintable()
    assert "a\ufffd\ufffdb\ufffd" in caught.value.detail
