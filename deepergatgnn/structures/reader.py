"""Text or object → checked crystal."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.cif import read_cif
from deepergatgnn.structures.crystal import Crystal
from deepergatgnn.structures.extxyz import read_extxyz
from deepergatgnn.structures.json_objects import read_json, read_object
from deepergatgnn.structures.limits import DEFAULT_LIMITS, StructureLimits
from deepergatgnn.structures.poscar import read_poscar
from deepergatgnn.structures.text import StructureFormat, TextFormat, clean_text, detect_format

_LONGEST_SENTENCE: Final = 360  # characters
_READERS: Final[dict[TextFormat, Callable[[str, StructureLimits], Crystal]]] = {
    "cif": read_cif,
    "poscar": read_poscar,
    "extxyz": read_extxyz,
    "json": read_json,
}


def read_structure(
    source: str | bytes | Mapping[str, Any],
    format: StructureFormat = "auto",  # noqa: A002 - the name of the field in requests
    limits: StructureLimits = DEFAULT_LIMITS,
) -> Crystal:
    """Read one crystal, in the posted cell and the posted order of its atoms.

    Args:
        source: the text of a CIF, POSCAR, extxyz or JSON file, or an object: pymatgen's `Structure.as_dict()`,
            an OPTIMADE structure, `{"lattice": ..., "species": ..., "frac_coords": ...}`, JARVIS atoms,
            `ase.Atoms.todict()`, or a document that holds one of them. It is not changed.
        format: format of the text; `auto` detects it from the content. An object is always JSON.
        limits: bounds that the structure must keep.

    Returns:
        The checked crystal, with a warning for everything that was not read literally, and one for each kind of unused
        information about the cell or its atoms: oxidation states, isotopes, uncertainties, velocities, moments, forces
        and other properties, unless they are zero, and further data blocks or frames. Labels, displacement parameters
        and bibliography are ignored without a warning.

    Raises:
        StructureError: if it is not an ordered, finite crystal of known elements. No other exception is raised.
    """
    # pymatgen emits Python warnings; the readers find the relevant ones and add them to the warnings of the crystal.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            crystal = _read(source, format, limits)
        except StructureError as error:
            if (detail := _plain(error.detail)) == error.detail:
                raise
            raise StructureError(error.code, detail) from error
        except Exception as error:  # the parsers raise exceptions of many types
            raise StructureError("unreadable", _plain(_reason(error))) from error
    plain = tuple(map(_plain, crystal.warnings))
    return crystal if plain == crystal.warnings else replace(crystal, warnings=plain)


def _read(source: str | bytes | Mapping[str, Any], format_: StructureFormat, limits: StructureLimits) -> Crystal:
    if isinstance(source, Mapping):
        return _read_mapping(source, format_, limits)
    text = clean_text(source, limits)
    return _READERS[detect_format(text) if format_ == "auto" else format_](text, limits)


def _plain(sentence: str) -> str:
    """Remove control characters from a sentence and shorten it."""
    if not sentence.isprintable():
        sentence = "".join(one if one.isprintable() else "\ufffd" for one in sentence)
    if len(sentence) > _LONGEST_SENTENCE:
        half = _LONGEST_SENTENCE // 2
        sentence = f"{sentence[:half]} … {sentence[-half:]}"
    return sentence


def _read_mapping(source: Mapping[str, Any], format_: StructureFormat, limits: StructureLimits) -> Crystal:
    if format_ in ("auto", "json"):
        return read_object(source, limits)
    raise StructureError("unreadable", f"The structure is an object, and the format {format_!r} is text: leave it out.")


def _reason(error: Exception) -> str:
    """Describe the error of a parser in one sentence, without file names and class names."""
    if isinstance(error, RecursionError):
        return "The structure is nested too deeply: post a plain one."
    message = " ".join(str(error).split())
    if not isinstance(error, ValueError) or not message or "/" in message or "\\" in message:
        return "The parser failed without a reason: check that the file is complete."
    return f"The structure cannot be read ({message[:120].rstrip('.')}): check that the file is complete."
