"""Symmetry operators on fractional coordinates: parsed, checked for being a group, and identified."""

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import gemmi
import numpy as np
import spglib
from numpy.typing import NDArray
from pymatgen.core.operations import SymmOp

from deepergatgnn.errors import StructureError

MOST_OPERATORS: Final = 192  # Fm-3m and its kin, in the conventional cell
MOST_COPIES_LOST: Final = 48  # order of the largest site symmetry, m-3m

_LONGEST_OPERATOR: Final = 100  # characters
_NUMBER: Final = r"(?:\d{1,12}(?:\.\d{0,20})?|\.\d{1,20})"
_TERM: Final = rf"(?:[xyz]|{_NUMBER}(?:/0*[1-9]\d{{0,5}}\.?0*)?)"
# Signed terms, spaces between them and their signs.
_COMPONENT: Final = rf"\s*[-+]?\s*{_TERM}\s*(?:[-+]\s*{_TERM}\s*)*"
_OPERATOR: Final = re.compile(rf"{_COMPONENT},{_COMPONENT},{_COMPONENT}", re.IGNORECASE)
# Translations of space groups in their usual settings are multiples of 1/24; decimals such as 0.3333 are near one.
_DENOMINATOR: Final = gemmi.Op.DEN
_TRANSLATION_TOLERANCE: Final = 2e-3
_LARGEST_ELEMENT: Final = 2  # of a rotation, in any usual cell
_FINE: Final = 1000  # steps of a 24th
# Relative misfit of the squared lengths and their products: measured cells keep their symmetry far better.
_METRIC_TOLERANCE: Final = 0.02

Key = frozenset[tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Operators:
    """A list of symmetry operators.

    Attributes:
        rotations: [O, 3, 3].
        translations: in cells, [O, 3].
    """

    rotations: NDArray[np.float64]
    translations: NDArray[np.float64]

    @property
    def n_operators(self) -> int:
        """Number of operators, O."""
        return len(self.rotations)

    @property
    def is_identity(self) -> bool:
        """Whether they are those of P 1."""
        return self.rotations is P1.rotations

    @cached_property
    def key(self) -> Key:
        """The set of operators modulo lattice translations, equal for two lists that say the same."""
        rotations = np.rint(self.rotations).astype(np.int64).reshape(-1, 9)
        fine = np.rint(self.translations * _DENOMINATOR)
        on_grid = np.abs(self.translations - fine / _DENOMINATOR) < _TRANSLATION_TOLERANCE
        # What is between two multiples of 1/24, as in a shifted origin, is kept more finely.
        steps = np.where(on_grid, fine * _FINE, np.rint(self.translations * _DENOMINATOR * _FINE))
        steps = steps.astype(np.int64) % (_DENOMINATOR * _FINE)
        return frozenset(map(tuple, np.concatenate([rotations, steps], axis=1).tolist()))

    @cached_property
    def is_group(self) -> bool:
        """Whether the operators are closed under composition, with the identity and every inverse among them."""
        return self.closure is not None and self.closure.key == self.key

    @cached_property
    def closure(self) -> "Operators | None":
        """The smallest group that holds the operators; None where they generate none of a space group's size."""
        rows = np.array(sorted(self.key))
        if (rows[:, 9:] % _FINE).any():  # what is not on the grid may drift off while it is composed
            return self if _is_closed(rows) else None
        if np.array_equal(_composed(rows, rows), _in_order(rows)):
            return self
        found = rows
        while True:
            more = np.unique(np.concatenate([found, _composed(found, rows)]), axis=0)
            # Operators of different lattices together never end.
            if len(more) > MOST_OPERATORS or np.abs(more[:, :9]).max() > _LARGEST_ELEMENT:
                return None
            if len(more) == len(found):
                break
            found = more
        if len(found) == len(rows):
            return self
        return _kept(found[:, :9].reshape(-1, 3, 3).astype(np.float64), found[:, 9:] / (_DENOMINATOR * _FINE))

    @property
    def group_number(self) -> int:
        """Number of the space group type in International Tables, 1 to 230; 0 where it is not found."""
        return self._group[0]

    @property
    def group_symbol(self) -> str:
        """Short Hermann-Mauguin symbol of the space group type, in its standard setting."""
        return self._group[1]

    @cached_property
    def _group(self) -> tuple[int, str]:
        if self.is_identity:
            return 1, "P1"
        closure = self.closure
        if closure is None:
            return 0, "no group"
        rotations = np.rint(closure.rotations).astype(np.intc)
        found = spglib.get_spacegroup_type_from_symmetry(rotations, closure.translations)
        return (int(found.number), str(found.international_short)) if found is not None else (0, "no group")

    def misfit(self, lattice: NDArray[np.float64]) -> float:
        """Give the share of itself by which the operators change the metric of a cell.

        Args:
            lattice: cell vectors as rows, in Å, [3, 3].
        """
        if self.is_identity:
            return 0.0
        metric = (lattice @ lattice.T).ravel()
        return float(np.abs(self._metric_changes @ metric).max(initial=0.0) / np.abs(metric).max())

    @cached_property
    def widenings(self) -> NDArray[np.float64]:
        """Sums of |R| over its rows, each distinct one once: the error of a copy's coordinates, added up, [K, 3]."""
        return np.unique(np.abs(self.rotations).sum(axis=1), axis=0)

    @cached_property
    def _metric_changes(self) -> NDArray[np.float64]:
        """The distinct components of Rᵀ G R - G that are not zero for every G, as rows over the nine of G."""
        rows = np.einsum("oki,olj->oijkl", self.rotations, self.rotations).reshape(-1, 9)
        rows -= np.tile(np.eye(9), (self.n_operators, 1))
        rows = rows.reshape(-1, 3, 3)
        rows = (rows + np.swapaxes(rows, 1, 2)).reshape(-1, 9) / 2  # G is symmetric
        return np.unique(rows[rows.any(axis=1)], axis=0)

    def fits(self, lattice: NDArray[np.float64]) -> bool:
        """Whether the operators leave a cell as it is, within the errors of a measurement."""
        return self.misfit(lattice) <= _METRIC_TOLERANCE


P1: Final = Operators(np.eye(3)[None], np.zeros((1, 3)))


@lru_cache(maxsize=1024)
def parse_operators(listed: tuple[str, ...]) -> Operators:
    """Parse operators such as `-x+1/2,y,z`.

    Args:
        listed: one text for each operator.

    Raises:
        StructureError: `unreadable` if one of the texts is no symmetry operator, or there are too many.
    """
    if len(listed) > MOST_OPERATORS:
        raise StructureError(
            "unreadable",
            f"The file lists {len(listed):,} symmetry operators and no space group has more than {MOST_OPERATORS}: "
            "write the full cell in P 1.",
        )
    # Checked before they are parsed: pymatgen reads a letter that it does not know as nothing, and takes a time that
    # grows with the cube of a run of digits.
    for one in listed:
        if not _is_written(one):
            raise StructureError(
                "unreadable",
                f"The symmetry operator {one[:30]!r} of the file is not one: write it as x,y,z, such as -x+1/2,y,z.",
            )
    rows = [_row(component) for one in listed for component in one.split(",")]
    affine = np.array(rows).reshape(len(listed), 3, 4)
    if not (is_sound := _are_symmetries(affine)).all():
        wrong = listed[int(is_sound.argmin())]
        raise StructureError(
            "unreadable",
            f"The symmetry operator {wrong[:30]!r} of the file is none, since it does not turn a cell onto itself: "
            "correct it, or list the full cell in P 1.",
        )
    return _kept(affine[:, :, :3].copy(), affine[:, :, 3].copy())


def are_written(listed: tuple[str, ...]) -> bool:
    """Whether each of a list is written as an operator, be it a symmetry or not, and there are not too many.

    Args:
        listed: one text for each operator.
    """
    return len(listed) <= MOST_OPERATORS and all(map(_is_written, listed))


def _is_written(text: str) -> bool:
    return len(text) <= _LONGEST_OPERATOR and _OPERATOR.fullmatch(text) is not None


def of_gemmi(group: gemmi.GroupOps) -> Operators:
    """Convert the operators of gemmi."""
    operators = list(group)
    rotations = np.array([operator.rot for operator in operators], dtype=np.float64) / _DENOMINATOR
    translations = np.array([operator.tran for operator in operators], dtype=np.float64) / _DENOMINATOR
    return _kept(rotations, translations)


def to_gemmi(operators: Operators) -> gemmi.GroupOps:
    """Convert the operators of a group for gemmi, translations to the nearest 24th."""
    group = []
    for row in sorted(operators.key):
        one = gemmi.Op("x,y,z")
        one.rot = [[_DENOMINATOR * value for value in row[start : start + 3]] for start in (0, 3, 6)]
        one.tran = [round(value / _FINE) for value in row[9:]]
        group.append(one)
    return gemmi.GroupOps(group)


@lru_cache(maxsize=4096)
def _row(component: str) -> tuple[float, float, float, float]:
    """One third of an operator, such as `-x+1/2`: the row of the rotation, and the translation."""
    operator = SymmOp.from_xyz_str(f"{component},y,z")
    x, y, z = operator.rotation_matrix[0].tolist()
    return x, y, z, float(operator.translation_vector[0])


def _are_symmetries(affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each operator is of whole numbers and, as all that keep a lattice do, the identity after twelve times.

    Args:
        affine: rotations and translations, [O, 3, 4].
    """
    is_whole = np.isfinite(affine).all(axis=(1, 2)) & (affine[:, :, :3] == np.rint(affine[:, :, :3])).all(axis=(1, 2))
    rotations = np.where(is_whole[:, None, None], affine[:, :, :3], 0.0)
    turned: NDArray[np.bool_] = (np.linalg.matrix_power(rotations, 12) == np.eye(3)).all(axis=(1, 2))
    return turned


def _kept(rotations: NDArray[np.float64], translations: NDArray[np.float64]) -> Operators:
    if np.array_equal(rotations, P1.rotations) and not translations.any():
        return P1
    # They are kept for the next file with the same operators.
    rotations.setflags(write=False)
    translations.setflags(write=False)
    return Operators(rotations, translations)


def _composed(some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every operator of one list after every operator of another; rows of nine rotation elements and three steps."""
    rotations, steps = some[:, :9].reshape(-1, 1, 3, 3), some[:, None, 9:]
    products = rotations @ others[:, :9].reshape(1, -1, 3, 3)
    moved = (rotations @ others[None, :, 9:, None])[..., 0] + steps
    moved %= _DENOMINATOR * _FINE
    composed = np.concatenate([products.reshape(-1, 9), moved.reshape(-1, 3)], axis=1)
    return _in_order(composed)


def _in_order(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distinct rows in one order, by an integer for each: found faster than those of twelve columns."""
    codes = (rows[:, :9] + 2) @ 5 ** np.arange(9) * _DENOMINATOR**3
    codes += rows[:, 9:] // _FINE @ _DENOMINATOR ** np.arange(3)
    return np.asarray(rows[np.unique(codes, return_index=True)[1]])


def _is_closed(rows: NDArray[np.int64]) -> bool:
    """Whether operators with uncommon translations are a group, within the rounding of their decimals."""
    rotations, steps = rows[:, :9].reshape(-1, 3, 3), rows[:, 9:]
    period = _DENOMINATOR * _FINE
    for rotation, step in zip(rotations, steps, strict=True):
        products, moved = rotation @ rotations, steps @ rotation.T + step
        same = (products[:, None] == rotations[None]).all(axis=(2, 3))  # [O, O]
        between = moved[:, None] - steps[None]
        apart = np.abs(between - period * np.rint(between / period)).max(axis=-1)
        if not (same & (apart <= _TRANSLATION_TOLERANCE * period)).any(axis=1).all():
            return False
    return True
