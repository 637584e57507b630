"""The occupancies of the sites of a CIF: whole atoms only, refused where a model would have to choose."""

import math
import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pymatgen.io.cif import str2float

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.cif.columns import Columns
from deepergatgnn.structures.cif.labels import is_mixture
from deepergatgnn.structures.cif.operators import Operators
from deepergatgnn.structures.crystal import disordered

FRACT: Final = ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")
# That of the dictionary, and what people write for it.
_OCCUPANCY_TAGS: Final = (
    "_atom_site_occupancy",
    *("_atom_site_site_occupancy", "_atom_site_occupation", "_atom_site_occupancies", "_atom_site_occ"),
)
_FLAG_TAGS: Final = ("_atom_site_refinement_flags", "_atom_site_refinement_flags_occupancy")
_GROUP_TAGS: Final = ("_atom_site_disorder_group", "_atom_site_label_alt_id")
_WRITTEN_FULL: Final = frozenset({"1", "1.0", "1.0000"})
_FULL: Final = 1e-3  # how far from 1 an occupancy may be by rounding
_SAME_PLACE: Final = 1e-3  # fractional; as for the copies of one site
_MOST_COMPARISONS: Final = 20_000_000
_OCCUPANCY: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?:\(\d+\))?")
_NO_GROUP: Final = frozenset({"?", ".", "", "0"})


def whole_occupancies(
    columns: Columns, types: list[str], labels: list[str], operators: Operators, said: list[str]
) -> list[bool]:
    """Tell for each row of the atom loop whether it is an atom, or one that is left out.

    Args:
        columns: the data block.
        types: what element each row says.
        labels: what the file calls each row.
        operators: of the file.
        said: warnings are added here.

    Raises:
        StructureError: `disordered` for a site that is partly vacant or shared, or one of several alternatives;
            `unreadable` for an occupancy that is no number.
    """
    mixtures = {text for text in set(types) if is_mixture(text)}
    if not mixtures and _are_full(columns, len(labels)):
        return [True] * len(types)
    occupancies = _read(columns, labels)
    is_dummy = _dummies(columns, labels, said)
    occupancies = [0.0 if dummy else x for x, dummy in zip(occupancies, is_dummy, strict=True)]
    if set(occupancies) == {1.0} and not mixtures:
        return [True] * len(types)
    partial = [i for i, x in enumerate(occupancies) if x != 0 and not abs(x - 1) <= _FULL]  # nan is partial, too
    for index, symbol in enumerate(types):
        if symbol in mixtures:
            place = place_of(index, labels[index])
            raise StructureError("disordered", f"The {place} is the mixture {symbol[:40]!r}: post an ordered cell.")
    absorbed = _completed(columns, types, occupancies, partial, operators) if partial else {}
    for first, others in absorbed.items():
        names = ", ".join(labels[other][:20] for other in [first, *others])
        said.append(f"The sites {names} lie on one another and are full together: they are read as one.")
    left_out = {other for others in absorbed.values() for other in others}
    for index in partial:
        if index not in absorbed and index not in left_out:
            raise _refusal(columns, types, labels, occupancies, index)
    for index, occupancy in enumerate(occupancies):
        if occupancy == 0 and not is_dummy[index]:
            said.append(f"The {place_of(index, labels[index])} has the occupancy 0 and is left out.")
    return [occupancy != 0 and index not in left_out for index, occupancy in enumerate(occupancies)]


def _are_full(columns: Columns, rows: int) -> bool:
    """Whether all occupancies are written as 1, or none are, and no row can be a dummy."""
    column = next((columns[tag] for tag in _OCCUPANCY_TAGS if tag in columns), None)
    is_full = not column or (len(column) == rows and _WRITTEN_FULL.issuperset(column))
    return is_full and "_atom_site_calc_flag" not in columns


def _dummies(columns: Columns, labels: Sequence[str], said: list[str]) -> list[bool]:
    """Tell which rows are dummies, such as the centre of a ring, and say so."""
    flags = columns.get("_atom_site_calc_flag", [])
    if len(flags) != len(labels):
        return [False] * len(labels)
    is_dummy = [flag.strip().lower().startswith("dum") for flag in flags]
    said += [
        f"The {place_of(index, labels[index])} is a dummy (calc_flag dum) and is left out."
        for index in np.flatnonzero(is_dummy).tolist()
    ]
    return is_dummy


def place_of(index: int, label: str) -> str:
    """What a message calls a row of the atom loop."""
    return f"site {index + 1} ({label[:20]})"


def _read(columns: Columns, labels: Sequence[str]) -> list[float]:
    rows = len(labels)
    column = next((columns[tag] for tag in _OCCUPANCY_TAGS if tag in columns), None) or ["1"] * rows
    if len(column) != rows:
        raise StructureError("unreadable", f"The CIF has {len(column)} occupancies for {rows} sites: complete them.")
    try:
        occupancies = list(map(float, column))
    except ValueError:
        occupancies = [_occupancy(text, place_of(index, labels[index])) for index, text in enumerate(column)]
    for index, occupancy in enumerate(occupancies):
        if not math.isfinite(occupancy) or occupancy < 0 or "_" in column[index]:
            raise _no_occupancy(column[index], place_of(index, labels[index]))
    return occupancies


def _occupancy(text: str, place: str) -> float:
    # The dictionary's default is 1, and `.` and `?` ask for the default.
    if text in (".", "?", ""):
        return 1.0
    if not _OCCUPANCY.fullmatch(text):
        raise _no_occupancy(text, place)
    return float(str2float(text))


def _no_occupancy(text: str, place: str) -> StructureError:
    return StructureError(
        "unreadable", f"The {place} has the occupancy {text[:20]!r}: write a number from 0 to 1, such as 0.5."
    )


def alternatives(columns: Columns, labels: Sequence[str], is_atom: Sequence[bool]) -> StructureError | None:
    """Build the refusal of what is taken as whole and may not be: disorder groups of one assembly, a partial site.

    Args:
        columns: the data block.
        labels: what the file calls each row.
        is_atom: whether a row is taken for an atom.

    Returns:
        None if there are none.
    """
    rows = len(labels)
    if columns.keys().isdisjoint(_OCCUPANCY_TAGS):
        for flags in (columns.get(tag, []) for tag in _FLAG_TAGS):
            partial = [index for index, flag in enumerate(flags) if "P" in flag and len(flags) == rows]
            if partial:
                return StructureError(
                    "disordered",
                    f"The {place_of(partial[0], labels[partial[0]])} has the refinement flag P, a part of an atom, and "
                    "the file does not give its _atom_site_occupancy: post an ordered cell.",
                )
    groups = next((columns[tag] for tag in _GROUP_TAGS if tag in columns), [])
    if len(groups) != rows or not set(groups) - _NO_GROUP:
        return None
    assemblies = columns.get("_atom_site_disorder_assembly", [])
    if len(assemblies) != rows:
        assemblies = ["."] * rows
    first: dict[str, tuple[str, int]] = {}
    for index, (group, assembly) in enumerate(zip(groups, assemblies, strict=True)):
        if group in _NO_GROUP or not is_atom[index]:
            continue
        place = place_of(index, labels[index])
        if group.startswith("-"):
            return StructureError(
                "disordered",
                f"The {place} is in the disorder group {group[:10]}, so its symmetry copies exclude one another: "
                "post an ordered cell.",
            )
        known, at = first.setdefault("." if assembly in _NO_GROUP else assembly, (group, index))
        if known != group:
            return StructureError(
                "disordered",
                f"The {place_of(at, labels[at])} is in the disorder group {known[:10]} and the {place} in the group "
                f"{group[:10]}: they exclude one another, keep one group and post an ordered cell.",
            )
    return None


def _completed(
    columns: Columns, types: list[str], occupancies: list[float], partial: list[int], operators: Operators
) -> dict[int, list[int]]:
    """Partial sites that symmetry puts on others of the same kind, full together: the first of each set, and the rest.

    Half a hydrogen atom on either side of a mirror, each listed, is one atom that symmetry copies.
    """
    if len(partial) ** 2 * operators.n_operators > _MOST_COMPARISONS:
        return {}
    try:
        positions = np.array([[str2float(columns[key][index]) for key in FRACT] for index in partial])
    except ValueError:
        return {}
    found: dict[int, list[int]] = {}
    taken: set[int] = set()
    for row, index in enumerate(partial):
        if index in taken:
            continue
        copies = operators.rotations @ positions[row] + operators.translations  # [O, 3]
        others = [
            partial[other]
            for other in _on(copies, positions)
            if partial[other] not in taken and types[partial[other]] == types[index]
        ]
        if not abs(sum(occupancies[other] for other in others) - 1) <= _FULL:
            return found
        taken.update(others)
        found[index] = [other for other in others if other != index]
    return found


def _on(copies: NDArray[np.float64], positions: NDArray[np.float64]) -> list[int]:
    between = copies[:, None, :] - positions[None, :, :]
    apart = np.abs(between - np.rint(between)).max(axis=-1)  # [O, P]
    indices: list[int] = np.flatnonzero((apart < _SAME_PLACE).any(axis=0)).tolist()
    return indices


def _refusal(
    columns: Columns, types: list[str], labels: list[str], occupancies: list[float], index: int
) -> StructureError:
    position = [columns[key][index] for key in FRACT]
    shares = [
        (types[other].strip("0123456789?'()")[:20] or "?", occupancies[other])
        for other in range(len(types))
        if [columns[key][other] for key in FRACT] == position
    ]
    return disordered(place_of(index, labels[index]), shares)
