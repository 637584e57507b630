"""Real crystals, written by pymatgen in every format, come back as they were."""

import gzip
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp.inputs import Poscar

from deepergatgnn.structures import (
    Crystal,
    crystal_from_arrays,
    crystal_from_pymatgen,
    crystal_to_pymatgen,
    read_structure,
)

ROWS = Path(__file__).parents[3] / "training" / "examples" / "elastic_tensor_2015.jsonl.gz"
EVERY = 23  # of 1,181 rows: some fifty crystals


def load_crystals() -> list[tuple[str, Crystal]]:
    with gzip.open(ROWS, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for index, line in enumerate(lines) if index % EVERY == 0]
    return [(row["id"], crystal_from_arrays(**row["structure"])) for row in rows]


CRYSTALS = load_crystals()
each_crystal = pytest.mark.parametrize(
    "crystal", [crystal for _, crystal in CRYSTALS], ids=[name for name, _ in CRYSTALS]
)


def distances(crystal: Crystal) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(crystal_to_pymatgen(crystal).distance_matrix)


def optimade(structure: Structure) -> str:
    attributes = {
        "nperiodic_dimensions": 3,
        "lattice_vectors": structure.lattice.matrix.tolist(),
        "cartesian_site_positions": structure.cart_coords.tolist(),
        "species_at_sites": [site.specie.symbol for site in structure],
        "species": [
            {"name": symbol, "chemical_symbols": [symbol], "concentration": [1.0]} for symbol in structure.symbol_set
        ],
    }
    return json.dumps({"data": {"id": "x", "type": "structures", "attributes": attributes}})


def extxyz(structure: Structure) -> str:
    cell = " ".join(f"{value:.12f}" for value in structure.lattice.matrix.ravel())
    atoms = [f"{site.specie.symbol} {site.x:.12f} {site.y:.12f} {site.z:.12f}" for site in structure]
    return "\n".join([str(len(structure)), f'Lattice="{cell}" pbc="T T T"', *atoms])


def negative_scale(structure: Structure) -> str:
    lines = Poscar(structure).get_str(significant_figures=12).split("\n")
    lines[1] = f"-{structure.volume:.12f}"
    return "\n".join(lines)


WRITERS: dict[str, Callable[[Structure], Any]] = {
    "direct": lambda structure: Poscar(structure).get_str(significant_figures=12),
    "cartesian": lambda structure: Poscar(structure).get_str(direct=False, significant_figures=12),
    "negative scale": negative_scale,
    "extxyz": extxyz,
    "as_dict": lambda structure: structure.as_dict(),
    "as_dict text": lambda structure: json.dumps(structure.as_dict()),
    "optimade": optimade,
}


@each_crystal
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_cell_order_and_coordinates_come_back(crystal: Crystal, writer: Callable[[Structure], Any]) -> None:
    back = read_structure(writer(crystal_to_pymatgen(crystal)))
    assert back.symbols == crystal.symbols
    np.testing.assert_allclose(back.lattice, crystal.lattice, atol=1e-8)
    np.testing.assert_allclose(back.frac_coords, crystal.frac_coords, atol=1e-8)


@each_crystal
def test_p1_cif_comes_back_in_order(crystal: Crystal) -> None:
    back = read_structure(str(CifWriter(crystal_to_pymatgen(crystal), significant_figures=10)))
    # A CIF gives lengths and angles, so the cell comes back in another orientation.
    assert back.symbols == crystal.symbols
    np.testing.assert_allclose(back.frac_coords, crystal.frac_coords, atol=1e-8)
    np.testing.assert_allclose(back.lattice @ back.lattice.T, crystal.lattice @ crystal.lattice.T, atol=1e-6)
    np.testing.assert_allclose(distances(back), distances(crystal), atol=1e-6)


@each_crystal
def test_symmetrised_cif_is_the_same_crystal(crystal: Crystal) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, of how pymatgen calls it
        writer = CifWriter(crystal_to_pymatgen(crystal), symprec=0.01, refine_struct=True, significant_figures=10)
    back = read_structure(str(writer))
    assert back.reduced_formula == crystal.reduced_formula
    assert back.volume / back.n_atoms == pytest.approx(crystal.volume / crystal.n_atoms, rel=1e-2)
    # Copies of a site stay together, so the species change no more often than there are sites in the loop.
    labels = [line.split()[1] for line in str(writer).splitlines() if line.startswith("  ") and len(line.split()) == 7]
    changes = sum(one != two for one, two in zip(back.symbols, back.symbols[1:], strict=False))
    assert changes < len(labels)


@each_crystal
def test_pymatgen_comes_back(crystal: Crystal) -> None:
    back = crystal_from_pymatgen(crystal_to_pymatgen(crystal))
    np.testing.assert_array_equal(back.atomic_numbers, crystal.atomic_numbers)
    np.testing.assert_array_equal(back.frac_coords, crystal.frac_coords)
