"""Every file of the hostile table ends as it should, and within the two seconds that are promised."""

import time

import numpy as np
import pytest

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import read_structure
from fuzz.corpus import HOSTILE
from fuzz.corpus.builders import distinct_operators
from fuzz.corpus.cif import CIFS
from fuzz.corpus.plausible import PLAUSIBLE
from fuzz.corpus.poscar_extxyz_json import OTHERS

PROMISED_S = 2.0


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_as_they_should(name: str) -> None:
    ending, make = HOSTILE[name]
    source = make()
    started = time.process_time()
    try:
        read_structure(source)
        found = "answered"
    except StructureError as error:
        found = error.code
    assert time.process_time() - started < PROMISED_S
    assert found == ending


def test_no_file_has_the_name_of_another() -> None:
    assert len(HOSTILE) == len(PLAUSIBLE) + len(CIFS) + len(OTHERS)


def test_many_operators_are_all_different() -> None:
    listed = distinct_operators(977).splitlines()[2:]
    assert len(listed) == len(set(listed)) == 977


def test_a_second_structure_is_told() -> None:
    assert "ignored: y." in read_structure(HOSTILE["a second data block"][1]()).warnings[0]


def crowd(spacing: float, edge: float) -> dict[str, object]:
    """Two thousand atoms in one corner of a cell."""
    steps = np.arange(13)
    corner = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)[:2000]
    return {
        "lattice": (np.eye(3) * edge).tolist(),
        "species": ["Fe"] * len(corner),
        "frac_coords": (corner * spacing / edge).tolist(),
    }


@pytest.mark.parametrize("edge", [16.0, 60.0, 200.0])
def test_a_crowd_is_refused_before_its_neighbours_are_listed(edge: float) -> None:
    with pytest.raises(StructureError, match="crowd in one part of the cell") as caught:
        read_structure(crowd(0.6, edge))
    assert caught.value.code == "too_many_edges"


def test_a_crowd_in_a_thin_cell_counts_its_images() -> None:
    x, y, z = np.meshgrid(np.arange(4) / 4, np.arange(4) / 4, np.arange(60) * 0.52 / 500)
    coords = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    value = {
        "lattice": np.diag([2.1, 2.1, 500.0]).tolist(),
        "species": ["Fe"] * len(coords),
        "frac_coords": coords.tolist(),
    }
    with pytest.raises(StructureError, match="crowd"):
        read_structure(value)


@pytest.mark.parametrize(("spacing", "edge"), [(2.2, 29.0), (2.2, 60.0), (1.9, 24.7)])
def test_as_many_atoms_at_the_distances_of_matter_are_read(spacing: float, edge: float) -> None:
    assert read_structure(crowd(spacing, edge)).n_atoms == 2000
