"""What is computed here for speed is what pymatgen computes, to the last letter and bit."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core.composition import Composition
from pymatgen.core.lattice import Lattice

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import read_structure
from deepergatgnn.structures.elements import ATOMIC_NUMBERS
from deepergatgnn.structures.formulas import full_formula, reduced_formula

ANGLES = st.sampled_from([60.0, 90.0, 109.4712206, 120.0]) | st.floats(20, 150)
SYMBOLS = st.sampled_from(sorted(ATOMIC_NUMBERS)) | st.sampled_from(["Li", "O", "H", "N", "S", "Cl", "K"])


def assert_as_pymatgen(counts: dict[str, int]) -> None:
    composition = Composition(counts)
    parts = composition.formula.split()
    assert full_formula(counts) == "".join(re.sub("(?<=[A-Za-z])1$", "", part) for part in parts)
    assert reduced_formula(counts) == composition.reduced_formula


@pytest.mark.parametrize(
    "counts",
    [{"O": 8}, {"O": 1}, {"Li": 4, "O": 4}, {"Na": 2, "O": 2, "S": 2}, {"Al": 4, "S": 6, "O": 24}, {"He": 2, "Ne": 2}],
    ids=str,
)
def test_known_formulas(counts: dict[str, int]) -> None:
    assert_as_pymatgen(counts)


@given(st.dictionaries(SYMBOLS, st.integers(1, 24), min_size=1, max_size=6))
def test_formulas(counts: dict[str, int]) -> None:
    assert_as_pymatgen(counts)


@given(st.tuples(*[st.floats(2, 100)] * 3), st.tuples(*[ANGLES] * 3))
def test_cells(lengths: tuple[float, ...], angles: tuple[float, ...]) -> None:
    keys = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    cell = "".join(f"_cell_{key} {value!r}\n" for key, value in zip(keys, lengths + angles, strict=True))
    loop = "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nFe 0 0 0\n"
    try:
        crystal = read_structure(f"data_x\n{cell}{loop}")
    except StructureError:  # flat, or empty
        return
    assert crystal.lattice.tobytes() == np.array(Lattice.from_parameters(*lengths, *angles).matrix).tobytes()
