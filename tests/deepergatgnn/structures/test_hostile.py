"""Files that are meant to hang, to exhaust memory or to be believed: each is refused, and nothing else is raised."""

import gzip
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp.inputs import Poscar

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import Crystal, crystal_from_arrays, crystal_to_pymatgen, read_structure
from fuzz.corpus.builders import cif, operators, poscar

ROWS = Path(__file__).parents[3] / "training" / "examples" / "elastic_tensor_2015.jsonl.gz"
# A folder of real files to read as well, whatever their format.
FOLDER = os.environ.get("DEEPERGATGNN_STRUCTURE_FILES")


def load_texts() -> list[str]:
    with gzip.open(ROWS, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line)["structure"] for index, line in enumerate(lines) if index % 150 == 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, of how pymatgen calls it
        return write_texts(rows)


def write_texts(rows: list[dict[str, Any]]) -> list[str]:
    structures = [crystal_to_pymatgen(crystal_from_arrays(**row)) for row in rows]
    return [
        text
        for structure in structures
        for text in (
            Poscar(structure).get_str(),
            str(CifWriter(structure)),
            str(CifWriter(structure, symprec=0.01)),
            json.dumps(structure.as_dict()),
        )
    ]


TEXTS = load_texts()


def sites(count: int) -> str:
    return "".join(f"Fe{i} 0.{i:03d} 0 0\n" for i in range(count))


HOSTILE: dict[str, tuple[str, Any]] = {
    "a count of 10^9": ("too_many_atoms", poscar(count="1000000000")),
    "a count of 5000 digits": ("unreadable", poscar(count="9" * 5000)),
    "a cell of 0.01 Å": ("bad_cell", poscar(scale="0.01")),
    "a scale of 1e-3": ("bad_cell", poscar(scale="1e-3")),
    "a scale of nan": ("bad_cell", poscar(scale="nan")),
    "a magnetic transformation": ("magnetic_cif", cif(extra="_space_group_magn.transform_BNS_Pp_abc 'a,b,c;0,0,0'\n")),
    "977 operators": ("unreadable", cif(extra=operators(977), atoms=sites(20))),
    "192 operators and 500 sites": ("too_many_atoms", cif("50", extra=operators(192), atoms=sites(500))),
    "an operator of 100,000 digits": ("unreadable", cif(extra=f"_symmetry_equiv_pos_as_xyz '{'1' * 100_000},y,z'\n")),
    "two million blank lines": ("bad_cell", "data_x\n" + "\n" * 2_000_000 + "_cell_length_a 5\n_atom_site_fract_x 0"),
    "a line of quotes": ("unreadable", cif() + "'x " * 500_000),
    "a hundred thousand blocks": ("unreadable", "data_x\n" * 100_000),
    "nan cell": ("bad_cell", cif("nan")),
    "infinite cell": ("bad_cell", cif("1e999")),
    "nan coordinates": ("unreadable", cif(atoms="Fe1 nan 0 0\n")),
    "two atoms on one site": ("overlapping_atoms", cif(atoms="Fe1 0 0 0\nNi1 0 0 1\n")),
    "nested JSON": ("unreadable", '{"data":' * 50_000),
    "nested lists": ("unreadable", "[" * 500_000),
    "a JSON number of 100,000 digits": ("unreadable", '{"frac_coords": ' + "9" * 100_000 + "}"),
    "an extxyz of 10^12 atoms": ("too_many_atoms", '999999999999\nLattice="5 0 0 0 5 0 0 0 5"\nFe 0 0 0'),
    "a comment of one long word": ("no_structure", "1\n" + "a" * 3_000_000 + "\nFe 0 0 0"),
    "null bytes": ("unreadable", b"\0" * 1000),
}


@pytest.mark.parametrize(("code", "source"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused(code: str, source: Any) -> None:
    with pytest.raises(StructureError) as caught:
        read_structure(source)
    assert caught.value.code == code
    assert len(caught.value.detail) < 300


def is_one_sentence(detail: str) -> bool:
    assert detail.endswith(".")
    assert "\n" not in detail
    assert "site-packages" not in detail
    return True


def is_crystal_or_refused(source: Any) -> bool:
    """Read, with Python's warnings as errors; anything but a StructureError escapes and fails the test."""
    try:
        crystal = read_structure(source)
    except StructureError as error:
        return not is_one_sentence(error.detail)
    assert isinstance(crystal, Crystal)
    assert np.isfinite(crystal.frac_coords).all()
    assert crystal.frac_coords.shape == (len(crystal.symbols), 3)
    assert all(isinstance(warning, str) for warning in crystal.warnings)
    return True


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_files_raise_nothing_else(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(TEXTS))
    words = st.sampled_from(
        ["nan", "-1", "1e308", "0", "loop_", "'", ";\n", "\n", "Xx", "?", "{", "]", "data_", "9" * 400, ""]
    )
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.sampled_from([0, 1, 3, 10, 200]))
        text = text[:start] + data.draw(st.one_of(words, st.text(max_size=5))) + text[start + length :]
    is_crystal_or_refused(text)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["lattice", "sites", "species", "frac_coords", "matrix", "abc", "data", "lattice_vectors"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_objects_of_anything_raise_nothing_else(value: Any) -> None:
    is_crystal_or_refused({"sites": value, "lattice": value})
    is_crystal_or_refused({"frac_coords": value, "lattice": value, "species": value})
    is_crystal_or_refused({"lattice_vectors": value, "cartesian_site_positions": value, "species": value})


@given(st.binary(max_size=300))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_bytes_of_anything_raise_nothing_else(source: bytes) -> None:
    is_crystal_or_refused(source)


def test_every_file_is_a_crystal_or_refused() -> None:
    files = [path for path in Path(FOLDER).rglob("*") if path.is_file()] if FOLDER else []
    sources: list[str | bytes] = [*TEXTS, *(path.read_bytes() for path in files)]
    answered = sum(is_crystal_or_refused(source) for source in sources)
    assert answered >= len(TEXTS)
