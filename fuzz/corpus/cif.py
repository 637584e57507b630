"""CIF files, and texts that are not CIF, that try to stall the reader or to exhaust memory."""

import json
from typing import Final

from fuzz.corpus.builders import Rows, cif, operators

CIFS: Final[Rows] = {
    "10^6 data blocks": ("unreadable", lambda: "data_x\n" * 500000),
    "9000 structure blocks": ("answered", lambda: "".join(cif() for _ in range(9000))[:4000000]),
    "huge loop": ("answered", lambda: cif() + "loop_\n_a\n_b\n" + "1 2\n" * 900000),
    "huge loop of one line": ("answered", lambda: cif() + "loop_\n_a\n" + "1 " * 1900000),
    "huge atom loop": ("too_many_atoms", lambda: cif(atoms="Fe1 0 0 0\n" * 390000)),
    "loop with 100k keys": ("unreadable", lambda: cif() + "loop_\n" + "".join(f"_k{i}\n" for i in range(300000))),
    "quote never closed": ("answered", lambda: cif() + "_t '" + "x" * 3900000),
    "quotes never closed each line": ("unreadable", lambda: cif() + "'x\n" * 1300000),
    "text field never closed": ("unreadable", lambda: cif() + ";\n" + "abc\n" * 900000),
    "many text fields": ("unreadable", lambda: cif() + "_t\n;\nx\n;\n" * 400000),
    "triple quotes": ("unreadable", lambda: "#\\#CIF_2.0\n" + cif() + "_t '''" + "x\n" * 1900000),
    "single quotes only": ("unreadable", lambda: cif() + "'" * 3900000),
    "double quotes lines": ("unreadable", lambda: cif() + '"\n' * 1900000),
    "alternating quotes": ("unreadable", lambda: cif() + "'\"" * 1900000),
    "nul in cif": ("unreadable", lambda: cif().replace("Fe1", "Fe\x00")),
    "utf16": ("answered", lambda: cif().encode("utf-16")),
    "utf16be": ("unreadable", lambda: cif().encode("utf-16-be")),
    "utf32": ("unreadable", lambda: cif().encode("utf-32")),
    "utf16 odd": ("unreadable", lambda: cif().encode("utf-16")[:-1]),
    "surrogates": ("unreadable", lambda: cif(extra="_t \ud800\udc00\n")),
    "lone surrogate label": ("unreadable", lambda: cif(atoms="\ud800 0 0 0\n")),
    "surrogate json": ("unreadable", lambda: '{"sites":"\\ud800"}'),
    "surrogate element": (
        "unknown_element",
        lambda: json.dumps(
            {"lattice": [[5, 0, 0], [0, 5, 0], [0, 0, 5]], "species": ["\ud800"], "frac_coords": [[0, 0, 0]]}
        ),
    ),
    "cell digits": ("bad_cell", lambda: cif(a="9" * 100000)),
    "cell digits frac": ("answered", lambda: cif(a="5." + "1" * 3900000)),
    "coord digits": ("answered", lambda: cif(atoms="Fe1 0." + "3" * 3900000 + " 0 0\n")),
    "a cell of 1e308 Å": ("bad_cell", lambda: cif(a="1e308")),
    "a cell of 1e-308 Å": ("bad_cell", lambda: cif(a="1e-308")),
    "a cell of 1e99999999 Å": ("bad_cell", lambda: cif(a="1e99999999")),
    "a coordinate of 1e99999999": ("unreadable", lambda: cif(atoms="Fe1 1e99999999 0 0\n")),
    "a coordinate of 1e308": ("bad_cell", lambda: cif(atoms="Fe1 1e308 0 0\n")),
    "three coordinates of 1e308": ("bad_cell", lambda: cif(atoms="Fe1 1e308 1e308 1e308\n")),
    "denormal": ("answered", lambda: cif(atoms="Fe1 1e-308 5e-324 0\n")),
    "10^5 ops": ("unreadable", lambda: cif(extra=operators(100000))),
    "200 ops": ("unreadable", lambda: cif(extra=operators(200))),
    "192 same ops": (
        "too_dense",
        lambda: cif(
            extra="loop_\n_symmetry_equiv_pos_as_xyz\n" + "x,y,z\n" * 192,
            atoms="".join(f"Fe{i} 0.{i:04d} 0 0\n" for i in range(400)),
        ),
    ),
    "192 ops x 2000": (
        "too_many_atoms",
        lambda: cif(a="900", extra=operators(192), atoms="".join(f"Fe{i} 0.{i:04d} 0.5 0\n" for i in range(1999))),
    ),
    "singular op": ("unreadable", lambda: cif(extra="_symmetry_equiv_pos_as_xyz 'x,x,x'\n")),
    "operator 1..2": ("unreadable", lambda: cif(extra="_symmetry_equiv_pos_as_xyz 'x+1..2,y,z'\n")),
    "operator 1/0": ("unreadable", lambda: cif(extra="_symmetry_equiv_pos_as_xyz 'x+1/0,y,z'\n")),
    "operator 1.2.3": ("unreadable", lambda: cif(extra="_symmetry_equiv_pos_as_xyz 'x+1.2.3,y,z'\n")),
    "operator 1/2/3": ("unreadable", lambda: cif(extra="_symmetry_equiv_pos_as_xyz 'x+1/2/3,y,z'\n")),
    "operator of 90 digits": ("unreadable", lambda: cif(extra="_symmetry_equiv_pos_as_xyz 'x+" + "9" * 90 + ",y,z'\n")),
    "operator xx": ("unreadable", lambda: cif(extra="_symmetry_equiv_pos_as_xyz 'xx,y,z'\n")),
    "operator +-x": ("unreadable", lambda: cif(extra="_symmetry_equiv_pos_as_xyz '+-x,y,z'\n")),
    "operator of dots": ("unreadable", lambda: cif(extra="_symmetry_equiv_pos_as_xyz '.,.,.'\n")),
    "long group name": ("unreadable", lambda: cif(extra="_symmetry_space_group_name_H-M '" + "P" * 3000000 + "'\n")),
    "IT 999": ("unreadable", lambda: cif(extra="_space_group_IT_number 999\n")),
    "IT digits": ("unreadable", lambda: cif(extra="_space_group_IT_number " + "9" * 100000 + "\n")),
    "IT 1e9": ("unreadable", lambda: cif(extra="_space_group_IT_number 1e9\n")),
    "IT -1": ("unreadable", lambda: cif(extra="_space_group_IT_number -1\n")),
    "Hall junk": ("unreadable", lambda: cif(extra="_space_group_name_Hall '-F 4vw 2vw 3 (((('\n")),
    "zero cell": ("bad_cell", lambda: cif(a="0")),
    "neg cell": ("bad_cell", lambda: cif(a="-5")),
    "angle 0": ("bad_cell", lambda: cif(al="0")),
    "angle 360": ("bad_cell", lambda: cif(al="360")),
    "angle 1e308": ("bad_cell", lambda: cif(al="1e308")),
    "angles flat": ("bad_cell", lambda: cif(al="120", be="120", ga="120")),
    "angle nan": ("bad_cell", lambda: cif(al="nan")),
    "angle 1e-300": ("bad_cell", lambda: cif(al="1e-300")),
    "long formula": ("answered", lambda: cif(extra="_chemical_formula_sum '" + "Fe" * 1900000 + "'\n")),
    "formula digits": ("answered", lambda: cif(extra="_chemical_formula_sum 'Fe" + "9" * 900 + "'\n")),
    "comments": ("answered", lambda: "#\n" * 1900000 + cif()),
    "blank": ("answered", lambda: cif() + "\n" * 3900000),
    "spaces": ("answered", lambda: " " * 3900000 + cif()),
    "tabs": ("unreadable", lambda: "\t" * 3900000),
    "carriage returns": ("unreadable", lambda: "\r" * 3900000),
    "hash line": ("unreadable", lambda: "#" * 3900000),
    "underscores": ("answered", lambda: cif() + "_" * 3900000),
    "underscore tokens": ("unreadable", lambda: cif() + "_x " * 1200000),
    "semicolons on lines": ("unreadable", lambda: ";\n" * 1900000),
    "semicolons": ("unreadable", lambda: ";" * 3900000),
    "dollar": ("unreadable", lambda: cif() + "$" * 3900000),
    "brackets cif2": ("answered", lambda: "#\\#CIF_2.0\n" + cif() + "_t " + "[" * 3900000),
    "save": ("unreadable", lambda: cif() + "save_x\n" * 500000),
    "dots key": ("answered", lambda: cif() + "_a" + "." * 3900000),
    "long labels": (
        "unknown_element",
        lambda: cif(atoms="".join(f"{'A' * 1000}{i} 0 0 0.{i:04d}\n" for i in range(1500))),
    ),
    "an occupancy without its column": (
        "unreadable",
        lambda: (
            cif()
            .replace("_atom_site_fract_z\n", "_atom_site_fract_z\n_atom_site_occupancy\n")
            .replace("0 0 0\n", "0 0 0 0.5\n" * 1900)
        ),
    ),
    "a site of 1999 shares": (
        "disordered",
        lambda: (
            cif()
            .replace("_atom_site_fract_z\n", "_atom_site_fract_z\n_atom_site_occupancy\n")
            .replace("Fe1 0 0 0\n", "".join(f"Fe{i} 0 0 0 0.0005\n" for i in range(1999)))
        ),
    ),
    "random latin": ("unreadable", lambda: bytes(range(32, 127)) * 40000),
    "high latin": ("unreadable", lambda: b"\xe9" * 4000000),
    "a byte order mark alone": ("unreadable", lambda: "\ufeff"),
    "combining accents": ("unreadable", lambda: "é" * 1000000),
    "unicode digits": ("bad_cell", lambda: cif(a="５")),
    "superscript": ("bad_cell", lambda: cif(a="²")),
    "a typeset minus": ("answered", lambda: cif(atoms="Fe1 −0.1 0 0\n")),
    "underscore num": ("bad_cell", lambda: cif(a="5_0")),
    "hex": ("bad_cell", lambda: cif(a="0x5")),
    "an open bracket": ("answered", lambda: cif(a="5(3")),
    "brackets": ("bad_cell", lambda: cif(a="(" * 3900000)),
    "a long uncertainty": ("answered", lambda: cif(atoms="Fe1 0(" + "1" * 1000000 + ") 0 0\n")),
    "long label": ("answered", lambda: cif(atoms="Fe" + "1" * 3900000 + " 0 0 0\n")),
    "operator of spaces": (
        "unreadable",
        lambda: cif(extra="_symmetry_equiv_pos_as_xyz '" + "x" + " " * 3000000 + ",y,z'\n"),
    ),
    "operator of commas": ("unreadable", lambda: cif(extra="_symmetry_equiv_pos_as_xyz '" + "," * 3000000 + "'\n")),
}
