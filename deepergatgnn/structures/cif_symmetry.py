"""The symmetry of a CIF: its operators, and the copies of a site that they make.

`CifParser.parse_structures` sorts the atoms by electronegativity, wraps them into the cell, drops some sites without
a word, takes seconds for some hundred sites, and falls back on P 1 for a space group that it does not know. Its
operators are used here, and none of that.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

import gemmi
import numpy as np
from numpy.typing import NDArray
from pymatgen.core.lattice import Lattice
from pymatgen.core.operations import SymmOp
from pymatgen.io.cif import CifBlock, CifParser

from deepergatgnn.errors import StructureError

# Values by key in lower case; a key outside of a loop has a list of one.
Columns = dict[str, list[str]]

MOST_OPERATORS: Final = 192  # Fm-3m and its kin, in the conventional cell
MOST_COPIES_LOST: Final = 48  # order of the largest site symmetry, m-3m

_THIRD_TOLERANCE: Final = 1e-4  # of the value; pymatgen's `frac_tolerance`
# Relative misfit of the squared lengths and their products: measured cells keep their symmetry far better.
_METRIC_TOLERANCE: Final = 0.02

_OPERATOR_KEYS: Final = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_LONGEST_OPERATOR: Final = 100  # characters
_NUMBER: Final = r"(?:\d{1,12}(?:\.\d{0,20})?|\.\d{1,20})"
_TERM: Final = rf"(?:[xyz]|{_NUMBER}(?:/0*[1-9]\d{{0,5}}\.?0*)?)"
# Signed terms, spaces between them and their signs.
_COMPONENT: Final = rf"\s*[-+]?\s*{_TERM}\s*(?:[-+]\s*{_TERM}\s*)*"
_OPERATOR: Final = re.compile(rf"{_COMPONENT},{_COMPONENT},{_COMPONENT}", re.IGNORECASE)
_LONGEST_NAME: Final = 80  # of a space group, characters
_HERMANN_MAUGUIN_KEYS: Final = ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt")
_HALL_KEYS: Final = ("_space_group_name_Hall", "_symmetry_space_group_name_hall")
_GROUP_KEYS: Final = (
    *_HERMANN_MAUGUIN_KEYS,
    *_HALL_KEYS,
    "_space_group_IT_number",
    "_symmetry_Int_Tables_number",
)


class Operators(NamedTuple):
    """Symmetry operators on fractional coordinates.

    Attributes:
        rotations: [O, 3, 3].
        translations: [O, 3].
        guessed: whether the setting of the space group was told from the cell.
    """

    rotations: NDArray[np.float64]
    translations: NDArray[np.float64]
    guessed: bool = False

    @property
    def n_operators(self) -> int:
        """Number of operators, O."""
        return len(self.rotations)

    @property
    def is_identity(self) -> bool:
        """Whether they are those of P 1."""
        return self.rotations is _P1.rotations


_P1: Final = Operators(np.eye(3)[None], np.zeros((1, 3)))


def value_of(columns: Columns, key: str) -> str:
    """Give the one value of a key, `?` where it is absent, unknown or inapplicable."""
    value = columns.get(key.lower(), ["?"])[0]
    # A key without its value takes the next key for it.
    return "?" if value in ("", ".") or value.startswith("_") else value


def read_operators(columns: Columns, lattice: NDArray[np.float64], said: list[str]) -> Operators:
    """Give the operators that the block lists, or those of the space group that it names.

    Args:
        columns: the data block.
        lattice: cell vectors as rows, in Å, [3, 3]; it decides between the settings of a group.
        said: warnings are added here.

    Raises:
        StructureError: `unreadable` for operators and space groups that are none, `bad_cell` for those that would
            deform the cell, such as hexagonal ones in a rhombohedral cell.
    """
    listed = next((columns[key] for key in _OPERATOR_KEYS if set(columns.get(key, [])) - {"", "?", "."}), [])
    if len(listed) > MOST_OPERATORS:
        raise StructureError(
            "unreadable",
            f"The CIF lists {len(listed):,} symmetry operators and no space group has more than {MOST_OPERATORS}: "
            "write the full cell in P 1.",
        )
    if listed:
        return _fitting(_parse(tuple(listed)), lattice)
    groups = {key: value[:_LONGEST_NAME] for key in _GROUP_KEYS if (value := value_of(columns, key)) != "?"}
    if not groups:
        said.append("The file says nothing about symmetry; its atoms are taken for the whole cell.")
        return _P1
    name = next(iter(groups.values()))[:30]
    operators = _look_up(tuple(groups.items()))
    if operators is not None and _misfit(operators, lattice) <= _METRIC_TOLERANCE:
        said.append(f"The file lists no symmetry operators; those of {name} are used.")
        return operators
    for setting, others in _settings(groups, lattice):
        if _misfit(others, lattice) <= _METRIC_TOLERANCE:
            said.append(f"The file lists no symmetry operators; its space group {name} is read as {setting}.")
            return others._replace(guessed=True)
    if operators is None:
        raise StructureError(
            "unreadable",
            f"The space group {name!r} of the CIF is not known: list its operators as x,y,z, or the full cell in P 1.",
        )
    return _fitting(operators, lattice)


def _misfit(operators: Operators, lattice: NDArray[np.float64]) -> float:
    """By how much of itself the operators change the metric of the cell."""
    if operators.is_identity:
        return 0.0
    metric = lattice @ lattice.T
    moved = np.swapaxes(operators.rotations, 1, 2) @ metric @ operators.rotations  # [O, 3, 3]
    return float(np.abs(moved - metric).max() / np.abs(metric).max())


def _fitting(operators: Operators, lattice: NDArray[np.float64]) -> Operators:
    if (misfit := _misfit(operators, lattice)) > _METRIC_TOLERANCE:
        raise StructureError(
            "bad_cell",
            f"A symmetry operator of the CIF changes the cell by {100 * misfit:.3g} %: the space group and the cell "
            "do not belong together, correct one or post the full cell in P 1.",
        )
    return operators


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


@lru_cache(maxsize=256)
def _parse(listed: tuple[str, ...]) -> Operators:
    # Checked before they are parsed: pymatgen reads a letter that it does not know as nothing, and takes a time that
    # grows with the cube of a run of digits.
    for one in listed:
        if len(one) > _LONGEST_OPERATOR or not _OPERATOR.fullmatch(one):
            raise StructureError(
                "unreadable",
                f"The symmetry operator {one[:30]!r} of the CIF is not one: write it as x,y,z, such as -x+1/2,y,z.",
            )
    rows = [_row(component) for one in listed for component in one.split(",")]
    affine = np.array(rows).reshape(len(listed), 3, 4)
    return _checked(affine[:, :, :3].copy(), affine[:, :, 3].copy())


@lru_cache(maxsize=4096)
def _row(component: str) -> tuple[float, float, float, float]:
    """One third of an operator, such as `-x+1/2`: the row of the rotation, and the translation."""
    operator = SymmOp.from_xyz_str(f"{component},y,z")
    x, y, z = operator.rotation_matrix[0].tolist()
    return x, y, z, float(operator.translation_vector[0])


@lru_cache(maxsize=256)
def _look_up(groups: tuple[tuple[str, str], ...]) -> Operators | None:
    """The operators that pymatgen has for the names of a group, None if it knows none of them."""
    found = CifParser.from_str("data_block\n").get_symops(CifBlock(dict(groups), [], "block"))
    # It answers the identity where it knows none of the names, too.
    if len(found) == 1 and not any("".join(name.split()).upper() in ("P1", "1") for _, name in groups):
        return None
    return _checked(
        np.array([operator.rotation_matrix for operator in found]),
        np.array([operator.translation_vector for operator in found]),
    )


def _settings(groups: dict[str, str], lattice: NDArray[np.float64]) -> Iterator[tuple[str, Operators]]:
    """The operators that gemmi has for the names of a group, in the setting of the cell, such as rhombohedral axes."""
    alpha, _, gamma = Lattice(lattice).angles
    for key, name in groups.items():
        if key in _HERMANN_MAUGUIN_KEYS and (group := gemmi.find_spacegroup_by_name(name, alpha, gamma)) is not None:
            yield group.xhm(), _of_gemmi(group.operations())
        elif key in _HALL_KEYS:
            try:
                yield name[:30], _of_gemmi(gemmi.symops_from_hall(name))
            except (RuntimeError, ValueError):
                continue


def _of_gemmi(group: gemmi.GroupOps) -> Operators:
    operators = list(group)
    rotations = np.array([operator.rot for operator in operators], dtype=np.float64) / gemmi.Op.DEN
    translations = np.array([operator.tran for operator in operators], dtype=np.float64) / gemmi.Op.DEN
    return _checked(rotations, translations)


def _checked(rotations: NDArray[np.float64], translations: NDArray[np.float64]) -> Operators:
    finite = np.isfinite(rotations).all() and np.isfinite(translations).all()
    if not finite or not np.allclose(np.abs(np.linalg.det(rotations)), 1):
        raise StructureError(
            "unreadable", "A symmetry operator of the CIF is no symmetry: list them as x,y,z, or the full cell in P 1."
        )
    if np.array_equal(rotations, _P1.rotations) and not translations.any():
        return _P1
    # They are kept for the next file with the same operators.
    rotations.setflags(write=False)
    translations.setflags(write=False)
    return Operators(rotations, translations)
