"""Small, well-formed files without a sound crystal: a naive reader accepts them, and a later stage fails.

The magnetic key is refused by its name; its value is irrelevant.
"""

from typing import Final

from fuzz.corpus.builders import Rows, cif, distinct_operators, poscar


def _with_occupancy(sites: str) -> str:
    return cif(atoms=sites).replace("_atom_site_fract_z\n", "_atom_site_fract_z\n_atom_site_occupancy\n")


def _arrays(cell: str = "[[5,0,0],[0,5,0],[0,0,5]]", species: str = '"Fe"', coords: str = "[0,0,0]") -> str:
    return f'{{"lattice":{cell},"species":[{species}],"frac_coords":[{coords}]}}'


def _sites(count: int) -> str:
    return "".join(f"Fe{index} 0.{index:03d} 0 0\n" for index in range(count))


PLAUSIBLE: Final[Rows] = {
    "a magnetic key": ("magnetic_cif", lambda: cif(extra="_space_group_magn.transform_BNS_Pp_abc 'a,b,c;0,0,0'\n")),
    "a magnetic moment": ("magnetic_cif", lambda: cif(extra="loop_\n_atom_site_moment.label\nFe1\n")),
    "977 operators x 20 sites": ("unreadable", lambda: cif(extra=distinct_operators(977), atoms=_sites(20))),
    "a cell of nan": ("bad_cell", lambda: cif(a="nan")),
    "a cell of inf": ("bad_cell", lambda: cif(a="inf")),
    "a cell of 0.01 Å": ("bad_cell", lambda: cif(a="0.01")),
    "a coordinate of nan": ("unreadable", lambda: cif(atoms="Fe1 nan 0 0\n")),
    "a coordinate of inf": ("unreadable", lambda: cif(atoms="Fe1 inf 0 0\n")),
    "two atoms on one site": ("overlapping_atoms", lambda: cif(atoms="Fe1 0 0 0\nNi1 0 0 1\n")),
    "a dummy": ("unknown_element", lambda: cif(atoms="Fe1 0 0 0\nDum1 0.5 0.5 0.5\n")),
    "an X": ("unknown_element", lambda: cif(atoms="X1 0 0 0\n")),
    "half an atom": ("disordered", lambda: _with_occupancy("Fe1 0 0 0 0.5\n")),
    "an atom of two kinds": ("disordered", lambda: _with_occupancy("Fe1 0 0 0 0.5\nNi1 0 0 0 0.5\n")),
    "a second data block": ("answered", lambda: cif() + cif(a="6").replace("data_x", "data_y")),
    "POSCAR: a cell of 0.01 Å": ("bad_cell", lambda: poscar(scale="1", cell="0.01 0 0\n0 0.01 0\n0 0 0.01")),
    "POSCAR: a scale of 1e-3": ("bad_cell", lambda: poscar(scale="1e-3")),
    "POSCAR: a cell of nan": ("bad_cell", lambda: poscar(cell="nan 0 0\n0 1 0\n0 0 1")),
    "POSCAR: a cell of inf": ("bad_cell", lambda: poscar(cell="inf 0 0\n0 1 0\n0 0 1")),
    "POSCAR: two atoms on one site": ("overlapping_atoms", lambda: poscar(count="2", coords="0 0 0\n0 0 1\n")),
    "POSCAR: a dummy": ("unknown_element", lambda: poscar(sym="X")),
    "extxyz: a cell of nan": ("bad_cell", lambda: '1\nLattice="nan 0 0 0 5 0 0 0 5" pbc="T T T"\nFe 0 0 0'),
    "extxyz: a position of nan": ("bad_cell", lambda: '1\nLattice="5 0 0 0 5 0 0 0 5" pbc="T T T"\nFe nan 0 0'),
    "extxyz: a dummy": ("unknown_element", lambda: '1\nLattice="5 0 0 0 5 0 0 0 5" pbc="T T T"\nX 0 0 0'),
    "JSON: a cell of 0.01 Å": ("bad_cell", lambda: _arrays("[[0.01,0,0],[0,0.01,0],[0,0,0.01]]")),
    "JSON: a cell of inf": ("bad_cell", lambda: _arrays("[[Infinity,0,0],[0,5,0],[0,0,5]]")),
    "JSON: zero volume": ("bad_cell", lambda: _arrays("[[5,0,0],[5,0,0],[0,0,5]]")),
    "JSON: a coordinate of nan": ("bad_cell", lambda: _arrays(coords="[NaN,0,0]")),
    "JSON: two atoms on one site": (
        "overlapping_atoms",
        lambda: _arrays(species='"Fe","Fe"', coords="[0,0,0],[0,0,1]"),
    ),
    "JSON: a dummy": ("unknown_element", lambda: _arrays(species='"X"')),
}
