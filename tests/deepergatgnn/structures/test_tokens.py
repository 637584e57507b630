"""gemmi's and pymatgen's tokens: where gemmi is asked, a CIF reads as it does without it."""

import gzip
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from pymatgen.io.cif import CifWriter

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import DEFAULT_LIMITS, crystal_from_arrays, crystal_to_pymatgen, read_structure
from deepergatgnn.structures.cif.columns import forgiving_columns, plain_columns
from deepergatgnn.structures.text import clean_text, detect_format
from deepergatgnn.training.data.catalogue import known_datasets

FILES = Path(__file__).parent / "structure_files"
# The bundled set, and where there is a data folder a second one.
SETS = [path for name, path in known_datasets().items() if name in {"elastic_tensor_2015", "flla_2015"}]
RUTILE = (FILES / "rutile.cif").read_text("utf-8")
# A folder of real files to read as well, whatever their format.
FOLDER = os.environ.get("DEEPERGATGNN_STRUCTURE_FILES")


def assert_same(source: str | bytes) -> bool:
    """Whether gemmi is asked; it must then give the columns of pymatgen and no more."""
    try:
        text = clean_text(source, DEFAULT_LIMITS)
        columns = plain_columns(text) if detect_format(text) == "cif" else None
    except StructureError:
        return False
    if columns is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert (columns, []) == forgiving_columns(text)
    return columns is not None


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.name)
def test_gemmi_reads_what_pymatgen_writes(path: Path) -> None:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line)["structure"] for line in lines]
    for index, row in enumerate(rows):
        structure = crystal_to_pymatgen(crystal_from_arrays(**row))
        assert assert_same(str(CifWriter(structure)))
        if index % 20 == 0:  # the search for symmetry takes its time
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, of how pymatgen calls it
                assert assert_same(str(CifWriter(structure, symprec=0.01)))


@pytest.mark.parametrize("path", sorted((Path(FOLDER) if FOLDER else FILES).rglob("*")), ids=lambda path: path.name)
def test_real_files_have_the_same_columns(path: Path) -> None:
    if path.is_file():
        assert_same(path.read_bytes())


def test_the_bundled_cif_is_plain() -> None:
    assert assert_same(RUTILE)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("data_rutile", "data_one\n_x 1\ndata_rutile"),
        lambda text: text.replace("data_rutile", "stray\ndata_rutile"),
        lambda text: text.replace("_cell_length_a", "_publ_section\n;\na field\n;\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_title 'a # b'\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_title 'an 'inner' quote'\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", '_title "it\'s"\n_cell_length_a'),
        lambda text: text.replace("_cell_length_a", "_title loop_x\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_title 'data_x'\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_title\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_title a b\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_title café\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_magnetic_key 1\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_cell_modulation_dimension 1\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_cell_length_a 5\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "loop_\n_empty\nloop_\n_x\n1\n_cell_length_a"),
        lambda text: "#\\#CIF_2.0\n" + text,
        lambda text: text + "O9 O2- 0.1\n",
        lambda text: text.replace("_atom_site_fract_x", "_atom.site_fract_x"),
        lambda text: text.replace("_cell_length_a", "_cell_width"),
    ],
)
def test_what_the_two_could_read_differently_is_left_to_pymatgen(change: object) -> None:
    assert callable(change)
    assert plain_columns(change(RUTILE)) is None


def test_spaces_in_quotes_and_dialects_of_keys_are_those_of_pymatgen() -> None:
    text = RUTILE.replace("_cell_length_a", "_title ' a title '\nloop_\n_x.Y\n' b '\n''\n_cell_length_a")
    assert assert_same(text)
    columns = plain_columns(text)
    assert columns is not None
    assert (columns["_title"], columns["_x_y"]) == ([" a title "], ["b", ""])


def test_the_second_file_of_a_space_group_reads_as_the_first() -> None:
    first, second = read_structure(RUTILE), read_structure(RUTILE.replace("0.30479(10)", "0.31"))
    third = read_structure(RUTILE)
    assert not np.array_equal(first.frac_coords, second.frac_coords)
    np.testing.assert_array_equal(first.frac_coords, third.frac_coords)
