"""Cell of a table, or file of a folder → crystal."""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import Crystal, StructureFormat, read_structure
from deepergatgnn.training.data.readers.ase_objects import crystal_of_ase_json

_FORMATS: Final[dict[str, StructureFormat]] = {
    ".cif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".json": "json",
}
SUFFIXES: Final = tuple(_FORMATS)
VASP_NAMES: Final = ("POSCAR", "CONTCAR")


def format_of(name: str) -> StructureFormat | None:
    """Return the format that a file name indicates; None if it indicates no structure."""
    path = PurePath(name)
    if found := _FORMATS.get(path.suffix.lower()):
        return found
    return "poscar" if path.name.upper().startswith(VASP_NAMES) else None


def crystal_of(source: Any, format: StructureFormat = "auto") -> Crystal:  # noqa: A002 - as `read_structure` has it
    """Read the structure in a cell.

    Args:
        source: text of a CIF, POSCAR, extxyz or JSON file; an object of pymatgen, its `as_dict()`, an OPTIMADE
            structure, plain arrays, JARVIS `atoms`; or JSON text of those or of a database of ASE.
        format: format of a text.

    Raises:
        StructureError: if it is not an ordered, finite crystal of known elements.
    """
    if hasattr(source, "as_dict"):
        source = source.as_dict()
    if isinstance(source, str | bytes) and format in ("auto", "json") and _may_be_of_ase(source):
        source = _object(source)
    if isinstance(source, Mapping):
        if "nextid" in source and "ids" in source:
            return crystal_of_ase_json(source)
        return read_structure(source)
    if isinstance(source, str | bytes):
        return read_structure(source, format)
    if source is None:
        raise StructureError("no_structure", "The row has no structure: fill its cell.")
    raise StructureError("unreadable", f"The structure is a {type(source).__name__}: give text or an object.")


def _may_be_of_ase(text: str | bytes) -> bool:
    """Return whether a text may be a JSON database of ASE, an object with the key `nextid`."""
    return "nextid" in text if isinstance(text, str) else b"nextid" in text


def _object(text: str | bytes) -> Any:
    """Return the object of a JSON text, or the text if it is not an object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, Mapping) else text
