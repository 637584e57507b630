"""Structures: CIF, POSCAR, extxyz, JSON or an object with a structure → checked crystal."""

from deepergatgnn.structures.crystal import Crystal, crystal_from_arrays, crystal_from_pymatgen, crystal_to_pymatgen
from deepergatgnn.structures.limits import DEFAULT_LIMITS, StructureLimits
from deepergatgnn.structures.reader import read_structure
from deepergatgnn.structures.sources import as_crystal, read_structure_file
from deepergatgnn.structures.text import StructureFormat

__all__ = [
    "DEFAULT_LIMITS",
    "Crystal",
    "StructureFormat",
    "StructureLimits",
    "as_crystal",
    "crystal_from_arrays",
    "crystal_from_pymatgen",
    "crystal_to_pymatgen",
    "read_structure",
    "read_structure_file",
]
