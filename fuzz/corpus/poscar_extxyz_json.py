"""POSCAR, extxyz and JSON files that try to stall the reader or to exhaust memory."""

from typing import Final

from fuzz.corpus.builders import Rows, poscar

OTHERS: Final[Rows] = {
    "POSCAR: 1e9": ("too_many_atoms", lambda: poscar(count="1000000000")),
    "POSCAR: digits": ("unreadable", lambda: poscar(count="9" * 100000)),
    "POSCAR: neg vol tiny": ("bad_cell", lambda: poscar(scale="-1e-9")),
    "POSCAR: neg vol huge": ("bad_cell", lambda: poscar(scale="-1e300")),
    "POSCAR: scale 0": ("bad_cell", lambda: poscar(scale="0")),
    "POSCAR: -0": ("bad_cell", lambda: poscar(scale="-0.0")),
    "POSCAR: inf": ("bad_cell", lambda: poscar(scale="inf")),
    "POSCAR: -inf": ("bad_cell", lambda: poscar(scale="-inf")),
    "POSCAR: -nan": ("bad_cell", lambda: poscar(scale="-nan")),
    "POSCAR: 1e308": ("bad_cell", lambda: poscar(scale="1e308")),
    "POSCAR: 1e-308": ("bad_cell", lambda: poscar(scale="1e-308")),
    "POSCAR: scale 3": ("answered", lambda: poscar(scale="1 2 3")),
    "POSCAR: left": ("answered", lambda: poscar(cell="1 0 0\n0 0 1\n0 1 0")),
    "POSCAR: flat": ("bad_cell", lambda: poscar(cell="1 0 0\n1 0 0\n0 0 1")),
    "POSCAR: neg scale flat": ("bad_cell", lambda: poscar(scale="-100", cell="1 0 0\n1 0 0\n0 0 1")),
    "POSCAR: digits scale": ("bad_cell", lambda: poscar(scale="9" * 100000)),
    "POSCAR: counts": ("unreadable", lambda: poscar(count="1 " * 1900000, sym="Fe " * 10)),
    "POSCAR: counts0": ("unreadable", lambda: poscar(count="0 " * 1900000)),
    "POSCAR: syms": ("unreadable", lambda: poscar(sym="Fe " * 1200000)),
    "POSCAR: lines": ("unreadable", lambda: poscar(coords="0 0 0\n" * 600000)),
    "POSCAR: comment": ("answered", lambda: poscar(c="x" * 3900000)),
    "POSCAR: comment els": ("unreadable", lambda: poscar(c="Fe " * 1300000, sym="")),
    "POSCAR: coords digits": ("answered", lambda: poscar(coords="0." + "3" * 3900000 + " 0 0\n")),
    "POSCAR: 1e99999999": ("bad_cell", lambda: poscar(coords="1e99999999 0 0\n")),
    "POSCAR: nan": ("bad_cell", lambda: poscar(coords="nan 0 0\n")),
    "POSCAR: velocities": ("answered", lambda: poscar(coords="0 0 0\n\n" + "0 0 0\n" * 600000)),
    "POSCAR: cart 1e308": ("bad_cell", lambda: poscar(mode="Cartesian", coords="1e308 1e308 1e308\n")),
    "POSCAR: superscript": ("unreadable", lambda: poscar(count="²")),
    "POSCAR: arabic": ("unreadable", lambda: poscar(count="٣")),
    "POSCAR: blank": ("unreadable", lambda: "x\n5\n" + "\n" * 3900000),
    "POSCAR: spaces": ("unreadable", lambda: poscar(sym=" " * 3900000)),
    "POSCAR: selective": ("unreadable", lambda: poscar(mode="S" * 1000000)),
    "POSCAR: 1e4 words": ("answered", lambda: poscar(coords="0 0 0 " + "T " * 1900000 + "\n")),
    "extxyz of pairs": ("answered", lambda: '1\nLattice="5 0 0 0 5 0 0 0 5" ' + "a=" * 1900000 + "\nFe 0 0 0"),
    "extxyz: quotes": ("unreadable", lambda: "1\n" + 'a="' * 1000000 + "\nFe 0 0 0"),
    "extxyz: props": (
        "unreadable",
        lambda: '1\nLattice="5 0 0 0 5 0 0 0 5" Properties=' + "species:S:1:" * 300000 + "pos:R:3\nFe 0 0 0",
    ),
    "extxyz: spaces": ("no_structure", lambda: "1\n" + "a" + " " * 3900000 + "\nFe 0 0 0"),
    "extxyz: a_spaces": ("no_structure", lambda: "1\n" + ("a" + " " * 1000) * 3900 + "\nFe 0 0 0"),
    "extxyz: lattice": ("bad_cell", lambda: '1\nLattice="' + "1 " * 1900000 + '"\nFe 0 0 0'),
    "extxyz: neg width": (
        "unreadable",
        lambda: '1\nLattice="5 0 0 0 5 0 0 0 5" Properties=species:S:-1:pos:R:3\nFe 0 0 0',
    ),
    "extxyz: 0": ("no_structure", lambda: '0\nLattice="5 0 0 0 5 0 0 0 5"\n'),
    "extxyz: dashes": ("no_structure", lambda: "1\n" + "a-" * 1900000 + "\nFe 0 0 0"),
    "JSON: deep": ("unreadable", lambda: "[" * 4000000),
    "JSON: deep obj": ("unreadable", lambda: '{"a":' * 700000),
    "JSON: deep data": ("no_structure", lambda: '{"data":' * 900 + "{}" + "}" * 900),
    "JSON: digits": ("unreadable", lambda: '{"frac_coords": ' + "9" * 3900000 + "}"),
    "JSON: 1e400": (
        "bad_cell",
        lambda: '{"lattice":[[1e400,0,0],[0,1,0],[0,0,1]],"species":["Fe"],"frac_coords":[[0,0,0]]}',
    ),
    "JSON: nan": (
        "bad_cell",
        lambda: '{"lattice":[[NaN,0,0],[0,1,0],[0,0,1]],"species":["Fe"],"frac_coords":[[0,0,0]]}',
    ),
    "JSON: keys": ("no_structure", lambda: "{" + ",".join(f'"k{i}":0' for i in range(300000)) + "}"),
    "JSON: dup": ("no_structure", lambda: "{" + '"sites":[],' * 300000 + '"sites":[]}'),
    "JSON: ragged": ("bad_cell", lambda: '{"lattice":[[1,0],[0]],"species":["Fe"],"frac_coords":[[0,0,0]]}'),
    "JSON: wide": (
        "unreadable",
        lambda: (
            '{"lattice":[[5,0,0],[0,5,0],[0,0,5]],"species":["Fe"],"frac_coords":[' + "[" * 60 + "1" + "]" * 60 + "]}"
        ),
    ),
    "JSON: big coords": (
        "unreadable",
        lambda: '{"lattice":[[5,0,0],[0,5,0],[0,0,5]],"species":["Fe"],"frac_coords":[' + "1," * 1900000 + "1]}",
    ),
    "JSON: str lattice": (
        "bad_cell",
        lambda: '{"lattice":"' + "x" * 3900000 + '","species":["Fe"],"frac_coords":[[0,0,0]]}',
    ),
    "JSON: species big": (
        "too_many_atoms",
        lambda: (
            '{"lattice":[[5,0,0],[0,5,0],[0,0,5]],"species":[' + '"Fe",' * 600000 + '"Fe"],"frac_coords":[[0,0,0]]}'
        ),
    ),
    "JSON: sites": ("too_many_atoms", lambda: '{"sites":[' + "{}," * 1000000 + '{}],"lattice":{}}'),
    "JSON: bool coords": (
        "bad_cell",
        lambda: '{"lattice":[[5,0,0],[0,5,0],[0,0,5]],"species":["Fe"],"frac_coords":[[true,false,null]]}',
    ),
    "JSON: species of site": (
        "disordered",
        lambda: (
            '{"lattice":{"matrix":[[5,0,0],[0,5,0],[0,0,5]]},"sites":[{"species":['
            + '{"element":"Fe","occu":0.001},' * 130000
            + '{"element":"Fe","occu":0.1}],"abc":[0,0,0]}]}'
        ),
    ),
    "JSON: occu nan": (
        "disordered",
        lambda: (
            '{"lattice":{"matrix":[[5,0,0],[0,5,0],[0,0,5]]},"sites":[{"species":[{"element":"Fe","occu":NaN}],"abc":[0,0,0]}]}'
        ),
    ),
    "JSON: optimade species": (
        "too_many_atoms",
        lambda: (
            '{"lattice_vectors":[[5,0,0],[0,5,0],[0,0,5]],"cartesian_site_positions":[[0,0,0]],"species_at_sites":['
            + '"Fe",' * 600000
            + '"Fe"]}'
        ),
    ),
    "JSON: types": (
        "no_structure",
        lambda: (
            '{"lattice_vectors":[[5,0,0],[0,5,0],[0,0,5]],"cartesian_site_positions":[[0,0,0]],"species_at_sites":["Fe"],"dimension_types":['
            + "1," * 1000000
            + "1]}"
        ),
    ),
    "JSON: nperiodic": (
        "no_structure",
        lambda: (
            '{"lattice_vectors":[[5,0,0],[0,5,0],[0,0,5]],"cartesian_site_positions":[[0,0,0]],"species_at_sites":["Fe"],"nperiodic_dimensions":"'
            + "x" * 100000
            + '"}'
        ),
    ),
}
