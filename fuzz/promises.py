"""What the structures door promises for any input."""

import numpy as np

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import Crystal, StructureFormat, read_structure

_LONGEST_DETAIL = 400  # characters; every value that is quoted is cut


def broken_promise(source: str | bytes, format_: StructureFormat = "auto") -> str | None:
    """Read one file, and say which promise was broken; whatever but a `StructureError` is raised escapes.

    Args:
        source: any bytes or text.
        format_: as in `read_structure`.
    """
    try:
        crystal = read_structure(source, format_)
    except StructureError as error:
        said = error.detail
        is_sentence = said.endswith(".") and "\n" not in said and said.isprintable() and "site-packages" not in said
        return None if is_sentence and len(said) < _LONGEST_DETAIL else f"the refusal is no short sentence: {said!r}"
    return _flaw(crystal)


def _flaw(crystal: Crystal) -> str | None:
    if not crystal.n_atoms or crystal.frac_coords.shape != (crystal.n_atoms, 3):
        return f"{crystal.n_atoms} atoms have coordinates of the shape {crystal.frac_coords.shape}"
    if not np.isfinite(crystal.frac_coords).all() or not np.isfinite(crystal.lattice).all() or crystal.volume <= 0:
        return "a number of the crystal is not finite, or its cell has no volume"
    unclear = [said for said in crystal.warnings if not (said.endswith(".") and said.isprintable())]
    return f"a warning is no sentence: {unclear[0]!r}" if unclear else None
