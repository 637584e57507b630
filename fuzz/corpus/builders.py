"""Builders of the files of the corpus."""

from collections.abc import Callable
from itertools import islice, permutations, product
from typing import Literal

from deepergatgnn.errors import StructureErrorCode

Ending = Literal["answered"] | StructureErrorCode
# Expected ending, and a function that builds the file: some have megabytes.
Rows = dict[str, tuple[Ending, Callable[[], str | bytes]]]


def cif(
    a: str = "5", al: str = "90", be: str = "90", ga: str = "90", extra: str = "", atoms: str = "Fe1 0 0 0\n"
) -> str:
    """Build a CIF of one atom with the given parts."""
    return (
        f"data_x\n_cell_length_a {a}\n_cell_length_b 5\n_cell_length_c 5\n_cell_angle_alpha {al}\n"
        f"_cell_angle_beta {be}\n_cell_angle_gamma {ga}\n{extra}loop_\n_atom_site_label\n_atom_site_fract_x\n"
        f"_atom_site_fract_y\n_atom_site_fract_z\n{atoms}"
    )


def operators(count: int) -> str:
    """A loop of as many symmetry operators."""
    return "loop_\n_symmetry_equiv_pos_as_xyz\n" + "".join(f"'x+{i}/{count},y,z'\n" for i in range(count))


def poscar(
    scale: str = "5",
    count: str = "1",
    cell: str = "1 0 0\n0 1 0\n0 0 1",
    sym: str = "Fe",
    mode: str = "Direct",
    coords: str = "0 0 0\n",
    c: str = "x",
) -> str:
    """Build a POSCAR of one atom with the given parts."""
    return f"{c}\n{scale}\n{cell}\n{sym}\n{count}\n{mode}\n{coords}"


def distinct_operators(count: int) -> str:
    """Build a loop of `count` different operators that resemble those of space groups."""
    shifts = product(("", "+1/2", "+1/3", "+2/3", "+1/4", "+3/4"), repeat=3)
    turns = [
        [f"{sign}{axis}" for sign, axis in zip(signs, axes, strict=True)]
        for axes in permutations("xyz")
        for signs in product(("", "-"), repeat=3)
    ]
    texts = (",".join(map("".join, zip(turn, shift, strict=True))) for shift in shifts for turn in turns)
    return "loop_\n_symmetry_equiv_pos_as_xyz\n" + "".join(f"'{one}'\n" for one in islice(texts, count))
