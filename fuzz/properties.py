"""Properties of `read_structure` that hold for any input."""

import numpy as np

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import Crystal, StructureFormat, read_structure

_LONGEST_DETAIL = 400  # characters; quoted values are truncated


def violated_property(source: str | bytes, format_: StructureFormat = "auto") -> str | None:
    """Read a file and return the property that it violates; exceptions other than `StructureError` propagate.

    Args:
        source: any bytes or text.
        format_: as in `read_structure`.
    """
    try:
        crystal = read_structure(source, format_)
    except StructureError as error:
        text = error.detail
        is_sentence = text.endswith(".") and "\n" not in text and text.isprintable() and "site-packages" not in text
        return None if is_sentence and len(text) < _LONGEST_DETAIL else f"the refusal is not a short sentence: {text!r}"
    return _flaw(crystal)


def _flaw(crystal: Crystal) -> str | None:
    if not crystal.n_atoms or crystal.frac_coords.shape != (crystal.n_atoms, 3):
        return f"{crystal.n_atoms} atoms have coordinates of the shape {crystal.frac_coords.shape}"
    if not np.isfinite(crystal.frac_coords).all() or not np.isfinite(crystal.lattice).all() or crystal.volume <= 0:
        return "a number of the crystal is not finite, or its cell has no volume"
    unclear = [text for text in crystal.warnings if not (text.endswith(".") and text.isprintable())]
    return f"a warning is not a sentence: {unclear[0]!r}" if unclear else None
