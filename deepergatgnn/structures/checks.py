"""Checks of a crystal: finite values, plausible cell and density, no overlapping atoms."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.lattice import Lattice
from pymatgen.optimization.neighbors import find_points_in_spheres

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.elements import SYMBOLS
from deepergatgnn.structures.limits import StructureLimits

# Volume over the product of the lengths; the primitive cell of a CdI₂ polytype, 131 Å long and 4 Å wide, has 8e-4.
_FLATTEST: Final = 1e-6
# Beyond a million cells a float64 no longer places an atom to better than 1e-10 of the cell.
_FARTHEST: Final = 1e6
_SURELY: Final = 1 + 1e-6  # what passes by this factor passes whatever the rounding
# Rows of the distance matrix at a time: 256 by 2000 atoms, three float64 each, are 12 MB.
_CHUNK: Final = 256
_REACH: Final = 8.0  # Å; as far as a model looks for neighbours
_NEAR: Final = 2.0  # Å; in which their density is measured
_UNEVEN: Final = 1.5  # times the pairs of an even distribution
_MOST_NEIGHBOURS: Final = 20_000  # within 8 Å, of spheres of 0.5 Å in their densest packing
_SAME_SITE: Final = 1e-8  # Å
_PERIODIC: Final = np.ones(3, dtype=np.int64)


def check_lattice(lattice: NDArray[np.float64], limits: StructureLimits) -> None:
    """Refuse a cell that is not finite, is flat, or has an implausible size.

    Args:
        lattice: cell vectors as rows, in Å, [3, 3].
        limits: bounds that the structure must keep.

    Raises:
        StructureError: `bad_cell`.
    """
    if _is_plainly_sound(lattice, limits):
        return
    if not np.isfinite(lattice).all():
        raise StructureError("bad_cell", "The cell holds a value that is not a finite number: give all vectors in Å.")
    lengths = np.linalg.norm(lattice, axis=1).tolist()
    for name, length in zip("abc", lengths, strict=True):
        if not limits.min_period <= length <= limits.max_length:
            raise StructureError(
                "bad_cell",
                f"The cell vector {name} is {length:.4g} Å long, outside {limits.min_period:g} to "
                f"{limits.max_length:g} Å: check the units and the scale.",
            )
    volume = abs(np.linalg.det(lattice))
    if volume < _FLATTEST * math.prod(lengths):
        raise StructureError(
            "bad_cell", f"The cell is flat, its volume is {volume:.3g} Å³: check its angles or vectors."
        )
    shortest = _shortest_period(_reduced(lattice))
    if shortest < limits.min_period:
        raise StructureError(
            "bad_cell",
            f"The cell repeats every {shortest:.3g} Å, less than {limits.min_period:g} Å: check its vectors.",
        )


def check_arrays(
    lattice: NDArray[np.float64],
    atomic_numbers: NDArray[np.int64],
    frac_coords: NDArray[np.float64],
    limits: StructureLimits,
    places: Callable[[], Sequence[str]] | None = None,
) -> None:
    """Refuse coordinates that are not finite, an implausible density, and overlapping atoms.

    Args:
        lattice: a cell that passed `check_lattice`, [3, 3].
        atomic_numbers: [N].
        frac_coords: [N, 3].
        limits: bounds that the structure must keep.
        places: returns the names of the atoms in the file, for messages; by default their numbers from 1.

    Raises:
        StructureError: `bad_cell`, `unknown_element`, `too_many_atoms`, `too_dense`, `too_sparse` or
            `overlapping_atoms`, or `too_many_edges` for atoms that are crowded in a part of the cell.
    """
    count = len(atomic_numbers)
    if count > limits.max_atoms:
        raise StructureError(
            "too_many_atoms",
            f"The cell has {count:,} atoms and the limit is {limits.max_atoms:,}: post a smaller cell.",
        )
    numbers = atomic_numbers.tolist()  # a list has its extremes faster than a short array
    if not 1 <= min(numbers) <= max(numbers) < len(SYMBOLS):
        index = np.flatnonzero((atomic_numbers < 1) | (atomic_numbers >= len(SYMBOLS)))[0]
        raise StructureError(
            "unknown_element", f"Atom {index + 1} has the atomic number {atomic_numbers[index]}: give 1 to 118."
        )
    if not np.abs(frac_coords).max() < _FARTHEST:  # nor is nan
        index = np.flatnonzero(~(np.abs(frac_coords) < _FARTHEST).all(axis=1))[0]
        raise StructureError(
            "bad_cell", f"A coordinate of atom {index + 1} is not a number, or far outside the cell: correct it."
        )
    volume, spacings = _volume_and_spacings(lattice.tolist())
    if not _SURELY * limits.min_volume_per_atom < volume / count < limits.max_volume_per_atom / _SURELY:
        _check_density(lattice, count, limits)
    # In a thinner cell other images than those with all differences within half a cell could be closer.
    is_thick = min(spacings) >= _SURELY * 2 * limits.min_distance
    if not (is_thick and _surely_apart(lattice, frac_coords, limits.min_distance)):
        _check_distances(lattice, atomic_numbers, frac_coords, limits, places)
    if count * _MOST_NEIGHBOURS > limits.max_pairs:
        _check_crowding(lattice, frac_coords, limits)


def _check_distances(
    lattice: NDArray[np.float64],
    atomic_numbers: NDArray[np.int64],
    frac_coords: NDArray[np.float64],
    limits: StructureLimits,
    places: Callable[[], Sequence[str]] | None,
) -> None:
    if pair := _closest_pair(lattice, frac_coords, limits.min_distance):
        first, second, distance = pair
        one, two = (
            places()[index] if places else f"{index + 1} ({SYMBOLS[atomic_numbers[index]]})"
            for index in (first, second)
        )
        raise StructureError(
            "overlapping_atoms",
            f"The atoms {one} and {two} are {distance:.3f} Å apart, less than {limits.min_distance:g} Å: "
            "remove one or correct the coordinates.",
        )


def _check_density(lattice: NDArray[np.float64], count: int, limits: StructureLimits) -> None:
    per_atom = float(abs(np.linalg.det(lattice))) / count
    if per_atom < limits.min_volume_per_atom:
        raise StructureError(
            "too_dense",
            f"There are {per_atom:.3g} Å³ for each atom, less than {limits.min_volume_per_atom:g}: "
            "check the cell, its units and the number of atoms.",
        )
    if per_atom > limits.max_volume_per_atom:
        raise StructureError(
            "too_sparse",
            f"There are {per_atom:.4g} Å³ for each atom, more than {limits.max_volume_per_atom:g}: "
            "check the cell, its units and that no atoms are missing.",
        )


def _check_crowding(lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], limits: StructureLimits) -> None:
    """Foretell the pairs that a search for neighbours would list, and refuse a crowd in an otherwise empty cell.

    Where atoms are spread evenly that search stays near to each atom; in a crowd it must go all the way, for the
    sake of the lonely ones. The density around each atom is taken from a sphere that is quickly counted.
    """
    count = len(frac_coords)
    positions = np.ascontiguousarray((frac_coords % 1.0) @ lattice)
    cell = np.ascontiguousarray(lattice)
    near = len(find_points_in_spheres(positions, positions, r=_NEAR, pbc=_PERIODIC, lattice=cell, tol=_SAME_SITE)[0])
    pairs = near * round((_REACH / _NEAR) ** 3)  # each atom is near itself, too
    even = count**2 * 4 / 3 * math.pi * _REACH**3 / float(abs(np.linalg.det(lattice)))
    if pairs > max(limits.max_pairs, _UNEVEN * even):
        raise StructureError(
            "too_many_edges",
            f"The atoms crowd in one part of the cell, about {pairs:,} pairs of them are within {_REACH:g} Å and the "
            f"limit is {limits.max_pairs:,}: post a smaller cell, or one with less empty space.",
        )


def _surely_apart(lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], min_distance: float) -> bool:
    """Whether in a thick cell it is plain that no two atoms are nearer than `min_distance`, without reducing it."""
    nearest = (_SURELY * min_distance) ** 2
    coords = np.ascontiguousarray(frac_coords.T)  # numpy is fastest along the last axis
    for start in range(0, len(frac_coords), _CHUNK):
        rows = coords[:, start : start + _CHUNK, None]
        between = coords[:, None, :] - rows  # [3, chunk, N]
        between -= np.rint(between)
        x, y, z = np.square(lattice.T @ between.reshape(3, -1))
        # Each atom is near itself.
        if np.count_nonzero(x + y + z < nearest) > rows.shape[1]:
            return False
    return True


def _closest_pair(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], min_distance: float
) -> tuple[int, int, float] | None:
    """Find two atoms nearer than `min_distance`, periodic images included: both indices and the distance in Å."""
    reduced = _reduced(lattice)
    coords = frac_coords @ lattice @ np.linalg.inv(reduced)
    # Two atoms closer than half of every spacing of lattice planes meet in the image with all differences within
    # half a cell; only in a thinner cell the images next to it could be closer.
    reach = [1 if spacing < 2 * min_distance else 0 for spacing in _spacings(reduced)]
    images = np.array(list(product(*(range(-steps, steps + 1) for steps in reach))))
    for start in range(0, len(coords), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(coords)))
        between = coords[None, :, :] - coords[rows, None, :]  # [chunk, N, 3]
        between -= np.round(between)
        for image in images:
            squared = np.square((between + image) @ reduced).sum(axis=-1)  # [chunk, N]
            # The distance of an atom from its own images is a period, which `check_lattice` has seen.
            squared[rows - start, rows] = np.inf
            first, second = np.unravel_index(int(squared.argmin()), squared.shape)
            if squared[first, second] < min_distance**2:
                return start + int(first), int(second), float(np.sqrt(squared[first, second]))
    return None


def _is_plainly_sound(lattice: NDArray[np.float64], limits: StructureLimits) -> bool:
    """Whether a cell passes by more than rounding; what is not finite has no volume that does."""
    rows = lattice.tolist()
    lengths = [math.hypot(*row) for row in rows]
    volume, spacings = _volume_and_spacings(rows)
    return (
        # Every period crosses at least one spacing of lattice planes, the vectors too.
        min(spacings) > _SURELY * limits.min_period
        and max(lengths) * _SURELY <= limits.max_length
        and volume > _SURELY * _FLATTEST * math.prod(lengths)
    )


def _spacings(lattice: NDArray[np.float64]) -> list[float]:
    """Distances of neighbouring lattice planes along the three vectors, in Å."""
    return _volume_and_spacings(lattice.tolist())[1]


def _volume_and_spacings(rows: list[list[float]]) -> tuple[float, list[float]]:
    """The volume of a cell, too; of nine numbers, which plain floats handle faster than arrays."""
    a, b, c = rows
    faces = [_cross(b, c), _cross(c, a), _cross(a, b)]
    (x, y, z), (u, v, w) = a, faces[0]
    volume = abs(x * u + y * v + z * w)
    return volume, [volume / area if (area := math.hypot(*face)) else 0.0 for face in faces]


def _cross(one: list[float], other: list[float]) -> list[float]:
    (x, y, z), (u, v, w) = one, other
    return [y * w - z * v, z * u - x * w, x * v - y * u]


def _reduced(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(Lattice(lattice).get_lll_reduced_lattice().matrix, dtype=np.float64)


def _shortest_period(reduced: NDArray[np.float64]) -> float:
    steps = np.array([step for step in product((-1, 0, 1), repeat=3) if any(step)])
    return float(np.linalg.norm(steps @ reduced, axis=1).min())
