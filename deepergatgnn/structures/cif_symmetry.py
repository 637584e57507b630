"""The symmetry of a CIF: its operators, and the copies of a site that they make.

`CifParser.parse_structures` sorts the atoms by electronegativity, wraps them into the cell, drops some sites without
a word, takes seconds for some hundred sites, and falls back on P 1 for a space group that it does not know. Its
operators are used here, and none of that.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.operations import SymmOp
from pymatgen.io.cif import CifBlock, CifParser

from deepergatgnn.errors import StructureError

# Values by key in lower case; a key outside of a loop has a list of one.
Columns = dict[str, list[str]]

MOST_OPERATORS: Final = 192  # Fm-3m and its kin, in the conventional cell
MOST_COPIES_LOST: Final = 48  # order of the largest site symmetry, m-3m

# Fractional. Copies of one site this close are one atom on a special position: coordinates of four digits put them up
# to 3e-4 apart, which pymatgen's 1e-4 would leave as two atoms.
_SITE_TOLERANCE: Final = 1e-3
_EXACT: Final = 1e-4  # fractional; a merger over more than this is worth a warning
_THIRD_TOLERANCE: Final = 1e-4  # of the value; pymatgen's `frac_tolerance`
# Relative misfit of the squared lengths and their products: measured cells keep their symmetry far better.
_METRIC_TOLERANCE: Final = 0.02

_OPERATOR_KEYS: Final = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_OPERATOR: Final = re.compile(r"[-+xyz\d./\s]+,[-+xyz\d./\s]+,[-+xyz\d./\s]+", re.IGNORECASE)
_LONGEST_OPERATOR: Final = 100  # characters
_LONGEST_NAME: Final = 80  # of a space group, characters
_GROUP_KEYS: Final = (
    "_symmetry_space_group_name_H-M",
    "_space_group_name_H-M_alt",
    "_space_group_name_Hall",
    "_symmetry_space_group_name_hall",
    "_space_group_IT_number",
    "_symmetry_Int_Tables_number",
)


class Operators(NamedTuple):
    """Symmetry operators on fractional coordinates.

    Attributes:
        rotations: [O, 3, 3].
        translations: [O, 3].
    """

    rotations: NDArray[np.float64]
    translations: NDArray[np.float64]

    @property
    def n_operators(self) -> int:
        """Number of operators, O."""
        return len(self.rotations)


def value_of(columns: Columns, key: str) -> str:
    """Give the one value of a key, `?` where it is absent, unknown or inapplicable."""
    value = columns.get(key.lower(), ["?"])[0]
    # A key without its value takes the next key for it.
    return "?" if value in ("", ".") or value.startswith("_") else value


def read_operators(columns: Columns, said: list[str]) -> Operators:
    """Give the operators that the block lists, or those of the space group that it names.

    Args:
        columns: the data block.
        said: warnings are added here.

    Raises:
        StructureError: `unreadable` for operators and space groups that are none.
    """
    listed = next((columns[key] for key in _OPERATOR_KEYS if set(columns.get(key, [])) - {"", "?", "."}), [])
    if len(listed) > MOST_OPERATORS:
        raise StructureError(
            "unreadable",
            f"The CIF lists {len(listed):,} symmetry operators and no space group has more than {MOST_OPERATORS}: "
            "write the full cell in P 1.",
        )
    groups = {key: value[:_LONGEST_NAME] for key in _GROUP_KEYS if (value := value_of(columns, key)) != "?"}
    if not listed and not groups:
        said.append("The file says nothing about symmetry; its atoms are taken for the whole cell.")
        return Operators(np.eye(3)[None], np.zeros((1, 3)))
    operators = _parse(listed) if listed else _look_up(groups, said)
    rotations = np.array([operator.rotation_matrix for operator in operators])
    translations = np.array([operator.translation_vector for operator in operators])
    finite = np.isfinite(rotations).all() and np.isfinite(translations).all()
    if not finite or not np.allclose(np.abs(np.linalg.det(rotations)), 1):
        raise StructureError(
            "unreadable", "A symmetry operator of the CIF is no symmetry: list them as x,y,z, or the full cell in P 1."
        )
    return Operators(rotations, translations)


def check_operators_fit(operators: Operators, lattice: NDArray[np.float64]) -> None:
    """Refuse a cell that its operators would deform.

    Args:
        operators: of the file.
        lattice: cell vectors as rows, in Å, [3, 3].

    Raises:
        StructureError: `bad_cell`, such as for hexagonal operators in a rhombohedral cell.
    """
    metric = lattice @ lattice.T
    moved = np.swapaxes(operators.rotations, 1, 2) @ metric @ operators.rotations  # [O, 3, 3]
    misfit = float(np.abs(moved - metric).max() / np.abs(metric).max())
    if misfit > _METRIC_TOLERANCE:
        raise StructureError(
            "bad_cell",
            f"A symmetry operator of the CIF changes the cell by {100 * misfit:.3g} %: the space group and the cell "
            "do not belong together, correct one or post the full cell in P 1.",
        )


def ideal_positions(posted: NDArray[np.float64], operators: Operators, said: list[str]) -> NDArray[np.float64]:
    """Round coordinates such as 0.3333 to a third, as pymatgen does, where symmetry will be applied.

    Args:
        posted: coordinates of the file, [sites, 3].
        operators: of the file.
        said: warnings are added here.
    """
    if operators.n_operators == 1:
        return posted
    ideal = posted.copy()
    for third in (1 / 3, 2 / 3):
        ideal[np.abs(ideal / third - 1) <= _THIRD_TOLERANCE] = third
    if changed := int((np.abs(ideal - posted) > 1e-6).sum()):  # noqa: PLR2004 - the last digit of six is no news
        said.append(f"{changed} coordinates are rounded to exact thirds, to apply the symmetry.")
    return ideal


def expand(position: NDArray[np.float64], operators: Operators) -> tuple[NDArray[np.float64], bool]:
    """Make the distinct copies of one site.

    Args:
        position: fractional coordinates of the site, [3].
        operators: of the file.

    Returns:
        The copies in the order of the operators, [copies, 3], inside of the cell but for the site itself, which stays
        where the file has it; and whether copies were merged that are near but not the same.
    """
    copies = operators.rotations @ position + operators.translations
    between = copies[:, None, :] - copies[None, :, :]
    apart = np.abs(between - np.round(between)).max(axis=-1)  # [O, O]
    kept: list[int] = []
    merged = False
    for index in range(len(copies)):
        nearest = apart[index, kept].min() if kept else np.inf
        if nearest >= _SITE_TOLERANCE:
            kept.append(index)
        else:
            merged = merged or bool(nearest > _EXACT)
    distinct = copies[kept] - np.floor(copies[kept])
    offset = copies[kept] - position
    distinct[np.abs(offset - np.round(offset)).max(axis=-1) < _SITE_TOLERANCE] = position
    return distinct, merged


def _parse(listed: list[str]) -> Sequence[SymmOp]:
    # Checked before they are parsed: pymatgen reads a letter that it does not know as nothing, and takes a time that
    # grows with the cube of a run of digits.
    for one in listed:
        if len(one) > _LONGEST_OPERATOR or not _OPERATOR.fullmatch(one):
            raise StructureError(
                "unreadable", f"The symmetry operator {one[:30]!r} of the CIF is not one: write it as x,y,z."
            )
    parser = CifParser.from_str("data_block\n")
    return parser.get_symops(CifBlock({_OPERATOR_KEYS[0]: listed}, [], "block"))


def _look_up(groups: dict[str, str], said: list[str]) -> Sequence[SymmOp]:
    name = next(iter(groups.values()))[:30]
    parser = CifParser.from_str("data_block\n")
    operators = parser.get_symops(CifBlock(dict(groups), [], "block"))
    # It answers the identity where it knows none of the names, too.
    if len(operators) == 1 and not any("".join(group.split()).upper() in ("P1", "1") for group in groups.values()):
        raise StructureError(
            "unreadable",
            f"The space group {name!r} of the CIF is not known: list its operators as x,y,z, or the full cell in P 1.",
        )
    said.append(f"The file lists no symmetry operators; those of {name} are used.")
    return operators
