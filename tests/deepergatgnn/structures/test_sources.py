"""What a user may call a structure: objects of pymatgen and ASE, texts, files; one answer for all of them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io.jsonio import encode
from pymatgen.core import Lattice, Molecule, Structure
from pymatgen.core.structure import IStructure
from pymatgen.io.ase import AseAtomsAdaptor

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import DEFAULT_LIMITS, Crystal, as_crystal, read_structure

ZNO = read_structure(Path("examples/ZnO.POSCAR").read_bytes())
STRUCTURE = Structure(Lattice(ZNO.lattice), ZNO.symbols, ZNO.frac_coords)
ATOMS = Atoms(ZNO.symbols, scaled_positions=ZNO.frac_coords, cell=ZNO.lattice, pbc=True)


class OtherCrystal:
    lattice = ZNO.lattice
    atomic_numbers = ZNO.atomic_numbers
    frac_coords = ZNO.frac_coords


SAME: dict[str, Callable[[Path], Any]] = {
    "crystal": lambda _: ZNO,
    "pymatgen": lambda _: STRUCTURE,
    "immutable": lambda _: IStructure.from_sites(STRUCTURE),
    "ase": lambda _: ATOMS,
    "own": lambda _: OtherCrystal(),
    "text": lambda _: STRUCTURE.to(fmt="cif"),
    "bytes": lambda _: STRUCTURE.to(fmt="poscar").encode(),
    "json text": lambda _: json.dumps(STRUCTURE.as_dict()),
    "mapping": lambda _: STRUCTURE.as_dict(),
    "path": lambda folder: folder / "ZnO.cif",
    "name": lambda folder: str(folder / "ZnO.cif"),
}


@pytest.mark.parametrize("kind", SAME)
def test_every_form_is_the_same_crystal(kind: str, tmp_path: Path) -> None:
    STRUCTURE.to(filename=str(tmp_path / "ZnO.cif"))
    crystal = as_crystal(SAME[kind](tmp_path))
    assert crystal.symbols == ZNO.symbols
    np.testing.assert_allclose(crystal.frac_coords % 1, ZNO.frac_coords % 1, atol=1e-6)
    assert crystal.volume == pytest.approx(ZNO.volume, rel=1e-5)
    assert crystal.warnings == ()


def atoms(**changed: Any) -> Atoms:
    made = ATOMS.copy()
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def structure_with(**given: Any) -> Structure:
    return Structure(given.pop("lattice", STRUCTURE.lattice), STRUCTURE.species, STRUCTURE.frac_coords, **given)


REFUSED: dict[str, tuple[str, Any]] = {
    "a slab of ASE": ("no_structure", atoms(pbc=(True, True, False))),
    "ASE without a cell": ("bad_cell", atoms(cell=np.zeros((3, 3)))),
    "ASE with a number that is none": ("bad_cell", atoms(cell=np.full((3, 3), np.nan))),
    "a dummy atom of ASE": ("unknown_element", atoms(numbers=[0, *ATOMS.numbers[1:]])),
    "mixed sites of ASE": ("disordered", atoms(info={"occupancy": {"0": {"Zn": 0.5, "Mg": 0.5}}})),
    "a partly empty site of ASE": ("disordered", atoms(info={"occupancy": {"0": {"Zn": 0.9}}})),
    "atoms of ASE in one place": ("overlapping_atoms", atoms(positions=np.zeros_like(ATOMS.positions))),
    "no atoms of ASE": ("no_structure", Atoms(cell=np.eye(3) * 4, pbc=True)),
    "a molecule": ("no_structure", Molecule(["O", "O"], [[0, 0, 0], [0, 0, 1.2]])),
    "a slab of pymatgen": (
        "no_structure",
        structure_with(lattice=Lattice(STRUCTURE.lattice.matrix, pbc=(True, True, False))),
    ),
    "mixed sites of pymatgen": ("disordered", Structure(Lattice.cubic(4), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])),
    "an empty text": ("unreadable", " "),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_crystal_is_refused(what: str) -> None:
    code, source = REFUSED[what]
    with pytest.raises(StructureError) as caught:
        as_crystal(source)
    assert caught.value.code == code


def test_what_is_not_used_is_told() -> None:
    magnetic = ATOMS.copy()
    magnetic.set_initial_magnetic_moments([1.0] * len(magnetic))
    assert "initial_magmoms" in as_crystal(magnetic).warnings[0]
    charged = structure_with(charge=1)
    assert "charge of the cell" in as_crystal(charged).warnings[0]


def test_full_occupancies_and_labels_say_nothing() -> None:
    assert as_crystal(atoms(info={"occupancy": {"0": {"Zn": 1.0}, "1": {"O": 1.0}}})).warnings == ()
    tagged = ATOMS.copy()
    tagged.set_tags(range(len(tagged)))
    assert as_crystal(tagged).warnings == ()


def test_objects_are_not_changed() -> None:
    before, document = encode(ATOMS), STRUCTURE.as_dict()
    as_crystal(ATOMS), as_crystal(STRUCTURE)
    assert (encode(ATOMS), STRUCTURE.as_dict()) == (before, document)


@pytest.mark.parametrize("source", [None, 3, [STRUCTURE], object()])
def test_what_holds_no_structure_is_a_type_error(source: object) -> None:
    with pytest.raises(TypeError, match=f"{type(source).__name__} is no structure"):
        as_crystal(source)


def test_a_file_that_is_not_there_and_one_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        as_crystal("nothing-here.cif")
    long = tmp_path / "long.cif"
    with long.open("wb") as file:
        file.truncate(DEFAULT_LIMITS.max_bytes + 2)
    with pytest.raises(StructureError) as caught:
        as_crystal(long)
    assert caught.value.code == "too_many_bytes"


def test_ase_is_not_needed() -> None:
    code = "import sys; sys.modules['ase'] = None; from deepergatgnn.structures import as_crystal; "
    code += "as_crystal('examples/ZnO.POSCAR'); as_crystal(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "TypeError: int is no structure" in done.stderr


def test_an_object_of_ase_goes_the_way_of_pymatgens_own() -> None:
    there = as_crystal(AseAtomsAdaptor.get_atoms(STRUCTURE))
    assert isinstance(there, Crystal)
    np.testing.assert_allclose(there.frac_coords, ZNO.frac_coords, atol=1e-9)
