"""Structures of library users: objects of pymatgen and ASE, text, files."""

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from pymatgen.core.structure import IMolecule, IStructure

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.checks import check_lattice
from deepergatgnn.structures.crystal import (
    Crystal,
    crystal_from_numbers,
    crystal_from_pymatgen,
    disordered,
    too_many_atoms,
)
from deepergatgnn.structures.ignored import CHARGE, properties_warning, telling_properties
from deepergatgnn.structures.limits import DEFAULT_LIMITS, StructureLimits
from deepergatgnn.structures.reader import read_structure
from deepergatgnn.structures.text import StructureFormat

# The last two are labels, of the user and of the space group.
_NO_PROPERTIES: Final = frozenset({"numbers", "positions", "tags", "spacegroup_kinds"})
_FULL: Final = 1e-3  # how far from 1 an occupancy may be by rounding


def read_structure_file(
    path: str | os.PathLike[str],
    format: StructureFormat = "auto",  # noqa: A002 - the name that `read_structure` has for it
    limits: StructureLimits = DEFAULT_LIMITS,
) -> Crystal:
    """Read the crystal of a file, at most as many bytes as the limit.

    Args:
        path: of a CIF, POSCAR, extxyz or JSON file.
        format: of its text; `auto` tells it from the content.
        limits: bounds that the structure must keep.

    Raises:
        OSError: if the file cannot be read.
        StructureError: as `read_structure`.
    """
    with Path(path).open("rb") as file:
        return read_structure(file.read(limits.max_bytes + 1), format, limits)


def as_crystal(source: Any, limits: StructureLimits = DEFAULT_LIMITS) -> Crystal:
    """Convert any supported object to a checked crystal, in its own cell and order of atoms.

    Args:
        source: a `Crystal`; a pymatgen `Structure`; an ASE `Atoms` that is periodic in all three directions; the text
            of a CIF, POSCAR, extxyz or JSON file; a mapping such as `Structure.as_dict()` or an OPTIMADE structure; or
            the path of a file. A `str` of one line that does not begin with a brace is a path. It is not changed.
            Lengths are in Å.
        limits: bounds that the structure must keep.

    Raises:
        TypeError: if it is none of these.
        OSError: if the file cannot be read.
        StructureError: as `read_structure`.
    """
    if isinstance(source, Crystal):
        return source
    if isinstance(source, IStructure | IMolecule):
        return _from_pymatgen(source, limits)
    if isinstance(source, Mapping | bytes) or (isinstance(source, str) and _is_text(source)):
        return read_structure(source, limits=limits)
    if isinstance(source, str | os.PathLike):
        return read_structure_file(source, limits=limits)
    ase: Any = sys.modules.get("ase")  # an Atoms object exists only after ASE was imported
    if ase is not None and isinstance(source, ase.Atoms):
        return _from_ase(source, limits)
    if all(hasattr(source, name) for name in ("lattice", "atomic_numbers", "frac_coords")):
        return crystal_from_numbers(source.lattice, source.atomic_numbers, source.frac_coords, limits=limits)
    raise TypeError(
        f"{type(source).__name__} is no structure: give a pymatgen Structure, an ASE Atoms, a Crystal, the text or the "
        "path of a CIF, POSCAR, extxyz or JSON file, or a mapping"
    )


def _is_text(source: str) -> bool:
    """Return whether it is the content of a file rather than a path: only JSON fits in one line."""
    return "\n" in source or "\r" in source or source.lstrip()[:1] in ("{", "[", "")


def _from_pymatgen(structure: Any, limits: StructureLimits) -> Crystal:
    if isinstance(structure, IMolecule):
        raise StructureError("no_structure", "The object is a Molecule without a lattice: give a Structure.")
    if not all(structure.lattice.pbc):
        raise StructureError("no_structure", "The lattice is not periodic in all three directions: give a crystal.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen compares the charge with the oxidation states
        said = [CHARGE] if structure.charge else []
    return crystal_from_pymatgen(structure, warnings=said, limits=limits)


def _from_ase(atoms: Any, limits: StructureLimits) -> Crystal:
    if not all(np.broadcast_to(atoms.pbc, 3)):
        flags = " ".join("T" if flag else "F" for flag in np.broadcast_to(atoms.pbc, 3))
        raise StructureError("no_structure", f'The Atoms have pbc="{flags}": only crystals with "T T T" are predicted.')
    if len(atoms) > limits.max_atoms:
        raise too_many_atoms(len(atoms), limits)
    cell = np.array(atoms.cell, dtype=np.float64)
    check_lattice(cell, limits)  # before it is inverted
    for site, shares in dict(atoms.info.get("occupancy") or {}).items():
        if len(shares) > 1 or any(abs(share - 1) > _FULL for share in shares.values()):
            raise disordered(f"site {site}", [(str(species), float(share)) for species, share in shares.items()])
    others = {name: values for name, values in atoms.arrays.items() if name not in _NO_PROPERTIES}
    said = properties_warning(telling_properties(others))
    coords = np.asarray(atoms.positions) @ np.linalg.inv(cell)
    return crystal_from_numbers(cell, atoms.numbers, coords, warnings=said, limits=limits)
