"""One refusal for every code, and what each says."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pymatgen.core.structure import Structure

from deepergatgnn.errors import StructureError, StructureErrorCode
from deepergatgnn.structures import StructureLimits, crystal_from_pymatgen, read_structure

FILES = Path(__file__).parent / "structure_files"
RUTILE = (FILES / "rutile.cif").read_text("utf-8")
# Atoms of one kind in two groups, as VASP writes them, and one outside of the cell.
MG2SI = (FILES / "Mg2Si.poscar").read_text("utf-8")
EXTXYZ = (FILES / "CsCl.extxyz").read_text("utf-8")
ROCK_SALT: dict[str, Any] = json.loads((FILES / "NaCl.json").read_text("utf-8"))
OPTIMADE: dict[str, Any] = json.loads((FILES / "NaCl.optimade.json").read_text("utf-8"))


def refusal(source: Any, **kwargs: Any) -> StructureError:
    with pytest.raises(StructureError) as caught:
        read_structure(source, **kwargs)
    detail = caught.value.detail
    assert detail.endswith(".")
    assert "\n" not in detail
    assert "Error" not in detail
    return caught.value


def with_(changes: dict[str, Any]) -> dict[str, Any]:
    return ROCK_SALT | changes


def cell(a: float, b: float, c: float) -> dict[str, Any]:
    return with_({"lattice": [[a, 0, 0], [0, b, 0], [0, 0, c]]})


def optimade(**changes: Any) -> dict[str, Any]:
    return OPTIMADE | changes


MIXED = [{"name": "sodium", "chemical_symbols": ["Na", "K"], "concentration": [0.6, 0.4]}]
PARTIAL = [{"name": "sodium", "chemical_symbols": ["Na", "vacancy"], "concentration": [0.6, 0.4]}]
OVERLAP = with_({"frac_coords": [[0.001, 0, 0], [0.999, 1, 0]]})

REFUSED: list[tuple[StructureErrorCode, Any, str]] = [
    ("unreadable", "", "empty"),
    ("unreadable", b"\x1f\x8b\x08\x00\x00\x00", "binary"),
    ("unreadable", "Dear Sir or Madam,\nplease find enclosed", "Dear Sir"),
    ("unreadable", "[1, 2]", "list"),
    ("unreadable", '{"lattice": ', "JSON"),
    ("unreadable", RUTILE.replace("-x,-y,z\n", "-x,-q,z\n"), "-x,-q,z"),
    ("unreadable", RUTILE.replace("Ti1 Ti4+ 0 0 0 1", "Ti1 Ti4+ ? 0 0 1"), "Ti1"),
    ("unreadable", MG2SI.replace("1 1 1", "1 1 2"), "4 atoms"),
    ("unreadable", MG2SI.replace("1 1 1", "1 -1 1"), "-1"),
    ("no_structure", "data_x\n_cell_length_a 4\n", "no atoms"),
    ("no_structure", "data_x\n_journal_year 1999\n", "no cell"),
    ("no_structure", MG2SI.replace("1 1 1", "0 0 0"), "0 atoms"),
    ("no_structure", EXTXYZ.replace("Lattice", "Box"), "Lattice="),
    ("no_structure", EXTXYZ.replace("T T T", "T T F"), "pbc"),
    ("no_structure", with_({"species": [], "frac_coords": []}), "no atoms"),
    ("no_structure", {"hello": 1}, "hello"),
    ("no_structure", optimade(nperiodic_dimensions=2, dimension_types=[1, 1, 0]), "2 dimensions"),
    ("no_structure", optimade(lattice_vectors=None), "lattice_vectors"),
    ("disordered", RUTILE.replace("0 0 0 1\n", "0 0 0 0.6\n"), "60 % Ti"),
    ("disordered", RUTILE.replace("Ti1 Ti4+ 0 0 0 1", "Fe1 Fe 0 0 0 0.6\nNi1 Ni 0 0 0 0.4"), "60 % Fe, 40 % Ni"),
    ("disordered", optimade(species=MIXED), "60 % Na, 40 % K"),
    ("disordered", optimade(species=PARTIAL), "40 % vacant"),
    ("unknown_element", RUTILE.replace("Ti1 Ti4+", "Vac1 Vac"), "Vac"),
    ("unknown_element", MG2SI.replace("Mg Si Mg", "Mg Xx Mg"), "X"),
    ("unknown_element", with_({"species": ["Na", "Zz"]}), "Zz"),
    ("unknown_element", with_({"species": ["Na", 17]}), "17"),
    ("overlapping_atoms", OVERLAP, "0.008"),
    ("overlapping_atoms", RUTILE + "Ti2 Ti 0.5 0.5 0.5 1\n", "Ti2"),
    ("bad_cell", with_({"lattice": [[np.nan, 0, 0], [0, 4, 0], [0, 0, 4]]}), "finite"),
    ("bad_cell", cell(np.inf, 4, 4), "finite"),
    ("bad_cell", with_({"lattice": [[4, 0, 0], [4, 0, 0], [0, 0, 4]]}), "flat"),
    ("bad_cell", cell(0.01, 4, 4), "0.01"),
    ("bad_cell", cell(4e6, 4, 4), "4e+06"),
    ("bad_cell", with_({"lattice": [[4, 0, 0], [4.2, 0.1, 0], [0, 0, 40]]}), "repeats every"),
    ("bad_cell", with_({"lattice": "cubic"}), "three vectors"),
    ("bad_cell", with_({"frac_coords": [[0, 0, np.nan], [0, 0, 0]]}), "atom 1"),
    ("bad_cell", RUTILE.replace("gamma 90", "gamma 180"), "do not close"),
    ("bad_cell", RUTILE.replace("4.5937(3)\n_cell_length_c", "5.5937(3)\n_cell_length_c"), "changes the cell"),
    ("bad_cell", RUTILE.replace("a 4.5937(3)", "a 1e999"), "1e999"),
    ("too_dense", with_({"lattice": [[1.1, 0, 0], [0, 1.1, 0], [0, 0, 2]]}), "1.21"),
    ("too_sparse", cell(50, 50, 50), "6.25e+04"),
    ("too_many_atoms", MG2SI.replace("1 1 1", "1 1 1000000000"), "1,000,000,002"),
    ("too_many_bytes", "x" * 5_000_000, "5,000,000"),
    ("magnetic_cif", RUTILE.replace("_cell_length_a", "_space_group_magn.number_BNS 1.1\n_cell_length_a"), "BNS"),
]


@pytest.mark.parametrize(
    ("code", "source", "said"), REFUSED, ids=[f"{row[0]}-{index}" for index, row in enumerate(REFUSED)]
)
def test_refusals_name_the_value(code: StructureErrorCode, source: Any, said: str) -> None:
    error = refusal(source)
    assert error.code == code
    assert said in error.detail


def test_every_code_but_the_edge_count_of_graphs_has_a_refusal_here() -> None:
    assert {row[0] for row in REFUSED} == set(get_args(StructureErrorCode)) - {"too_many_edges"}


def test_disorder_and_dummies_of_pymatgen_structures_are_refused() -> None:
    mixed = Structure(np.eye(3) * 3, [{"Fe": 0.6, "Ni": 0.4}], [[0, 0, 0]])
    with pytest.raises(StructureError, match="Site 1 is 60 % Fe, 40 % Ni: post an ordered cell"):
        crystal_from_pymatgen(mixed)
    with pytest.raises(StructureError, match="no chemical element"):
        crystal_from_pymatgen(Structure(np.eye(3) * 3, ["X"], [[0, 0, 0]]))


def test_a_named_format_is_not_second_guessed() -> None:
    assert refusal(MG2SI, format="cif").code == "unreadable"
    assert refusal(RUTILE, format="poscar").code == "unreadable"
    assert refusal(ROCK_SALT, format="cif").code == "unreadable"
    assert read_structure(MG2SI, format="poscar").n_atoms == 3


def test_limits_are_the_callers() -> None:
    limits = StructureLimits(max_atoms=2)
    assert refusal(MG2SI, limits=limits).code == "too_many_atoms"
    assert refusal(RUTILE, limits=limits).code == "too_many_atoms"
    assert read_structure(ROCK_SALT, limits=limits).n_atoms == 2
    assert refusal(ROCK_SALT, limits=StructureLimits(min_distance=3)).code == "overlapping_atoms"
