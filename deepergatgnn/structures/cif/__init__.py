"""CIF files."""

from deepergatgnn.structures.cif.reader import read_cif

__all__ = ["read_cif"]
