"""POSCAR files of every kind that VASP reads, and those that must not be guessed."""

from io import StringIO
from typing import Any, Final

import numpy as np
import pytest
from ase.io import read as ase_read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.io.vasp.inputs import Poscar

from deepergatgnn.errors import StructureError, StructureErrorCode
from deepergatgnn.structures import Crystal, read_structure
from deepergatgnn.structures.elements import ISOTOPE_WARNING
from deepergatgnn.structures.ignored import AFTER_POSITIONS
from deepergatgnn.structures.limits import StructureLimits
from deepergatgnn.structures.text import clean_text, detect_format
from tests.support.fixtures import some_crystals

CELL: Final = "5.64 0 0\n0 5.64 0\n0 0 5.64"
SITES: Final = ["0 0 0", "0 .5 .5", ".5 0 .5", ".5 .5 0", ".5 .5 .5", ".5 0 0", "0 .5 0", "0 0 .5"]
HALVES: Final = "\n".join(SITES)
NAMES: Final = ["Na"] * 4 + ["Cl"] * 4
CRYSTALS: Final = some_crystals(12)


def rock_salt(
    title: str = "rock salt",
    scale: str = "1.0",
    cell: str = CELL,
    names: str | None = "Na Cl",
    counts: str = "4 4",
    mode: str = "Direct",
    sites: str = HALVES,
    after: str = "",
) -> str:
    """Rock salt, 2.82 Å between sodium and chlorine, and what a test puts into it."""
    return "\n".join([title, scale, cell, *([] if names is None else [names]), counts, mode, sites, after])


def at_ends(*ends: str) -> str:
    """The sites, each followed by a word; a single one follows all."""
    return "\n".join(f"{site} {end}" for site, end in zip(SITES, ends * (8 // len(ends)), strict=True))


def read_both(text: str) -> Crystal:
    """Read a text with the format named and not named, alike."""
    assert detect_format(clean_text(text, StructureLimits())) == "poscar"
    named, detected = read_structure(text, format="poscar"), read_structure(text)
    assert named.warnings == detected.warnings
    np.testing.assert_array_equal(named.frac_coords, detected.frac_coords)
    return detected


def assert_rock_salt(crystal: Crystal, names: list[str] = NAMES) -> None:
    assert list(crystal.symbols) == names
    np.testing.assert_allclose(crystal.lattice, 5.64 * np.eye(3), atol=1e-9)
    apart = crystal.frac_coords - np.array(" ".join(SITES).split(), dtype=float).reshape(-1, 3)
    np.testing.assert_allclose(apart, np.round(apart), atol=1e-9)


COMMAS: Final = HALVES.replace(" ", ", ")
D_EXPONENTS: Final = HALVES.replace(".5", "5.0D-01")
VOLUME: Final = f"{-(5.64**3)}"
UNIT: Final = "1 0 0\n0 1 0\n0 0 1"

# Why it must be read, the text, what must be said of it (a part of each warning).
READ: Final[list[tuple[str, str, tuple[str, ...]]]] = [
    ("plain", rock_salt(), ()),
    # The scale.
    ("a volume holds for Cartesian positions", rock_salt(scale=VOLUME, cell=UNIT, mode="Cartesian"), ()),
    ("a volume with direct positions", rock_salt(scale=VOLUME, cell=UNIT), ()),
    ("three factors", rock_salt(scale="5.64 2.82 1.0", cell="1 0 0\n0 2 0\n0 0 5.64"), ()),
    (
        "three factors hold for Cartesian positions",
        rock_salt(scale="5.64 5.64 5.64", cell=UNIT, mode="Cartesian"),
        (),
    ),
    ("a factor holds for Cartesian positions", rock_salt(scale="5.64", cell=UNIT, mode="Kartesian"), ()),
    ("a remark after the scale", rock_salt(scale="1.0   ! lattice constant 5.64 in angstrom"), ()),
    ("words after the scale", rock_salt(scale="1.0 universal scaling factor"), ()),
    ("a hash after the scale", rock_salt(scale="1.0 # 2"), ()),
    ("a point at the end", rock_salt(scale="1."), ()),
    ("a comma after the scale", rock_salt(scale="1.0, scale"), ()),
    # Vectors.
    ("remarks after the vectors", rock_salt(cell="5.64 0 0 ! a 1\n0 5.64 0 # b 2\n0 0 5.64 c = 5.64"), ()),
    ("D exponents", rock_salt(scale="1.0D+00", cell=CELL.replace("5.64", "0.564d1")), ()),
    ("D exponents of positions", rock_salt(sites=D_EXPONENTS), ()),
    ("no digit before or after the point", rock_salt(scale="+1.", cell=CELL.replace(" 0", " .0")), ()),
    ("commas between the numbers", rock_salt(cell=CELL.replace(" ", ", "), counts="4, 4", sites=COMMAS), ()),
    ("three-digit exponents", rock_salt(cell=CELL.replace(" 0", " 0.0E-100")), ()),
    ("run together", rock_salt(sites=HALVES.replace(".5 .5 .5", "0.50000000-0.50000000-0.50000000")), ()),
    # Names and counts.
    ("names of potentials", rock_salt(names="Na_pv Cl_GW_new"), ()),
    ("hashed names", rock_salt(names="Na_pv/8a7f31c2 Cl/0f22aa19"), ()),
    ("hashed names on two lines", rock_salt(names="Na_pv/8a Na/8b\nCl/0f Cl_h/0a", counts="2 2\n2 2"), ()),
    ("names on two lines, counts on one", rock_salt(names="Na\nCl", counts="4 4"), ()),
    ("names on one line, counts on two", rock_salt(names="Na Na Cl", counts="1 3\n4"), ()),
    ("a group of no atoms", rock_salt(names="Na K Cl", counts="4 0 4"), ()),
    ("a remark after the counts", rock_salt(counts="4 4  ! 8 atoms"), ()),
    ("words after the counts", rock_salt(counts="4 4 atoms, 8 in all"), ()),
    ("a remark after the names", rock_salt(names="Na Cl ! K"), ()),
    ("words after the names", rock_salt(names="Na Cl (rock salt)"), ()),
    ("upper case", rock_salt(names="NA CL"), ("'NA' of line 6 of the POSCAR is read as Na", "'CL'")),
    ("lower case", rock_salt(names="na cl"), ("'na'", "'cl'")),
    ("numbers of groups", rock_salt(names="Na1 Cl1"), ("'Na1'", "'Cl1'")),
    ("commas between the names", rock_salt(names="Na, Cl"), ()),
    ("names without a blank", rock_salt(names="NaCl"), ()),
    ("upper-case names without a blank", rock_salt(names="NACL"), ()),
    ("charges", rock_salt(names="Na+ Cl1-"), ("Oxidation states",)),
    ("a title of other elements is a title", rock_salt(title="K Br"), ()),
    ("a title with a bracket", rock_salt(title="[001] slab"), ()),
    ("a title with a brace", rock_salt(title='{"a": 1}'), ()),
    ("no title", rock_salt(title=""), ()),
    # Mode and flags.
    ("direct by its letter", rock_salt(mode="d"), ()),
    ("fractional", rock_salt(mode="Fractional"), ()),
    ("direct, and more", rock_salt(mode="Direct(8) [A4B4]"), ()),
    ("another word", rock_salt(mode="Positions"), ("'Positions'",)),
    ("selective", rock_salt(mode="Selective dynamics\nDirect", sites=at_ends("T T T")), ()),
    ("selective, some", rock_salt(mode="s\nd", sites=at_ends("T T T", "T F .FALSE.")), ("selective_dynamics",)),
    ("flags before names", rock_salt(sites=at_ends(*(f"T T T {name}" for name in NAMES)), mode="S\nD"), ()),
    ("names before flags", rock_salt(sites=at_ends(*(f"{name} T T T" for name in NAMES)), mode="S\nD"), ()),
    # Line ends.
    ("names at the ends agree", rock_salt(sites=at_ends(*NAMES)), ()),
    ("labels at the ends agree", rock_salt(sites=at_ends(*(f"{n}{i}" for i, n in enumerate(NAMES)))), ()),
    ("other remarks at the ends", rock_salt(sites=at_ends("4a", "corner")), ()),
    ("Wyckoff letters at the ends", rock_salt(sites=at_ends("c")), ()),
    ("numbers at the ends", rock_salt(sites=at_ends("1.0")), ()),
    ("a flag alone at the ends", rock_salt(sites=at_ends("T", "F")), ()),
    ("VASP 4, names at the ends", rock_salt(names=None, sites=at_ends(*NAMES)), ()),
    ("VASP 4, remarks are names", rock_salt(names=None, sites=at_ends(*(f"# {n}" for n in NAMES))), ()),
    (
        "VASP 4, labels at the ends",
        rock_salt(names=None, sites=at_ends(*(f"{n}{i}" for i, n in enumerate(NAMES)))),
        ("labels at the line ends: 'Na0' is read as Na",),
    ),
    ("VASP 4, flags and names", rock_salt(names=None, mode="S\nC", scale="5.64", cell=UNIT,
        sites=at_ends(*(f"T T T {name}" for name in NAMES))), ()),
    ("VASP 4, counts on two lines", rock_salt(names=None, counts="2 2\n4", sites=at_ends(*NAMES)), ()),
    ("VASP 4, names in the title", rock_salt("Na Cl", names=None), ("taken from its first line",)),
    ("VASP 4, counts in the title", rock_salt("Na4 Cl4", names=None), ("taken from its first line",)),
    ("VASP 4, a formula in the title", rock_salt("Na4Cl4", names=None), ("taken from its first line",)),
    *[
        (f"VASP 4, within the title {title}", rock_salt(title, names=None), ("Na Cl are taken from its first line",))
        for title in ("Na4Cl4 (Fm-3m)", "(Na1,Na3)Cl4", "Na[1+3]Cl4", "(NaCl)4", "Na4 Cl4 # relaxed",
                      "ICSD 18189: Na4Cl4", "Na4Cl4_relaxed", "Na4Cl4.vasp",
                      "'Na4Cl4' of P2_1/m, 225", "mp-22862 Na2Na2Cl4")
    ],
    ("a formula as the name", rock_salt(names="Na4Cl4"), ()),
    # What follows.
    ("velocities", rock_salt(after="\n" + "0.1 0 0\n" * 8), (AFTER_POSITIONS,)),
    ("velocities with their mode", rock_salt(after="Cartesian\n" + "0.1 0 0\n" * 8).replace("\n\nC", "\nC"),
        (AFTER_POSITIONS,)),
    ("velocities of zero", rock_salt(after="\n" + " 0.00000000E+00 0.0 -0.0D+00\n" * 8), ()),
    ("predictor and corrector", rock_salt(after="\n" + "0 0 0\n" * 8 + "\n1\n0.5D+00\n1 0 0\n" + "0 0 0\n" * 24),
        (AFTER_POSITIONS,)),
    ("velocities of the lattice", rock_salt(after="Lattice velocities and vectors\n1\n" + "0 0 1\n" * 6 + "\n"),
        (AFTER_POSITIONS,)),
    ("empty lines", rock_salt(after="\n\n \n"), ()),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), [row[1:] for row in READ], ids=[row[0] for row in READ])
def test_read_as_vasp_does(text: str, said: tuple[str, ...]) -> None:
    crystal = read_both(text)
    assert_rock_salt(crystal)
    assert len(crystal.warnings) == len(said)
    assert all(part in warning for part, warning in zip(said, crystal.warnings, strict=True))


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
def test_line_ends_and_tabs(line_end: str) -> None:
    assert_rock_salt(read_both(rock_salt(title="Kochsalz, grün").replace(" ", "\t").replace("\n", line_end)))


FLUORIDE: Final = ["Na"] * 4 + ["F"] * 4


@pytest.mark.parametrize("names", [None, "Na F"])
@pytest.mark.parametrize("form", ["{}", "F F F {}", "{} F F F", "T T T {}", "{} T T T", "{} F T T", "T T F {}"])
def test_fluorine_is_told_from_flags(names: str | None, form: str) -> None:
    mode = "Direct" if form == "{}" else "Selective dynamics\nDirect"
    text = rock_salt(names=names, mode=mode, sites=at_ends(*(form.format(name) for name in FLUORIDE)))
    assert_rock_salt(read_both(text), FLUORIDE)


def test_flags_alone_are_no_fluorine() -> None:
    assert_rock_salt(read_both(rock_salt(sites=at_ends("F F F"), mode="Selective\nDirect")))
    assert_rock_salt(read_both(rock_salt(sites=at_ends("F F F"))))
    with pytest.raises(StructureError, match="names no elements"):
        read_structure(rock_salt(names=None, sites=at_ends("F F F")))


def test_heavy_hydrogen_is_told() -> None:
    heavy = ["H"] * 4 + ["Cl"] * 4
    for text in (rock_salt(names="D Cl"), rock_salt(names=None, sites=at_ends(*["D"] * 4, *["Cl"] * 4))):
        crystal = read_both(text)
        assert_rock_salt(crystal, heavy)
        assert [warning for warning in crystal.warnings if "(D) is read as H" in warning]


@pytest.mark.parametrize("ends", [["D"] * 4, ["H", "D", "H", "H"], ["D1", "D2", "D3", "D4"]])
def test_heavy_hydrogen_at_the_line_ends_is_told_beside_names(ends: list[str]) -> None:
    crystal = read_both(rock_salt(names="H Cl", sites=at_ends(*ends, *["Cl"] * 4)))
    assert_rock_salt(crystal, ["H"] * 4 + ["Cl"] * 4)
    assert crystal.warnings == (ISOTOPE_WARNING.format("D"),)


def test_direct_coordinates_far_apart_are_told() -> None:
    crystal = read_both(rock_salt(sites=HALVES.replace(".5", "2.82")))
    assert "reach 2.82 cells far" in crystal.warnings[0]


@pytest.mark.parametrize(
    ("names", "counts", "read"),
    [
        ("CO", "8", ["Co"] * 8),  # one group is one element
        ("CO", "4 4", ["C"] * 4 + ["O"] * 4),
        ("CO O", "4 4", ["Co"] * 4 + ["O"] * 4),
        ("SI", "8", ["Si"] * 8),
        ("CoO", "4 4", ["Co"] * 4 + ["O"] * 4),
        ("HFO", "4 4", ["Hf"] * 4 + ["O"] * 4),
    ],
)
def test_the_number_of_counts_decides_what_capitals_mean(names: str, counts: str, read: list[str]) -> None:
    assert_rock_salt(read_both(rock_salt(names=names, counts=counts)), read)


LEFT_OVER: Final = "The POSCAR declares 7 atoms (4 3) and has 8 lines of coordinates"

# Why it is refused, the code, the text, what its sentence must hold.
REFUSED: Final[list[tuple[str, StructureErrorCode, str, tuple[str, ...]]]] = [
    ("a scale of zero", "bad_cell", rock_salt(scale="0.0 ! no scale"), ("Line 2", "0.0")),
    ("a negative factor of three", "bad_cell", rock_salt(scale="1 -1 1"), ("Line 2", "1 -1 1", "above zero")),
    ("a zero factor of three", "bad_cell", rock_salt(scale="1 0 1"), ("Line 2", "1 0 1")),
    ("two numbers", "unreadable", rock_salt(scale="1.0 2.0"), ("Line 2", "1.0 2.0", "one number, or three")),
    ("four numbers", "unreadable", rock_salt(scale="1 1 1 1"), ("Line 2", "1 1 1 1")),
    ("a number in a remark of words", "unreadable", rock_salt(scale="1.0 1 atom"), ("Line 2", "1.0 1 atom")),
    ("a decimal comma in the scale", "unreadable", rock_salt(scale="1,0"), ("Line 2", "1,0", "decimal point")),
    ("decimal commas", "unreadable", rock_salt(cell=CELL.replace(".", ",")), ("Line 3", "5,64 0 0", "decimal point")),
    ("decimal commas of positions", "unreadable", rock_salt(sites=HALVES.replace(".", "0,")), ("atom 2", "line 10")),
    ("a repeat count", "unreadable", rock_salt(cell=CELL.replace("0 0 5.64", "2*0 5.64")), ("Line 5", "2*0 5.64")),
    ("two points", "unreadable", rock_salt(cell=CELL.replace("0 5.64 0", "0 5.6.4 0")), ("Line 4", "5.6.4")),
    ("a fraction", "unreadable", rock_salt(sites=HALVES.replace(".5", "1/2")), ("atom 2", "1/2")),
    ("four numbers of a vector", "unreadable", rock_salt(cell=CELL.replace("5.64 0 0\n", "5 64 0 0\n")), ("Line 3",)),
    ("digits run together as exponents", "unreadable", rock_salt(sites=".5-1 0\n" * 8), ("atom 1", "'.5-1 0'")),
    ("nulls", "unreadable", rock_salt(sites="0,,0\n" * 8), ("atom 1", "0,,0")),
    # Names.
    ("no names", "unknown_element", rock_salt(names=None), ("add a line of element symbols", "line 6")),
    ("no names, a title of words", "unknown_element", rock_salt("Na Cl cell", names=None), ("names no elements",)),
    ("no names, other counts", "unknown_element", rock_salt("Na4 Cl3", names=None), ("names no elements",)),
    ("no names, two formulae", "unknown_element", rock_salt("K4Br4 from Na4Cl4", names=None), ("names no elements",)),
    ("no names, a short form of one case", "unknown_element", rock_salt("HCP cell", names=None, counts="1 1 1",
        sites="\n".join(SITES[:3])), ("names no elements",)),
    ("no names, a space group", "unknown_element", rock_salt("C8 setting", names=None, counts="8"), ("no elements",)),
    ("no names, a word of two letters", "unknown_element",
        rock_salt("In a cell", names=None, counts="1", sites="0 0 0"), ("names no elements",)),
    ("names in a remark", "unreadable", rock_salt(names="# Na Cl"), ("Line 6", "'# Na Cl'", "remove its mark")),
    ("atoms with their number", "unreadable",
        rock_salt(sites="\n".join(f"{at} {site}" for at, site in enumerate(SITES, start=1))),
        ("from line 9", "number of the atom")),
    ("no names, a formula", "unknown_element", rock_salt("NaCl", names=None), ("names no elements",)),
    ("some names", "unknown_element", rock_salt(names=None, sites=HALVES + " Na"), ("names no elements",)),
    ("remarks", "unknown_element", rock_salt(names=None, sites=at_ends("4a")), ("names no elements",)),
    ("Wyckoff letters", "unknown_element", rock_salt(names=None, sites=at_ends("c")), ("names no elements",)),
    ("pseudo-hydrogen", "unknown_element", rock_salt(names="H.5 Cl"), ("'H.5' of line 6", "pseudo-hydrogen")),
    ("pseudo-hydrogen of more", "unknown_element", rock_salt(names="Cl H1.25/8a7f"), ("'H1.25/8a7f'", "pseudo")),
    ("pseudo-hydrogen of VASP 4", "unknown_element", rock_salt(names=None, sites=at_ends("H.75")), ("'H.75'",)),
    ("a vacancy", "unknown_element", rock_salt(names="Na Va"), ("'Va' of line 6",)),
    ("too heavy for a potential", "unknown_element", rock_salt(names="CN Cl"), ("'CN' of line 6",)),
    ("carbon or calcium", "unknown_element", rock_salt(names="CA1 Cl"), ("'CA1' of line 6",)),
    ("two ways to part the names", "unreadable", rock_salt(names="CSI"), ("C Si or Cs I", "separate")),
    ("names and counts", "unreadable", rock_salt(names="Na"), ("names 1 elements and gives 2 counts", "line 7")),
    ("an element too many", "unreadable", rock_salt(names="Na Cl K"), ("names 3 elements and gives 2 counts",)),
    ("names that differ", "unreadable", rock_salt(sites=at_ends(*["Na"] * 4, *["Br"] * 4)),
        ("Line 6", "'Cl'", "line 13", "'Br'", "atom 5")),
    ("names in another order", "unreadable", rock_salt(sites=at_ends(*NAMES[::-1])), ("atom 1", "'Na'", "'Cl'")),
    ("labels that differ", "unreadable", rock_salt(sites=at_ends(*["Na1"] * 5, *["Cl1"] * 3)), ("line 13", "'Na1'")),
    ("names that differ in a group", "unreadable",
        rock_salt(names=None, counts="5 3", sites=at_ends(*NAMES)), ("Group 1", "5 like atoms", "line 12", "Cl")),
    # Counts and positions.
    ("a position too many", "unreadable", rock_salt(counts="4 3"), (LEFT_OVER,)),
    ("a position too many after an empty line", "unreadable",
        rock_salt(counts="4 3", sites="\n".join([*SITES[:7], "", SITES[7]])), (LEFT_OVER,)),
    ("one at the origin", "unreadable", rock_salt(sites=HALVES + "\n0 0 0"), ("8 atoms (4 4)", "9 lines")),
    ("a position too few", "unreadable", rock_salt(counts="4 5"), ("declares 9 atoms (4 5)", "8 lines", "line 16")),
    ("an empty line between groups", "unreadable", rock_salt(sites="\n".join([*SITES[:4], "", *SITES[4:]])),
        ("4 lines", "empty line 13", "remove it")),
    ("a count with a point", "unreadable", rock_salt(counts="4 4.0"), ("Line 7", "'4.0'", "whole numbers")),
    ("a negative count", "unreadable", rock_salt(counts="4 -4"), ("Line 7", "'-4'")),
    ("no counts", "unreadable", rock_salt().replace("4 4\n", ""), ("Line 7", "'Direct'", "whole numbers")),
    ("no mode", "unreadable", rock_salt().replace("Direct\n", ""), ("line 8", "add a line")),
    ("scaled, which reads as selective", "unreadable", rock_salt(mode="Scaled"), ("line 9", "add a line")),
    ("crystal coordinates", "unreadable", rock_salt(mode="Crystal"), ("Line 8", "'Crystal'", "write Direct")),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_with_the_line_and_the_remedy(code: str, text: str, said: tuple[str, ...]) -> None:
    for format_ in ("auto", "poscar"):
        with pytest.raises(StructureError) as caught:
            read_structure(text, format=format_)  # type: ignore[arg-type]
        assert caught.value.code == code, caught.value.detail
        assert [part for part in said if part not in caught.value.detail] == [], caught.value.detail


def test_cartesian_after_a_blank_is_told() -> None:
    crystal = read_both(rock_salt(mode=" Cartesian", scale="5.64", cell=UNIT))
    assert_rock_salt(crystal)
    assert "after a blank" in crystal.warnings[0]


def test_left_handed_cells_stay_left_handed() -> None:
    text = rock_salt(scale=VOLUME, cell="0 1 0\n1 0 0\n0 0 1", mode="Cartesian")
    crystal = read_both(text)
    np.testing.assert_allclose(crystal.lattice, 5.64 * np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]), atol=1e-9)
    np.testing.assert_allclose(crystal.frac_coords[5], [0, 0.5, 0], atol=1e-9)


def test_over_twenty_groups_as_vasp_writes_them() -> None:
    count = 24
    names = ["Fe_pv/3f2a90c1", "Cr_pv/7d11b6aa"] * (count // 2)
    lines = [" ".join(names[:20]), " ".join(names[20:]), " ".join(["1"] * 20), " ".join(["1"] * 4)]
    sites = "\n".join(f"{index / count:.6f} 0 0" for index in range(count))
    crystal = read_both("\n".join(["chain", "1.0", "60 0 0\n0 3 0\n0 0 3", *lines, "Direct", sites, ""]))
    assert list(crystal.symbols) == ["Fe", "Cr"] * (count // 2)


def write(crystal: Crystal, variant: dict[str, Any]) -> str:
    """Write a crystal in one of the many ways that VASP reads."""
    number = {
        "plain": lambda x: f"{x:.14f}",
        "D": lambda x: f"{x:.14E}".replace("E", "D"),
        "d": lambda x: f"{x:.15e}".replace("e", "d"),
        "short": lambda x: f"{x:.14f}".replace("0.", ".", 1) if abs(x) < 1 else f"{x:.14f}",
    }[variant["numbers"]]
    row = lambda vector: variant["separator"].join(number(x) for x in vector)  # noqa: E731 - one line
    factors = {
        "one": np.full(3, 1.0),
        "factor": np.full(3, 3.7),
        "volume": np.full(3, 0.6),
        "three": np.array([1.5, 0.8, 2.25]),
    }[variant["scale"]]
    cell = crystal.lattice / factors
    scale = {"volume": [-crystal.volume], "three": factors}.get(variant["scale"], factors[:1])
    coords = crystal.frac_coords if variant["mode"][0] in "dDfF" else crystal.frac_coords @ cell
    groups: list[tuple[str, int]] = []
    for symbol in crystal.symbols:
        same = groups and groups[-1][0] == symbol
        groups = [*groups[:-1], (symbol, groups[-1][1] + 1)] if same else [*groups, (symbol, 1)]
    names, counts = [name for name, _ in groups], [str(count) for _, count in groups]
    remark = variant["remark"]
    lines = ["title", row(scale) + remark, *(row(vector) + remark for vector in cell)]
    if variant["names"] in ("line", "both"):
        lines.append(" ".join(name + variant["tail"] for name in names))
    elif variant["names"] == "lines":
        lines += [name + variant["tail"] for name in names]
    elif variant["names"] == "title":
        lines[0] = " ".join(names)
    lines.append(" ".join(counts) + remark)
    lines += ["Selective dynamics"] if variant["flags"] else []
    lines.append(variant["mode"])
    for index, (coord, symbol) in enumerate(zip(coords, crystal.symbols, strict=True), start=1):
        end = {"labels": f" {symbol}{index}", "ends": f" {symbol}", "both": f" {symbol}"}.get(variant["names"], "")
        lines.append(row(coord) + (" T T T" if variant["flags"] else "") + end)
    return "\n".join([*lines, ""])


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    crystal=st.sampled_from(CRYSTALS),
    variant=st.fixed_dictionaries(
        {
            "numbers": st.sampled_from(["plain", "D", "d", "short"]),
            "separator": st.sampled_from([" ", "  ", "\t", ", ", ","]),
            "scale": st.sampled_from(["one", "factor", "volume", "three"]),
            "mode": st.sampled_from(["Direct", "direct", "Fractional", "Cartesian", "c", "Kartesian"]),
            "flags": st.booleans(),
            "names": st.sampled_from(["line", "lines", "both", "ends", "labels", "title"]),
            "tail": st.sampled_from(["", "_pv", "/79d9987a", "_sv_GW/1f"]),
            "remark": st.sampled_from(["", " ! remark 1", " # 2", " in words"]),
        }
    ),
)
def test_real_crystals_come_back_whatever_the_variant(crystal: Crystal, variant: dict[str, Any]) -> None:
    back = read_both(write(crystal, variant))
    assert back.symbols == crystal.symbols
    np.testing.assert_allclose(back.lattice, crystal.lattice, atol=1e-10)
    np.testing.assert_allclose(back.frac_coords, crystal.frac_coords, atol=1e-10)


@pytest.mark.parametrize("crystal", CRYSTALS, ids=lambda crystal: crystal.formula)
@pytest.mark.parametrize("mode", ["Direct", "Cartesian"])
@pytest.mark.parametrize("scale", ["one", "factor", "volume", "three"])
def test_ase_and_pymatgen_read_the_same(crystal: Crystal, mode: str, scale: str) -> None:
    variant = {"numbers": "plain", "separator": " ", "scale": scale, "mode": mode, "flags": False, "names": "line",
               "tail": "", "remark": ""}  # fmt: skip
    text = write(crystal, variant)
    ours = read_structure(text)
    if np.linalg.det(crystal.lattice) > 0:  # ase takes the sign of the volume into the scale
        atoms = ase_read(StringIO(text), format="vasp")
        np.testing.assert_allclose(ours.lattice, atoms.cell.array, atol=1e-9)
        np.testing.assert_allclose(ours.frac_coords @ ours.lattice, atoms.positions, atol=1e-9)
        assert list(ours.symbols) == atoms.get_chemical_symbols()
    if scale in ("one", "factor"):  # pymatgen reads no third factor, and scales positions by a volume
        structure = Poscar.from_str(text).structure
        np.testing.assert_allclose(ours.lattice, structure.lattice.matrix, atol=1e-9)
        np.testing.assert_allclose(ours.frac_coords, structure.frac_coords, atol=1e-9)
