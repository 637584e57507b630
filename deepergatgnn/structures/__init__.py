"""The one door for CIF, POSCAR, extxyz and JSON: text in, a checked structure out."""

from deepergatgnn.structures.crystal import Crystal, crystal_from_arrays, crystal_from_pymatgen, crystal_to_pymatgen
from deepergatgnn.structures.limits import DEFAULT_LIMITS, StructureLimits
from deepergatgnn.structures.reader import read_structure
from deepergatgnn.structures.text import StructureFormat

__all__ = [
    "DEFAULT_LIMITS",
    "Crystal",
    "StructureFormat",
    "StructureLimits",
    "crystal_from_arrays",
    "crystal_from_pymatgen",
    "crystal_to_pymatgen",
    "read_structure",
]
