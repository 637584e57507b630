"""The symmetry copies of the sites of a CIF."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.structures.cif.operators import Operators
from deepergatgnn.structures.crystal import too_many_atoms
from deepergatgnn.structures.limits import StructureLimits

# Fractional. Copies of one site this close are one atom on a special position: coordinates of four digits put them up
# to 3e-4 apart, which pymatgen's 1e-4 would leave as two atoms.
_SITE_TOLERANCE: Final = 1e-3
_EXACT: Final = 1e-4  # fractional; a merger over more than this is worth a warning
_CLOSEST: Final = 0.5  # Å; copies that are farther apart are two atoms, whatever the digits
_THIRD_TOLERANCE: Final = 1e-4  # of the value; pymatgen's `frac_tolerance`
# Copies in the same of 100,000 cells along each axis are the same atom. Decimals do not fall on the shifted borders.
_GRID: Final = 100_000
_GRID_SHIFT: Final = 0.0043
_MARGIN: Final = 2 / _GRID
_CHUNK: Final = 512  # copies that are compared at a time, if they are of several sites


@dataclass(frozen=True)
class Copies:
    """The atoms that symmetry makes of sites, copies of a site together.

    Attributes:
        frac_coords: in the order of the sites, then of the operators, [N, 3]; inside of the cell but for the sites
            themselves, which stay where the file has them.
        counts: atoms of each site.
        merged: sites with copies that were merged and are near but not the same.
    """

    frac_coords: NDArray[np.float64]
    counts: list[int]
    merged: list[int]


def ideal_positions(posted: NDArray[np.float64], operators: Operators, said: list[str]) -> NDArray[np.float64]:
    """Round coordinates such as 0.3333 to a third, as pymatgen does, where symmetry will be applied.

    Args:
        posted: coordinates of the file, [sites, 3].
        operators: of the file.
        said: warnings are added here.
    """
    if operators.n_operators == 1:
        return posted
    if not any(0.333 < x < 0.334 or 0.666 < x < 0.667 for x in posted.ravel().tolist()):  # noqa: PLR2004 - near a third
        return posted
    ideal = posted.copy()
    for third in (1 / 3, 2 / 3):
        ideal[np.abs(ideal / third - 1) <= _THIRD_TOLERANCE] = third
    if changed := int((np.abs(ideal - posted) > 1e-6).sum()):  # noqa: PLR2004 - the last digit of six is no news
        said.append(f"{changed} coordinates are rounded to exact thirds, to apply the symmetry.")
    return ideal


def expand(
    positions: NDArray[np.float64],
    operators: Operators,
    limits: StructureLimits,
    rounding: NDArray[np.float64] | None = None,
    lattice: NDArray[np.float64] | None = None,
) -> Copies:
    """Make the distinct copies of sites.

    Args:
        positions: fractional coordinates, [sites, 3].
        operators: of the file.
        limits: `max_atoms` is kept while copies are made.
        rounding: by how much each coordinate may be off, [sites, 3]; copies that coincide within that are one atom.
        lattice: cell vectors as rows, in Å, [3, 3], with `rounding`.

    Raises:
        StructureError: `too_many_atoms`.
    """
    if operators.is_identity:
        return Copies(positions, [1] * len(positions), [])
    if rounding is None or lattice is None:
        rounding, lattice = np.zeros_like(positions), np.eye(3)
    step = max(1, _CHUNK // operators.n_operators)
    coords: list[NDArray[np.float64]] = []
    merged: list[int] = []
    n_atoms = 0
    for start in range(0, len(positions), step):
        some = slice(start, start + step)
        of_some = _of_some(positions[some], operators, rounding[some], lattice)
        for site, (copies, is_merged) in enumerate(of_some, start):
            coords.append(copies)
            merged += [site] if is_merged else []
            n_atoms += len(copies)
            if n_atoms > limits.max_atoms:
                raise too_many_atoms(n_atoms, limits)
    return Copies(np.concatenate(coords), [len(copies) for copies in coords], merged)


def _of_some(
    positions: NDArray[np.float64],
    operators: Operators,
    rounding: NDArray[np.float64],
    lattice: NDArray[np.float64],
) -> Iterator[tuple[NDArray[np.float64], bool]]:
    """The copies of each site, and whether near ones were merged; sites without a doubt all at once."""
    rotations, translations = operators.rotations, operators.translations
    # Term by term: a sum of products with 0 and ±1 is then rounded once, whatever the number of sites.
    moved = rotations[:, :, 0] * positions[:, None, None, 0]
    moved += rotations[:, :, 1] * positions[:, None, None, 1]
    moved += rotations[:, :, 2] * positions[:, None, None, 2]
    moved += translations  # [sites, O, 3]
    wrapped = moved - np.floor(moved)
    # Two copies of a rounded site are apart by at most the sum of what either is off.
    reach = np.full(len(positions), _SITE_TOLERANCE)
    if 6 * rounding.max() > _SITE_TOLERANCE:  # two copies, three coordinates each
        reach = np.maximum(2 * (operators.widenings @ rounding.T).max(axis=0), reach)
    first, doubtful = _distinct(wrapped, reach)
    sites = first // operators.n_operators
    distinct = wrapped.reshape(-1, 3)[first]
    offset = moved.reshape(-1, 3)[first] - positions[sites]
    itself = np.abs(offset - np.rint(offset)).max(axis=-1) < _SITE_TOLERANCE
    distinct[itself] = positions[sites[itself]]
    bounds = np.searchsorted(sites, np.arange(len(positions) + 1)).tolist()
    for site, (begin, end) in enumerate(pairwise(bounds)):
        if site in doubtful:
            yield _one_by_one(positions[site], operators, rounding[site], lattice)
        else:
            yield distinct[begin:end], False


def _distinct(wrapped: NDArray[np.float64], reach: NDArray[np.float64]) -> tuple[NDArray[np.int64], set[int]]:
    """Indices of the first of each set of equal copies, [R], and the sites of which some are near but not equal."""
    n_sites, n_operators, _ = wrapped.shape
    cells = np.floor(wrapped * _GRID + _GRID_SHIFT).astype(np.int64) % _GRID
    keys = ((np.arange(n_sites)[:, None] * _GRID + cells[..., 0]) * _GRID + cells[..., 1]) * _GRID + cells[..., 2]
    first = np.sort(np.unique(keys, return_index=True)[1])
    coords, sites = wrapped.reshape(-1, 3)[first], first // n_operators
    axes = np.ascontiguousarray(coords.T)
    between = axes[:, :, None] - axes[:, None, :]  # [3, R, R]
    between -= np.rint(between)
    apart = np.abs(between, out=between).max(axis=0)  # [R, R]
    near = (apart < reach[sites][:, None] + _MARGIN) & (sites[:, None] == sites)
    return first, set(sites[near.sum(axis=1) > 1].tolist())


def _one_by_one(
    position: NDArray[np.float64],
    operators: Operators,
    rounding: NDArray[np.float64],
    lattice: NDArray[np.float64],
) -> tuple[NDArray[np.float64], bool]:
    """The copies of one site that are not near to an earlier one.

    Copies that coincide within the rounding of the digits say that the site is on a special position: it is moved
    there, to the mean of the copies that fall on itself, and copied from there.
    """
    copies = operators.rotations @ position + operators.translations  # [O, 3]
    offset = copies - position
    offset -= np.rint(offset)
    # Of the two copies that are compared, one is the site itself.
    off = np.abs(operators.rotations - np.eye(3)) @ rounding  # [O, 3]
    within = (np.abs(offset) <= off + _MARGIN).all(axis=-1) & (np.linalg.norm(offset @ lattice, axis=-1) < _CLOSEST)
    is_itself = within | (np.abs(offset).max(axis=-1) < _SITE_TOLERANCE)
    merged = bool((np.abs(offset[is_itself]).max(axis=-1) > _EXACT).any())
    if merged:
        position = position + offset[is_itself].mean(axis=0)
        copies = operators.rotations @ position + operators.translations
    between = copies[:, None, :] - copies[None, :, :]
    apart = np.abs(between - np.round(between)).max(axis=-1)  # [O, O]
    kept: list[int] = []
    for index in range(len(copies)):
        if not kept or apart[index, kept].min() >= _SITE_TOLERANCE:
            kept.append(index)
    distinct = copies[kept] - np.floor(copies[kept])
    offset = copies[kept] - position
    distinct[np.abs(offset - np.round(offset)).max(axis=-1) < _SITE_TOLERANCE] = position
    return distinct, merged
