"""CIF files: text, tokens, cell, symmetry and sites, each read by its own module or by pymatgen."""

import math
from collections.abc import Iterable
from itertools import chain, repeat
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pymatgen.io.cif import str2float

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.checks import check_lattice
from deepergatgnn.structures.cif_columns import read_columns
from deepergatgnn.structures.cif_copies import expand
from deepergatgnn.structures.cif_occupancies import FRACT
from deepergatgnn.structures.cif_sites import formula_warning, read_sites
from deepergatgnn.structures.cif_symmetry import (
    MOST_COPIES_LOST,
    Columns,
    ideal_positions,
    read_operators,
    value_of,
)
from deepergatgnn.structures.crystal import Crystal, crystal_in_cell, too_many_atoms
from deepergatgnn.structures.elements import any_charged
from deepergatgnn.structures.ignored import OXIDATION_STATES, UNCERTAINTIES
from deepergatgnn.structures.limits import StructureLimits

_LENGTHS: Final = ("_cell_length_a", "_cell_length_b", "_cell_length_c")
_ANGLES: Final = ("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma")
_UNCERTAIN: Final = (*_LENGTHS, *_ANGLES, *FRACT, "_atom_site_occupancy")
_LEAST_OPENING: Final = 1e-6  # radians by which the angles of a cell must close
_T = TypeVar("_T")


def read_cif(text: str, limits: StructureLimits) -> Crystal:
    """Read the first structure of a CIF; symmetry copies of a site follow one another.

    Args:
        text: the file, CIF 1 or 2.
        limits: bounds that the structure must keep.

    Raises:
        StructureError: as `read_structure`.
    """
    columns, said = read_columns(text)
    lattice = _lattice(columns, said)
    check_lattice(lattice, limits)
    operators = read_operators(columns, lattice, said)
    setting = said[-1] if operators.guessed else ""
    sites = read_sites(columns, operators, said, limits)
    # The fewest atoms that these sites can make, counted before they are made.
    if (fewest := math.ceil(len(sites.labels) * operators.n_operators / MOST_COPIES_LOST)) > limits.max_atoms:
        raise too_many_atoms(fewest, limits)
    atoms = expand(ideal_positions(sites.frac_coords, operators, said), operators, limits)
    if atoms.merged:
        names = ", ".join(sites.labels[site][:20] for site in atoms.merged[:5])
        said.append(f"Symmetry copies of {names} that nearly coincide are taken for one atom each.")
    copy_of = "a copy of " if operators.n_operators > 1 else ""
    numbers = _for_each_copy(sites.atomic_numbers, atoms.counts)
    places = _for_each_copy([f"{copy_of}{label[:20]}" for label in sites.labels], atoms.counts)
    if warning := formula_warning(columns, numbers):
        if operators.guessed:
            raise StructureError(
                "unreadable",
                f"{setting} {warning.split(':', 1)[0]}: list the symmetry operators, or the full cell in P 1.",
            )
        said.append(warning)
    said += _ignored(columns)
    return crystal_in_cell(lattice, numbers, atoms.frac_coords, warnings=said, limits=limits, places=places)


def _for_each_copy(values: Iterable[_T], counts: Iterable[int]) -> list[_T]:
    return list(chain.from_iterable(map(repeat, values, counts)))


def _ignored(columns: Columns) -> list[str]:
    """What the block says of its atoms and cell that is not used, by whole columns: every file comes by here."""
    said = []
    types = columns.get("_atom_site_type_symbol")
    if not types:  # a label may be C-1, which is no charge
        types = [label for label in columns["_atom_site_label"] if label.endswith(("+", "-"))]
    states = columns.get("_atom_type_oxidation_number", ())
    if any_charged(set(types)) or any(state.strip("0.?+-") for state in states):
        said.append(OXIDATION_STATES)
    if any("(" in "".join(columns.get(key, ())) for key in _UNCERTAIN):
        said.append(UNCERTAINTIES)
    return said


def _lattice(columns: Columns, said: list[str]) -> NDArray[np.float64]:
    a, b, c = (_positive(key, value_of(columns, key)) for key in _LENGTHS)
    texts = {key: value_of(columns, key) for key in _ANGLES}
    if missing := [key for key, text in texts.items() if text == "?"]:  # the default of the CIF dictionary
        said.append(f"The file does not give {', '.join(missing)}: taken to be 90°.")
    angles = [90.0 if text == "?" else _positive(key, text) for key, text in texts.items()]
    radians = np.radians(angles)
    # Half the sum of the angles must exceed each of them and stay below 180° for the vectors to span a volume.
    alpha, beta, gamma = radians.tolist()
    half = (alpha + beta + gamma) / 2
    if half >= math.pi - _LEAST_OPENING or half <= max(alpha, beta, gamma) + _LEAST_OPENING:
        raise StructureError(
            "bad_cell", f"The cell angles {angles[0]:g}, {angles[1]:g}, {angles[2]:g}° do not close: correct them."
        )
    # As pymatgen's `Lattice.from_parameters`, to the last bit; its sines and cosines are numpy's.
    cos_alpha, cos_beta, cos_gamma = np.cos(radians).tolist()
    sin_alpha, sin_beta, _ = np.sin(radians).tolist()
    cosine = (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)
    gamma_star = np.arccos(max(-1.0, min(1.0, cosine)))
    vector_a = [a * sin_beta, 0.0, a * cos_beta]
    vector_b = [-b * sin_alpha * np.cos(gamma_star), b * sin_alpha * np.sin(gamma_star), b * cos_alpha]
    return np.array([vector_a, vector_b, [0.0, 0.0, c]])


def _positive(key: str, text: str) -> float:
    try:
        value = math.nan if "_" in text else str2float(text) if "(" in text else float(text)  # 5.43(2) is 5.43
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise StructureError("bad_cell", f"The CIF has {key} {text[:30]!r}: give a positive number.")
    return value
