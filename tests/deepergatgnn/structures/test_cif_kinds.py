"""Kinds of statements that a CIF makes of its crystal, with a reason each: what decides, and what nothing decides."""

from collections.abc import Sequence

import gemmi
import pytest

from deepergatgnn.errors import StructureError
from deepergatgnn.structures import read_structure

CUBE = (5.64, 5.64, 5.64, 90, 90, 90)
MONOCLINIC = (5.1, 5.2, 5.3, 90, 99.2, 90)
COLUMNS = "label type_symbol fract_x fract_y fract_z"
SALT = "Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5\n"
WHOLE = "".join(
    f"{symbol}{index} {symbol} {place}\n"
    for symbol, places in (
        ("Na", ("0 0 0", "0 .5 .5", ".5 0 .5", ".5 .5 0")),
        ("Cl", (".5 .5 .5", ".5 0 0", "0 .5 0", "0 0 .5")),
    )
    for index, place in enumerate(places)
)
ZIRCONIA = "Zr1 Zr 0.2754 0.0395 0.2083\nO1 O 0.07 0.3317 0.3447\nO2 O 0.4496 0.7569 0.4792\n"
FM3M = "_symmetry_space_group_name_H-M 'F m -3 m'\n"
Z4 = "_cell_formula_units_Z 4\n_chemical_formula_sum 'Na Cl'\n"


def cif(extra: str, rows: str, cell: Sequence[float] = CUBE, columns: str = COLUMNS) -> str:
    keys = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = [f"_cell_{key} {value}" for key, value in zip(keys, cell, strict=True)]
    return "\n".join(["data_x", extra, *lines, "loop_", *(f"_atom_site_{column}" for column in columns.split()), rows])


def listed(operators: Sequence[str], tag: str = "_symmetry_equiv_pos_as_xyz") -> str:
    return "\n".join(["loop_", tag, *(f"'{one}'" for one in operators), ""])


METHYLENE = "".join(
    f"{symbol}{i} {symbol} {i % 8 / 8} {i // 8 / 8} {z}\n"
    for symbol, z, count in (("C", 0, 60), ("H", 0.4, 59))
    for i in range(count)
)
CO = "C1 C 0 0 0\nO1 O .3 0 0\n"
TWO_WATERS = "O1 O .25 .25 .25\nO2 O .75 .75 .75\n"
BOX = (30, 30, 6, 90, 90, 90)


def operators_of(name: str) -> list[str]:
    return [one.triplet() for one in gemmi.find_spacegroup_by_name(name).operations()]


FACE, PRIMITIVE = operators_of("F m -3 m"), operators_of("P m -3 m")
GENERATORS = ["x,y,z", "-y,x,z", "z,x,y", "-x,-y,-z", "x+1/2,y+1/2,z", "x+1/2,y,z+1/2"]
IDENTITY = listed(["x,y,z"])
DENSITY = "_exptl_crystal_density_diffrn 2.16\n"
Z8 = "_cell_formula_units_Z 8\n"
SILICON, DIAMOND = "Si1 Si .125 .125 .125\n", (5.43, 5.43, 5.43, 90, 90, 90)
FESE = "_chemical_formula_sum 'Fe Se'\n"
SELENIDE, TETRAGONAL = "Fe1 Fe .75 .25 0\nSe1 Se .25 .25 .267\n", (3.77, 3.77, 5.52, 90, 90, 90)
ORIGIN_1 = operators_of("P 4/n m m:1")
P21C = operators_of("P 1 21/c 1")
WITH_MULTIPLICITY = "label type_symbol symmetry_multiplicity fract_x fract_y fract_z"
WITH_WYCKOFF = "label type_symbol Wyckoff_symbol fract_x fract_y fract_z"
NEW_TAG = "_space_group_symop_operation_xyz"

# What the file is, its text, the right formula (None: a refusal), and what the warning or the refusal names.
KINDS: list[tuple[str, str, str | None, str]] = [
    # 1. No operator list: what is written beside the symbol decides, else formula, Z, multiplicity and distances.
    ("a number alone is the standard setting", cif("_space_group_IT_number 225\n", SALT), "Na4Cl4", "number 225"),
    ("a name that is not known", cif("_symmetry_space_group_name_H-M 'F q'\n", SALT), None, "'F q'"),
    ("a number that is none", cif("_space_group_IT_number 231\n", SALT), None, "'231'"),
    ("a Hall symbol that is none", cif("_space_group_name_Hall 'F q'\n", SALT), None, "'F q'"),
    ("Schoenflies leaves the setting open", cif("_space_group_name_Schoenflies O_h^5\n", SALT), None, "O_h^5"),
    ("a name and the number of another type", cif(FM3M + "_space_group_IT_number 221\n", SALT), None, "two ways"),
    ("the same, and Z decides", cif(FM3M + "_space_group_IT_number 221\n" + Z4, SALT), "Na4Cl4", "Z = 4"),
    ("a Hall symbol of another type", cif(FM3M + "_space_group_name_Hall '-P 4 2 3'\n", SALT), None, "two ways"),
    ("the whole cell under a symbol", cif(FM3M, WHOLE), "Na4Cl4", "whole cell already"),
    ("the whole cell, and nothing of symmetry", cif("", WHOLE), "Na4Cl4", "says nothing about symmetry"),
    ("a part of the cell, and nothing of symmetry", cif(Z4, SALT), None, "Z = 4, with 1 formula units"),
    # 2. A list of operators is no group, or not that of the name.
    ("x,y,z alone under a higher group", cif(FM3M + listed(["x,y,z"]), SALT), None, "two ways"),
    ("the same, and Z decides", cif(FM3M + Z4 + listed(["x,y,z"]), SALT), "Na4Cl4", "Z = 4"),
    (
        "the same, and the sum of the cell decides",
        cif(FM3M + "_chemical_formula_sum 'Na4 Cl4'\n" + listed(["x,y,z"]), SALT),
        "Na4Cl4",
        "Na4 Cl4",
    ),
    (
        "the same, and multiplicities decide",
        cif(FM3M + listed(["x,y,z"]), "Na1 Na 4 0 0 0\nCl1 Cl 4 .5 .5 .5\n", columns=WITH_MULTIPLICITY),
        "Na4Cl4",
        "multiplicity 4",
    ),
    (
        "the same, and Wyckoff positions decide",
        cif(FM3M + listed(["x,y,z"]), "Na1 Na 4a 0 0 0\nCl1 Cl 4b .5 .5 .5\n", columns=WITH_WYCKOFF),
        "Na4Cl4",
        "multiplicity 4",
    ),
    (
        "the same, and the density decides",
        cif(FM3M + "_exptl_crystal_density_diffrn 2.16\n" + listed(["x,y,z"]), SALT),
        "Na4Cl4",
        "density 2.16",
    ),
    (
        "the same, and F(000) decides",
        cif(FM3M + "_exptl_crystal_F_000 112\n" + listed(["x,y,z"]), SALT),
        "Na4Cl4",
        "F(000) = 112",
    ),
    ("x,y,z and the whole cell", cif(FM3M + listed(["x,y,z"]), WHOLE), "Na4Cl4", "space group F m -3 m"),
    ("all operators and the whole cell", cif(FM3M + listed(FACE), WHOLE), "Na4Cl4", "whole cell already"),
    ("the centring is lost", cif(FM3M + listed(PRIMITIVE), SALT), None, "two ways"),
    ("the same, and Z decides", cif(FM3M + Z4 + listed(PRIMITIVE), SALT), "Na4Cl4", "Z = 4"),
    ("the same without a name", cif(Z4 + listed(PRIMITIVE), SALT), None, "Z = 4"),
    ("the identity is lost", cif(listed(FACE[1:]), SALT), "Na4Cl4", "lack the identity"),
    ("half of them are lost", cif(FM3M + listed(FACE[:96]), SALT), "Na4Cl4", "rules of a group"),
    ("half of them are lost, without a name", cif(listed(FACE[:90]), SALT), None, "two ways"),
    ("one is given twice, another one lost", cif(FM3M + listed([*FACE[:-1], FACE[0]]), SALT), "Na4Cl4", ""),
    ("one is mistyped", cif(FM3M + listed([*FACE[:-1], "x+1/4,y,z"]), SALT), "Na4Cl4", "not used"),
    ("one is mistyped, without a name", cif(listed([*P21C[:-1], "x+0.1,y,z"]), ZIRCONIA, MONOCLINIC), None, "no group"),
    ("two lists, of which one is named", cif(FM3M + listed(FACE) + listed(PRIMITIVE, NEW_TAG), SALT), "Na4Cl4", ""),
    ("two lists, and no name", cif(listed(FACE) + listed(PRIMITIVE, NEW_TAG), SALT), None, "two ways"),
    ("two lists that say the same", cif(FM3M + listed(FACE) + listed(FACE[::-1], NEW_TAG), SALT), "Na4Cl4", ""),
    (
        "operators of another setting, and distances decide",
        cif("_symmetry_space_group_name_H-M 'P 21/n'\n" + listed(P21C), ZIRCONIA, MONOCLINIC),
        "Zr4O8",
        "distances",
    ),
    (
        "operators of another setting, and nothing decides",
        cif("_symmetry_space_group_name_H-M 'P 21/a'\n" + listed(P21C), ZIRCONIA, MONOCLINIC),
        None,
        "two ways",
    ),
    (
        "the screw is lost",
        cif(
            "_symmetry_space_group_name_H-M 'P 21/c'\n" + listed(["x,y,z", "-x,y,-z", "-x,-y,-z", "x,-y,z"]),
            ZIRCONIA,
            MONOCLINIC,
        ),
        "Zr4O8",
        "distances",
    ),
    ("one turns no cell onto itself", cif(FM3M + listed([*FACE[:-1], "x,x,z"]), SALT), "Na4Cl4", "not one"),
    ("the same without a name", cif(listed([*FACE[:-1], "x,x,z"]), SALT), None, "'x,x,z'"),
    ("a shear", cif(listed(["x,y,z", "x+y,y,z"]), SALT), None, "'x+y,y,z'"),
    ("half of them are mistyped", cif(FM3M + listed(["x,y,z", "x,x,z"]), SALT), None, "two ways"),
    ("one more, the identity twice", cif(FM3M + listed([*FACE, "x,y,z"]), SALT), "Na4Cl4", ""),
    (
        "a mistyped list of another setting than the name",
        cif(
            "_symmetry_space_group_name_H-M 'P 21/c'\n" + listed(["x,y,z", "1/2-x,1/2+y,1/2-z", "-x,-y,-z", "x,y,-z"]),
            ZIRCONIA,
            MONOCLINIC,
        ),
        None,
        "no group",
    ),
    (
        "the origin of the list and not that of the atoms, by formula and distances",
        cif("_symmetry_space_group_name_H-M 'P 4/n m m'\n" + FESE + listed(ORIGIN_1), SELENIDE, TETRAGONAL),
        "Fe2Se2",
        "P 4/n m m:2",
    ),
    ("Z alone tells that symmetry is missing", cif(FM3M + "_cell_formula_units_Z 4\n" + IDENTITY, SALT), "Na4Cl4", "Z"),
    ("the same without a name", cif("_cell_formula_units_Z 4\n" + IDENTITY, SALT), None, "Z = 4"),
    ("Z alone tells the origin", cif("_space_group_IT_number 227\n" + Z8, SILICON, DIAMOND), "Si8", "Z = 8"),
    ("Z of molecules tells nothing", cif("_cell_formula_units_Z 1\n", "C1 C 0 0 0\nC2 C .3 0 0\n"), "C2", ""),
    (
        "multiplicities, and a list without a name",
        cif(IDENTITY, "Na1 Na 4 0 0 0\nCl1 Cl 4 .5 .5 .5\n", columns=WITH_MULTIPLICITY),
        None,
        "multiplicity 4",
    ),
    ("the density, and a list without a name", cif(DENSITY + IDENTITY, SALT), None, "density"),
    ("the formula, and a list without a name", cif("_chemical_formula_sum NaCl2\n" + IDENTITY, SALT), None, "NaCl2"),
    ("the crystal system alone", cif("_symmetry_cell_setting cubic\n" + IDENTITY, SALT), "NaCl", "system cubic"),
    ("a tag of no dictionary", cif(listed(FACE, "_space_group_symop_xyz"), SALT), "Na4Cl4", ""),
    ("generators", cif(FM3M + listed(GENERATORS, "_space_group_symop_generator_xyz"), SALT), "Na4Cl4", "rules of"),
    ("operators in text fields", cif("loop_\n" + NEW_TAG + "\n;\nx,y,z\n;\n;\n-x,-y,-z\n;\n", SALT), "NaCl", ""),
    # The cell and the atoms themselves.
    ("another volume than the cell has", cif("_cell_volume 200\n", WHOLE), "Na4Cl4", "200"),
    ("atoms that are too close", cif("", "Na1 Na 0 0 0\nCl1 Cl .15 0 0\n"), "NaCl", "Na and Cl 0.85 Å"),
    # 5. Alternatives that are taken for whole atoms.
    (
        "alternatives of macromolecules",
        cif("", "H1 H A 0 0 0\nH2 H B .3 0 0\n", columns="label type_symbol label_alt_id fract_x fract_y fract_z"),
        None,
        "group A",
    ),
    (
        "a part without its occupancy",
        cif("", "H1 H 0 0 0 RUP\n", columns=COLUMNS + " refinement_flags"),
        None,
        "flag P",
    ),
    ("two elements on a site", cif("", "M1 Fe/Mn 0 0 0\n"), None, "mixture 'Fe/Mn'"),
    ("shares of two elements", cif("", "M1 Fe0.5Mn0.5 0 0 0\n"), None, "mixture"),
    ("two elements in a label", cif("", "FeMn1 0 0 0\n", columns="label fract_x fract_y fract_z"), None, "mixture"),
    (
        "a charge and a letter are no mixture",
        cif("", "Fe2+B 0 0 0\n", columns="label fract_x fract_y fract_z"),
        "Fe",
        "",
    ),
    ("an occupancy under a tag of no dictionary", cif("", "H1 H 0 0 0 .5\n", columns=COLUMNS + " occ"), None, "50 %"),
    (
        "two groups of an assembly",
        cif("", "H1 H 0 0 0 A 1\nH2 H .3 0 0 A 2\n", columns=COLUMNS + " disorder_assembly disorder_group"),
        None,
        "disorder group 1",
    ),
    (
        "groups of different assemblies are no alternatives",
        cif("", "H1 H 0 0 0 A 1\nH2 H .3 0 0 B 2\n", columns=COLUMNS + " disorder_assembly disorder_group"),
        "H2",
        "",
    ),
    (
        "a group about a special position",
        cif("", "H1 H 0 0 0 -1\nH2 H .3 0 0 .\n", columns=COLUMNS + " disorder_group"),
        None,
        "disorder group -1",
    ),
    ("one group alone", cif("", "H1 H 0 0 0 1\nH2 H .3 0 0 1\n", columns=COLUMNS + " disorder_group"), "H2", ""),
    (
        "groups that the formula counts in full",
        cif("_chemical_formula_sum 'H2'\n", "H1 H 0 0 0 1\nH2 H .3 0 0 2\n", columns=COLUMNS + " disorder_group"),
        "H2",
        "",
    ),
    ("a dummy", cif("", "C1 C 0 0 0 dum\nO1 O .5 0 0 d\n", columns=COLUMNS + " calc_flag"), "O", "dummy"),
    # 6. Given twice.
    ("a cell length twice", cif("_cell_length_a 5.0\n", WHOLE), None, "_cell_length_a twice"),
    ("a cell length twice, and the same", cif("_cell_length_a 5.64\n", WHOLE), "Na4Cl4", ""),
    ("a cell length in both dictionaries", cif("_cell.length_a 5.0\n", WHOLE), None, "_cell_length_a twice"),
    ("a symbol twice", cif("_symmetry_space_group_name_H-M 'P 1'\n" + FM3M, WHOLE), None, "twice"),
    ("a column twice", cif("", "Na1 Na 0 0 0 .5\n", columns=COLUMNS + " fract_x"), None, "_atom_site_fract_x twice"),
    (
        "occupancies in a loop of their own",
        cif("", SALT + "loop_\n_atom_site_occupancy\n1\n0.5\n"),
        None,
        "two loops",
    ),
    (
        "displacements in a loop of their own",
        cif("", SALT + "loop_\n_atom_site_aniso_label\n_atom_site_aniso_U_11\nNa1 .1\nCl1 .2\n"),
        "NaCl",
        "",
    ),
    (
        "a key inside of a text field",
        cif("_publ_section_comment\n;\n_cell_length_a 4\n;\n", WHOLE),
        "Na4Cl4",
        "",
    ),
    # Text as it is written.
    ("a symbol in a text field", cif("_space_group_name_H-M_alt\n;\nF m -3 m\n;\n", SALT), "Na4Cl4", "F m -3 m"),
    ("a symbol in CIF 2", cif("_space_group_name_H-M_alt '''F m -3 m'''\n", SALT), "Na4Cl4", "F m -3 m"),
    ("a # within quotes", cif("_space_group_name_H-M_alt 'F m -3 m #225'\n", SALT), "Na4Cl4", "#225"),
    # 8. Hydrogen that is not there, by every kind of formula.
    ("a formula that cannot be counted", cif("_chemical_formula_sum '(C H4 O)n'\n", CO), "CO", "(C H4 O)n"),
    ("charges that cannot be told", cif("_chemical_formula_moiety 'C H4 O1+, Cl1-'\n", CO), "CO", "C H4 O1+"),
    ("a measured formula", cif("_chemical_formula_analytical 'C H4 O'\n", CO), "CO", "C H4 O"),
    ("indices as journals write them", cif("_chemical_formula_sum 'C H~4~ O'\n", CO), "CO", "without any H"),
    ("mercury is no hydrogen", cif("_chemical_formula_analytical 'C Hg O'\n", CO), "CO", ""),
    ("one H of sixty", cif("_chemical_formula_sum 'C60 H60'\n", METHYLENE, BOX), "H59C60", "C60 H60"),
    ("hydrogen in the structural formula", cif("_chemical_formula_structural 'CH3OH'\n", CO), "CO", "CH3OH"),
    (
        "hydrogen in the moiety and not in the sum",
        cif("_chemical_formula_sum 'C O'\n_chemical_formula_moiety 'C H4 O'\n", CO),
        "CO",
        "C H4 O",
    ),
    (
        "hydrogen in water of hydration",
        cif("_chemical_formula_moiety 'Na Cl, 2(H2 O)'\n", SALT + TWO_WATERS),
        "NaClO2",
        "2(H2 O)",
    ),
]


@pytest.mark.parametrize(("text", "formula", "named"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS])
def test_what_decides(text: str, formula: str | None, named: str) -> None:
    if formula is None:
        with pytest.raises(StructureError) as caught:
            read_structure(text)
        assert named in caught.value.detail
        assert ":" in caught.value.detail, "a remedy follows"
    else:
        crystal = read_structure(text)
        assert crystal.formula == formula
        assert named in " ".join(crystal.warnings)


@pytest.mark.parametrize(
    "occupancy",
    ["1/2", "0,5", "50%", "0.52(", "half", "1.0.0", "-0.5", "0.5?", "nan", "inf", "0_5", "1,0", "0.5)", "\u00bd"],
)
def test_an_occupancy_that_is_no_number_is_refused(occupancy: str) -> None:
    with pytest.raises(StructureError, match="site 1") as caught:
        read_structure(cif("", f"Na1 Na 0 0 0 {occupancy}\nCl1 Cl .5 .5 .5 1\n", columns=COLUMNS + " occupancy"))
    assert caught.value.code in ("unreadable", "disordered")


@pytest.mark.parametrize("occupancy", ["1", "1.", "1.00", "1e0", ".", "?", "1.000(3)", "+1.0"])
def test_a_whole_occupancy_is_an_atom(occupancy: str) -> None:
    rows = f"Na1 Na 0 0 0 {occupancy}\nCl1 Cl .5 .5 .5 1\n"
    assert read_structure(cif("", rows, columns=COLUMNS + " occupancy")).formula == "NaCl"


BY_LABEL = "label fract_x fract_y fract_z"
# A label, a partner that no other reading confuses, a formula or none, and the element or None for a refusal.
LABELS: list[tuple[str, str, str | None]] = [
    *((label, "", None) for label in ("CO3", "PO4", "BH4", "NO3", "NH4", "H2O", "H3O", "SO4", "ClO4", "AlH4", "D2O1")),
    *((label, "", None) for label in ("HO1", "HF1", "CM1", "CF1", "CO1", "NA1", "NB1", "SB1", "CA", "T1", "X1", "M1")),
    ("CO1", "Co F", "Co"),
    ("CO1", "C F", "C"),
    ("CO3", "Co F", "Co"),
    ("NA1", "Na F", "Na"),
    ("NA1", "N F", "N"),
    ("NB2", "Nb F", "Nb"),
    ("HO1", "Ho F", "Ho"),
    ("HO1", "H F", "H"),
    ("HG12", "H F", "H"),
    ("HF2", "Hf F", "Hf"),
    ("CM1", "C F", "C"),
    ("SB1", "Sb F", "Sb"),
    ("Na1", "", "Na"),
    ("Nb1", "", "Nb"),
    ("Ho1", "", "Ho"),
    ("Co3", "", "Co"),
    ("Ho1", "H F", "H"),
    ("OG", "", "O"),
    ("SG", "", "S"),
    ("CB", "", "C"),
    ("HS1", "", "H"),
    ("CN1", "", "C"),
    ("FE1", "", "Fe"),
    ("ZN2", "", "Zn"),
    ("CL1", "", "Cl"),
    ("OW1", "", "O"),
    ("HW1", "", "H"),
    ("OH2", "", "O"),
    ("Pbl", "", "Pb"),
    ("D1", "", "H"),
    ("C1A", "", "C"),
    ("O1W", "", "O"),
    ("H1N", "", "H"),
    *((label, "", None) for label in ("Rf1", "Db2", "Mt", "Ds1", "Rg1", "Mc", "Lv", "Ts2")),
]


@pytest.mark.parametrize(("label", "formula", "symbol"), LABELS)
def test_the_element_of_a_label(label: str, formula: str, symbol: str | None) -> None:
    extra = f"_chemical_formula_sum '{formula}'\n" if formula else ""
    text = cif(extra, f"{label} 0 0 0\nF1 .5 .5 .5\n", columns=BY_LABEL)
    if symbol is None:
        with pytest.raises(StructureError, match=label.rstrip("123456789")) as caught:
            read_structure(text)
        assert caught.value.code == "unknown_element"
    else:
        crystal = read_structure(text)
        assert crystal.symbols == (symbol, "F")
        if label.rstrip("0123456789") != symbol:
            assert crystal.warnings


@pytest.mark.parametrize("type_symbol", ["PO4", "NH4", "H2O", "CO3", "NO3", "BH4"])
def test_a_group_is_no_type_either(type_symbol: str) -> None:
    with pytest.raises(StructureError, match="group of atoms"):
        read_structure(cif("", f"X1 {type_symbol} 0 0 0\nF1 F .5 .5 .5\n"))


HEXAGONAL = (3.16, 3.16, 12.3, 90, 90, 120)


@pytest.mark.parametrize(
    ("name", "cell", "rows", "formula"),
    [
        ("P 63/m m c", HEXAGONAL, "Mo1 Mo 0.333 0.667 0.25\nS1 S 0.333 0.667 0.621\n", "Mo2S4"),
        ("P 63/m m c", HEXAGONAL, "Mo1 Mo 0.33 0.67 0.25\nS1 S 0.33 0.67 0.62\n", "Mo2S4"),
        ("P 63/m m c", HEXAGONAL, "Mo1 Mo 0.3333 0.667 0.25\nS1 S 0.333 0.66667 0.621\n", "Mo2S4"),
        ("P 63/m m c", (5.7, 5.7, 14.0, 90, 90, 120), "O1 O 0.167 0.333 0.08\nO2 O 0.519 0.037 0.25\n", "O18"),
        ("R -3 m :H", (5.2, 5.2, 15.0, 90, 90, 120), "O1 O 0.167 0.833 0.1\n", "O18"),
        ("P 63/m m c", HEXAGONAL, "Mo1 Mo 0.33300 0.66700 0.25000\nS1 S 0.333000 0.667000 0.6210\n", "Mo2S4"),
        ("P -4 3 m", (6.1, 6.1, 6.1, 90, 90, 90), "S1 S 0.207 0.206 0.207\n", "S4"),
    ],
)
def test_copies_within_the_digits_are_one_atom(name: str, cell: tuple[float, ...], rows: str, formula: str) -> None:
    """0.333 and x, 2x: what coincides within half a unit of the last digits is one atom, and nothing else is."""
    crystal = read_structure(cif(f"_space_group_name_H-M_alt '{name}'\n", rows, cell))
    assert crystal.formula == formula
