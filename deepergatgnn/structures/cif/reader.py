"""CIF files: what the file states is gathered, the readings that it allows are built, and one of them is chosen.

text ─▶ columns ─▶ statements ─▶ symmetries ─▶ a reading for each ─▶ the chosen one ─▶ crystal
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pymatgen.io.cif import str2float

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.checks import check_lattice
from deepergatgnn.structures.cif.candidates import Symmetry, otherwise, symmetries
from deepergatgnn.structures.cif.columns import Columns, read_columns, value_of
from deepergatgnn.structures.cif.copies import Copies, expand, ideal_positions
from deepergatgnn.structures.cif.formula import LACKS_HYDROGEN, names_hydrogen
from deepergatgnn.structures.cif.judge import (
    Reading,
    agrees_with_formula,
    check_unlisted,
    choose,
    contradictions,
    read_elements,
    too_close,
)
from deepergatgnn.structures.cif.occupancies import FRACT
from deepergatgnn.structures.cif.operators import MOST_COPIES_LOST
from deepergatgnn.structures.cif.sites import Sites, read_sites
from deepergatgnn.structures.cif.statements import Statements, gather
from deepergatgnn.structures.crystal import Crystal, crystal_in_cell, too_many_atoms
from deepergatgnn.structures.elements import any_charged
from deepergatgnn.structures.ignored import OXIDATION_STATES, UNCERTAINTIES
from deepergatgnn.structures.limits import StructureLimits

_LENGTHS: Final = ("_cell_length_a", "_cell_length_b", "_cell_length_c")
_ANGLES: Final = ("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma")
_UNCERTAIN: Final = (*_LENGTHS, *_ANGLES, *FRACT, "_atom_site_occupancy")
_HYDROGEN: Final = 1
_LEAST_OPENING: Final = 1e-6  # radians by which the angles of a cell must close
_SAME_PLACE: Final = 1e-3  # fractional
_VOLUME_TOLERANCE: Final = 0.02  # of itself
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
    statements = gather(columns)
    allowed = symmetries(statements, lattice, said)
    reading = _chosen(columns, allowed, statements, lattice, limits)
    said += reading.said
    said += _doubts(reading, statements, lattice)
    said += _ignored(columns)
    return _crystal(reading, lattice, said, limits)


def _chosen(
    columns: Columns,
    allowed: list[Symmetry],
    statements: Statements,
    lattice: NDArray[np.float64],
    limits: StructureLimits,
) -> Reading:
    """The one reading, or the one of several that agrees with the statements of the file."""
    readings, refusals = _readings(columns, allowed, statements, lattice, limits)
    if len(allowed) == 1 and readings and readings[0].contradicts and allowed[0].is_listed:
        # A list is not believed alone: another origin or other axes of the named group may agree with the rest.
        others = otherwise(allowed[0], statements, lattice)
        allowed = allowed + others
        readings += _readings(columns, others, statements, lattice, limits)[0]
    if not readings:
        raise refusals[0]
    if len(allowed) > 1:
        return choose(readings, statements, lattice)
    check_unlisted(readings[0], statements)
    return readings[0]


def _readings(
    columns: Columns,
    allowed: list[Symmetry],
    statements: Statements,
    lattice: NDArray[np.float64],
    limits: StructureLimits,
) -> tuple[list[Reading], list[StructureError]]:
    readings, refusals = [], []
    for symmetry in allowed:
        try:
            readings.append(_read(columns, symmetry, statements, lattice, limits))
        except StructureError as error:
            refusals.append(error)
    return readings, refusals


def _read(
    columns: Columns,
    symmetry: Symmetry,
    statements: Statements,
    lattice: NDArray[np.float64],
    limits: StructureLimits,
) -> Reading:
    said: list[str] = []
    operators = symmetry.operators
    sites = read_sites(columns, operators, said, limits)
    # The fewest atoms that these sites can make, counted before they are made.
    if (fewest := math.ceil(len(sites.labels) * operators.n_operators / MOST_COPIES_LOST)) > limits.max_atoms:
        raise too_many_atoms(fewest, limits)
    positions = ideal_positions(sites.frac_coords, operators, said)
    copies = expand(positions, operators, limits, sites.rounding, lattice)
    numbers, of_elements = read_elements(sites, copies, statements)
    said += dict.fromkeys(of_elements)
    if copies.merged:
        names = ", ".join(sites.labels[site][:20] for site in copies.merged[:5])
        said.append(f"Symmetry copies of {names} that nearly coincide are taken for one atom each.")
    if _is_whole_cell(sites, copies, numbers):
        copies = Copies(sites.frac_coords, [1] * len(numbers), [])
        said.append("The atoms of the file are the whole cell already: its symmetry operators are not applied again.")
    reading = Reading(symmetry, sites, copies, numbers, tuple(said))
    reading.contradicts = contradictions(reading, statements, lattice)
    if sites.alternatives is not None and not agrees_with_formula(reading, statements):
        raise sites.alternatives
    return reading


def _doubts(reading: Reading, statements: Statements, lattice: NDArray[np.float64]) -> list[str]:
    """What the file states and the chosen reading does not agree with."""
    said = []
    counts = reading.counts
    symmetry = reading.symmetry
    if not symmetry.is_listed and symmetry.operators.n_operators > 1:
        said.append(_unlisted(symmetry, statements))
    formula = statements.formula
    if formula is not None and formula.verdict(counts) == "agrees":
        # A sum that leaves out what the other formulae have.
        formula = next((one for one in statements.other_formulas if one.verdict(counts) == LACKS_HYDROGEN), None)
    if formula is not None:
        missing = ", ".join(formula.missing(counts))
        lacks = f" without any {missing}" if missing else ""
        said.append(
            f"The formula of the file, {formula.text[:60]}, is not that of its atoms{lacks}: atoms may be missing."
        )
    elif _HYDROGEN not in counts and (text := next(filter(names_hydrogen, statements.uncounted), None)):
        said.append(
            f"The formula of the file, {text[:60]}, has hydrogen and the atoms have none: atoms may be missing."
        )
    if others := [what for what in reading.contradicts if not what.startswith(("the formula ", "distances"))]:
        said.append(f"The atoms do not agree with {others[0]}, as the file has it: atoms may be missing or too many.")
    # Where operators are listed and the formula agrees nothing was left open.
    is_open = not symmetry.is_listed or statements.formula is None or bool(reading.contradicts)
    if is_open and (pair := too_close(reading, lattice)):
        said.append(f"{pair} apart are closer than in other crystals: the symmetry, the cell or a site may be wrong.")
    volume = abs(float(lattice[0, 0] * lattice[1, 1] * lattice[2, 2]))  # of a triangular matrix, as `_lattice` makes it
    if statements.volume and abs(volume - statements.volume) > _VOLUME_TOLERANCE * statements.volume:
        said.append(
            f"The cell has {volume:.4g} Å³ and the file states {statements.volume:g}: a cell parameter may be wrong."
        )
    if symmetry.contradicts:
        said.append(f"The symmetry does not agree with another statement: {symmetry.contradicts[0]}.")
    return said


def _unlisted(symmetry: Symmetry, statements: Statements) -> str:
    if statements.operators:
        return f"The operators that the file lists are not used, but those of {symmetry.name}."
    group = statements.name_of_group[:40]
    if "".join(group.split()) == "".join(symmetry.name.split()):
        return f"The file lists no symmetry operators; those of {group} are used."
    return f"The file lists no symmetry operators; its space group {group} is read as {symmetry.name}."


def _crystal(reading: Reading, lattice: NDArray[np.float64], said: list[str], limits: StructureLimits) -> Crystal:
    sites, copies = reading.sites, reading.copies
    copy_of = "a copy of " if reading.symmetry.operators.n_operators > 1 else ""

    def places() -> list[str]:
        return _for_each_copy([f"{copy_of}{label[:20]}" for label in sites.labels], copies.counts)

    return crystal_in_cell(
        lattice, reading.atomic_numbers, copies.frac_coords, warnings=said, limits=limits, places=places
    )


def _is_whole_cell(sites: Sites, copies: Copies, numbers: Sequence[int]) -> bool:
    """Whether each copy of a site is a site of the same element: the file lists the whole cell, and operators too."""
    # A site of m copies is one of at least m rows then.
    if not 1 < max(copies.counts) <= len(numbers):
        return False
    # In a whole cell the sites with m copies come m by m; few other files pass this, and it costs nothing.
    if any(sites_of % count for (_, count), sites_of in Counter(zip(numbers, copies.counts, strict=True)).items()):
        return False
    coords = sites.frac_coords
    elements = np.array(numbers)
    for copy, number in zip(copies.frac_coords, np.repeat(elements, copies.counts), strict=True):
        between = coords[elements == number] - copy
        if np.abs(between - np.rint(between)).max(axis=-1).min() > _SAME_PLACE:
            return False
    return True


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
    if "(" in "".join([text for key in _UNCERTAIN if key in columns for text in columns[key]]):
        said.append(UNCERTAINTIES)
    return said


def _lattice(columns: Columns, said: list[str]) -> NDArray[np.float64]:
    numbers = _plain_numbers(columns)
    if numbers is not None:
        (a, b, c), angles = numbers[:3], numbers[3:]
    else:
        (a, b, c), angles = _cell_as_written(columns, said)
    (a_x, a_z), (sin_alpha, cos_gamma_star, sin_gamma_star, b_z) = _directions(*angles)
    vector_b = [-b * sin_alpha * cos_gamma_star, b * sin_alpha * sin_gamma_star, b * b_z]
    return np.array([[a * a_x, 0.0, a * a_z], vector_b, [0.0, 0.0, c]])


def _plain_numbers(columns: Columns) -> list[float] | None:
    """Return lengths and angles of a cell of positive numbers without uncertainties; None for any other."""
    try:
        texts = [columns[key][0] for key in (*_LENGTHS, *_ANGLES)]
        numbers = list(map(float, texts))
    except (KeyError, ValueError):
        return None
    return numbers if "_" not in "".join(texts) and min(numbers) > 0 and sum(numbers) < math.inf else None


def _cell_as_written(columns: Columns, said: list[str]) -> tuple[list[float], list[float]]:
    lengths = [_positive(key, value_of(columns, key)) for key in _LENGTHS]
    texts = {key: value_of(columns, key) for key in _ANGLES}
    if missing := [key for key, text in texts.items() if text == "?"]:  # the default of the CIF dictionary
        said.append(f"The file does not give {', '.join(missing)}: taken to be 90°.")
    return lengths, [90.0 if text == "?" else _positive(key, text) for key, text in texts.items()]


@lru_cache(maxsize=1024)
def _directions(
    alpha_deg: float, beta_deg: float, gamma_deg: float
) -> tuple[tuple[float, float], tuple[float, float, float, float]]:
    """Return the sine and cosine of β, and sin α, cos γ*, sin γ*, cos α: those of pymatgen to the last bit.

    Raises:
        StructureError: `bad_cell` for angles between which no three vectors span a volume.
    """
    radians = np.radians([alpha_deg, beta_deg, gamma_deg])
    # Half the sum of the angles must exceed each of them and stay below 180° for the vectors to span a volume.
    alpha, beta, gamma = radians.tolist()
    half = (alpha + beta + gamma) / 2
    if half >= math.pi - _LEAST_OPENING or half <= max(alpha, beta, gamma) + _LEAST_OPENING:
        raise StructureError(
            "bad_cell", f"The cell angles {alpha_deg:g}, {beta_deg:g}, {gamma_deg:g}° do not close: correct them."
        )
    # As pymatgen's `Lattice.from_parameters`; its sines and cosines are numpy's.
    cos_alpha, cos_beta, cos_gamma = np.cos(radians).tolist()
    sin_alpha, sin_beta, _ = np.sin(radians).tolist()
    cosine = (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)
    gamma_star = np.arccos(max(-1.0, min(1.0, cosine)))
    return (sin_beta, cos_beta), (sin_alpha, float(np.cos(gamma_star)), float(np.sin(gamma_star)), cos_alpha)


def _positive(key: str, text: str) -> float:
    try:
        value = math.nan if "_" in text else str2float(text) if "(" in text else float(text)  # 5.43(2) is 5.43
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise StructureError("bad_cell", f"The CIF has {key} {text[:30]!r}: give a positive number.")
    return value
