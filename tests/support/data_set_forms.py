"""Real crystals written the way the field writes them, and what must come back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
from pymatgen.core import Lattice
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp import Poscar

from deepergatgnn.structures import Crystal, crystal_to_pymatgen
from deepergatgnn.training.data.catalogue import Dataset, Row
from tests.support.fixtures import some_rows

ROWS = some_rows(8)
KEY = "log10_K_VRH"
VALUES = [float(row.targets[KEY]) for row in ROWS]


def cif(row: Row) -> str:
    return str(CifWriter(crystal_to_pymatgen(row.crystal), significant_figures=10))


def poscar(row: Row) -> str:
    return Poscar(crystal_to_pymatgen(row.crystal), sort_structure=False).get_str(significant_figures=16)


def plain(row: Row) -> dict[str, Any]:
    crystal = row.crystal
    return {
        "lattice": crystal.lattice.tolist(),
        "species": list(crystal.symbols),
        "frac_coords": crystal.frac_coords.tolist(),
    }


def pymatgen_dict(row: Row) -> dict[str, Any]:
    return json.loads(crystal_to_pymatgen(row.crystal).to_json())  # type: ignore[no-any-return]


def jarvis(row: Row) -> dict[str, Any]:
    crystal = row.crystal
    return {
        "lattice_mat": crystal.lattice.tolist(),
        "coords": (crystal.frac_coords @ crystal.lattice).tolist(),
        "elements": list(crystal.symbols),
        "cartesian": True,
    }


def atoms_of(row: Row, **info: object) -> ase.Atoms:
    crystal = row.crystal
    return ase.Atoms(
        crystal.symbols, cell=crystal.lattice, scaled_positions=crystal.frac_coords, pbc=True, info=dict(info)
    )


TEXTS = {"cif": cif, "poscar": poscar}
OBJECTS = {"plain": plain, "pymatgen": pymatgen_dict, "jarvis": jarvis}


def assert_same(found: Crystal, expected: Crystal, *, turned: bool) -> None:
    """The same cell, atoms and order; a CIF keeps lengths and angles, not the vectors themselves."""
    assert found.symbols == expected.symbols
    np.testing.assert_allclose(found.frac_coords, expected.frac_coords, atol=1e-8)
    if turned:
        parameters = [Lattice(crystal.lattice).parameters for crystal in (found, expected)]
        np.testing.assert_allclose(*parameters, atol=1e-6)
    else:
        np.testing.assert_allclose(found.lattice, expected.lattice, atol=1e-9)


def assert_back(
    dataset: Dataset, *, turned: bool, key: str = "target", ids: Sequence[str] | None = None, rows: Sequence[Row] = ROWS
) -> None:
    """Every row came back, in order, with its target."""
    assert dataset.refused == ()
    assert [row.id for row in dataset.rows] == list(ids or [row.id for row in rows])
    for found, expected in zip(dataset.rows, rows, strict=True):
        assert_same(found.crystal, expected.crystal, turned=turned)
        assert found.targets[key] == expected.targets[KEY]


def folder_of(root: Path, rows: Sequence[Row] = ROWS, name: str = "{}.cif", table: str | None = None) -> Path:
    """A folder as for CGCNN."""
    folder = root / "mine"
    folder.mkdir()
    for row in rows:
        (folder / name.format(row.id)).write_text(cif(row) if name.endswith(".cif") else poscar(row))
    lines = "".join(f"{row.id},{row.targets[KEY]}\n" for row in rows)
    (folder / "id_prop.csv").write_text(lines if table is None else table)
    (folder / "atom_init.json").write_text('{"1": [0, 1]}')
    return folder


def codes(dataset: Dataset) -> list[tuple[str, str]]:
    return [(refusal.id, refusal.code) for refusal in dataset.refused]
