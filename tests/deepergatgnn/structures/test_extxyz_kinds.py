"""extxyz of every kind that ase writes and reads, and those that must not be guessed."""

from io import StringIO
from typing import Any, Final

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.io import read as ase_read
from ase.io import write as ase_write
from ase.spacegroup import crystal as ase_crystal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepergatgnn.errors import StructureError, StructureErrorCode
from deepergatgnn.structures import Crystal, read_structure
from deepergatgnn.structures.text import detect_format
from tests.support.fixtures import some_crystals

# Its matrix is not its transpose.
VECTORS: Final = np.array([[4.1, 0.5, 0.0], [0.0, 4.2, 0.25], [0.0, 0.0, 4.3]])
FLAT: Final = "4.1 0.5 0 0 4.2 0.25 0 0 4.3"
LATTICE: Final = f'Lattice="{FLAT}"'
SPECIES: Final = "Properties=species:S:1:pos:R:3"
PERIODIC: Final = 'pbc="T T T"'
NUMBERED: Final = "55 0 0 0\n17 2.05 2.1 2.15"
WHOLE: Final = "Cs 0 0 0 1\nCl 2.05 2.1 2.15 1.0"
TURNED: Final = "0 0 0 Cs\n2.05 2.1 2.15 Cl"
ROWS: Final = "Cs 0 0 0\nCl 2.05 2.1 2.15"
NESTED: Final = "[[4.1, 0.5, 0], [0, 4.2, 0.25], [0, 0, 4.3]]"
CRYSTALS: Final = some_crystals(8)


def frame(*words: str, rows: str = ROWS) -> str:
    """Two atoms, and what a test writes into the comment."""
    return "\n".join([str(len(rows.split("\n"))), " ".join(words), rows, ""])


def given_(*, lattice: str = LATTICE, pbc: str = PERIODIC, properties: str = SPECIES, rows: str = ROWS) -> str:
    """The same, by what is changed."""
    return frame(lattice, properties, pbc, rows=rows)


def read_both(text: str) -> Crystal:
    """Read a text with the format named and not named, alike."""
    assert detect_format(text) == "extxyz"
    named, detected = read_structure(text, format="extxyz"), read_structure(text)
    assert named.warnings == detected.warnings
    np.testing.assert_array_equal(named.frac_coords, detected.frac_coords)
    return detected


# Why it must be read, the text, what must be said (a part of each warning), whether ase reads the same.
READ: Final[list[tuple[str, str, tuple[str, ...], bool]]] = [
    ("plain", given_(), (), True),
    # Lattices.
    ("braces", given_(lattice=f"Lattice={{{FLAT}}}"), (), True),
    ("brackets", given_(lattice=f"Lattice=[{FLAT}]"), (), True),
    ("brackets and commas", given_(lattice=f"Lattice=[{FLAT.replace(' ', ', ')}]"), (), True),
    ("apostrophes", given_(lattice=f"Lattice='{FLAT}'"), (), True),
    ("commas alone", given_(lattice=f"Lattice={FLAT.replace(' ', ',')}"), (), True),
    ("commas in quotes", given_(lattice=f'Lattice="{FLAT.replace(" ", ",")}"'), (), True),
    ("blanks around the sign", given_(lattice=f'Lattice = "{FLAT}"'), (), True),
    ("a quoted key", given_(lattice=f'"Lattice"="{FLAT}"'), (), True),
    ("nested, the vectors are rows", given_(lattice=f"Lattice={NESTED}"), (), False),
    ("nested without blanks", given_(lattice=f"Lattice={NESTED.replace(' ', '')}"), (), False),
    ("nested in quotes", given_(lattice=f'Lattice="{NESTED}"'), (), False),
    ("nested as JSON", given_(lattice=f'Lattice="_JSON {NESTED}"'), (), False),
    ("nested braces", given_(lattice="Lattice={{4.1 0.5 0} {0 4.2 0.25} {0 0 4.3}}"), (), False),
    ("nested braces in quotes", given_(lattice='Lattice="{4.1 0.5 0} {0 4.2 0.25} {0 0 4.3}"'), (), False),
    ("semicolons", given_(lattice='Lattice="4.1 0.5 0; 0 4.2 0.25; 0 0 4.3"'), (), False),
    ("D exponents", given_(lattice=LATTICE.replace("4.1", "0.41D+01"), rows=ROWS.replace("2.05", "2.05d0")), (), False),
    # Periodicity.
    *[
        (f"pbc {pbc}", given_(pbc=f"pbc={pbc}"), (), True)
        for pbc in ("[T, T, T]", "[true,true,true]", "{T T T}", '"1 1 1"', "T", "1", "True", "TTT", "T,T,T", "[T T T]")
    ],
    ("pbc of Fortran", given_(pbc='pbc=".true. .true. .TRUE."'), (), True),
    ("pbc without quotes", given_(pbc="pbc=T T T"), (), True),
    ("an empty line first", "\n \n" + given_(), (), False),
    ("pbc as JSON", given_(pbc='pbc="_JSON [true, true, true]"'), (), True),
    ("pbc without a value", given_(pbc="pbc"), (), True),
    ("no pbc", given_(pbc=""), ("does not say pbc",), True),
    # Keys.
    ("a key in lower case beside", given_(pbc=f"lattice=bcc {PERIODIC} properties=none PBC=F"), (), True),
    ("a key in lower case before", frame("lattice=bcc", "PBC=F", LATTICE, SPECIES, PERIODIC), (), True),
    ("keys in another case alone", given_().replace("Lattice", "lattice").replace("Prop", "prop"), (), False),
    ("the same twice", given_(pbc=f"{PERIODIC} Lattice=[{FLAT}]"), (), True),
    ("escaped quotes", frame('title="a \\"Lattice=5\\" b"', LATTICE, SPECIES, PERIODIC), (), True),
    ("keys in a value", frame("title='pbc=F Lattice=5'", LATTICE, SPECIES, PERIODIC), (), True),
    ("keys without values", frame("relaxed", LATTICE, "done", SPECIES, PERIODIC), (), True),
    ("names that go on", frame("Lattice_x=3", "Lattice2=[1,1]", LATTICE, SPECIES, PERIODIC), (), True),
    ("a remark first", frame("# made by hand,", LATTICE, SPECIES, PERIODIC), (), True),
    ("an apostrophe in a word", frame("title=it's", LATTICE, SPECIES, PERIODIC), (), False),
    ("displacement and origin", given_(pbc=f'{PERIODIC} Origin="1 1 1" celldisp="1 1 1"'), (), True),
    ("whole occupancies", given_(pbc=f'{PERIODIC} occupancy="_JSON {{\\"0\\": {{\\"Cs\\": 1.0}}}}"'), (), True),
    # Columns.
    ("default properties", given_(properties=""), (), True),
    ("positions first", given_(properties="Properties=pos:R:3:species:S:1", rows=TURNED), (), True),
    ("quoted", given_(properties='Properties="species:S:1:pos:R:3"'), (), True),
    ("names of ase", given_(properties="Properties=symbols:S:1:positions:R:3"), (), True),
    ("numbers", given_(properties="Properties=Z:I:1:pos:R:3", rows=NUMBERED), (), True),
    ("numbers by name", given_(properties="Properties=numbers:I:1:pos:R:3", rows=NUMBERED), (), True),
    (
        "numbers, written out",
        given_(properties="Properties=atomic_numbers:I:1:pos:R:3", rows=NUMBERED),
        (),
        False,
    ),
    (
        "both, in accord",
        given_(properties="Properties=species:S:1:Z:I:1:pos:R:3", rows="Cs 55 0 0 0\nCl 17 2.05 2.1 2.15"),
        (),
        True,
    ),
    (
        "effective charges called Z",
        given_(properties=f"{SPECIES}:Z:R:1", rows="Cs 0 0 0 1.3\nCl 2.05 2.1 2.15 -1.3"),
        ("property Z is ignored",),
        False,
    ),
    (
        "tags and momenta",
        given_(properties=f"{SPECIES}:tags:I:1:momenta:R:3", rows="Cs 0 0 0 1 0 0 0\nCl 2.05 2.1 2.15 2 0 0 1"),
        ("tags, momenta are ignored",),
        True,
    ),
    ("whole occupancies by atom", given_(properties=f"{SPECIES}:occupancy:R:1", rows=WHOLE),
        (), True),
    ("capitals", given_(rows=ROWS.replace("Cs", "CS").replace("Cl", "cl")), ("'CS'", "'cl'"), True),
    ("charges", given_(rows=ROWS.replace("Cs", "Cs+")), ("Oxidation states",), False),
    ("more columns than it says", given_(rows=ROWS.replace("\n", " 1 2\n")), ("more columns than Properties=",), True),
    ("remarks after the columns", given_(rows=ROWS.replace("\n", " # first 1\n")), (), True),
    ("occupancies of two columns",
        given_(properties=f"{SPECIES}:occupancy:R:2", rows="Cs 0 0 0 1 2\nCl 2.05 2.1 2.15 1 2"),
        ("property occupancy is ignored",), True),
    ("occupancies that are no number", given_(pbc=f"{PERIODIC} occupancy=full"), ("occupancy is ignored",), True),
    ("text that is no frame", given_() + "VEC1 4.1 0.5 0\nVEC2 0 4.2 0.25\n", ("first frame",), False),
    ("another frame", given_() + given_(), ("first frame",), False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said", "as_ase"), [row[1:] for row in READ], ids=[row[0] for row in READ])
def test_read_as_ase_does(text: str, said: tuple[str, ...], as_ase: bool) -> None:
    crystal = read_both(text)
    assert crystal.symbols == ("Cs", "Cl")
    np.testing.assert_allclose(crystal.lattice, VECTORS, atol=1e-12)
    np.testing.assert_allclose(crystal.frac_coords @ VECTORS, [[0, 0, 0], [2.05, 2.1, 2.15]], atol=1e-12)
    assert len(crystal.warnings) == len(said), crystal.warnings
    assert all(part in warning for part, warning in zip(said, crystal.warnings, strict=True))
    if as_ase:
        atoms = ase_read(StringIO(text), format="extxyz")
        assert list(crystal.symbols) == atoms.get_chemical_symbols()
        np.testing.assert_allclose(crystal.lattice, atoms.cell.array)
        assert atoms.pbc.all()


def test_heavy_hydrogen_is_told() -> None:
    crystal = read_both(given_(rows=ROWS.replace("Cs", "D")))
    assert crystal.symbols == ("H", "Cl")
    assert "(D) is read as H" in crystal.warnings[0]


Z_AND_SPECIES: Final = "Properties=species:S:1:Z:I:1:pos:R:3"
PARTIAL: Final = 'occupancy="_JSON {\\"0\\": {\\"Cs\\": 0.5}, \\"1\\": {\\"Cl\\": 1.0}}"'
MIXED: Final = 'occupancy="_JSON {\\"0\\": {\\"Cs\\": 0.5, \\"K\\": 0.5}}"'

# Why it is refused, the code, the text, what its sentence must hold.
REFUSED: Final[list[tuple[str, StructureErrorCode, str, tuple[str, ...]]]] = [
    ("eight numbers", "bad_cell", given_(lattice='Lattice="4.1 0 0 0 4.1 0 0 0.04.1"'), ("0.04.1", "nine numbers")),
    ("ten numbers", "bad_cell", given_(lattice=LATTICE.replace("4.1", "4.1 0")), ("nine numbers",)),
    ("three numbers", "bad_cell", given_(lattice='Lattice="4.1 4.1 4.1"'), ("nine numbers",)),
    ("three lists apart", "bad_cell", given_(lattice="Lattice=[4 1 0] [0 4 2] [0 0 4]"), ("nine numbers",)),
    ("lists of four", "bad_cell", given_(lattice="Lattice=[[4,0,0,0],[4,0,0],[0,4]]"), ("three lists",)),
    ("a word", "bad_cell", given_(lattice="lattice=bcc"), ("'bcc'", "nine numbers")),
    ("no lattice", "no_structure", given_(lattice=""), ("no cell", 'add Lattice="')),
    ("a lattice in a value", "no_structure", given_(lattice="title='Lattice=5'"), ("no cell",)),
    ("two lattices", "unreadable", given_(pbc=f'Lattice="5 0 0 0 5 0 0 0 5" {PERIODIC}'), ("Lattice twice", "5 0 0")),
    ("two kinds of columns", "unreadable", given_(pbc="Properties=pos:R:3:species:S:1"), ("Properties twice",)),
    *[
        (f"pbc {pbc}", "no_structure", given_(pbc=f"pbc={pbc}"), ("pbc",))
        for pbc in ('"T T F"', "[T, T, F]", "F", "0", "{F F F}", "FFF", '"T T"', "[true,false,true]", "yes", "TTF")
    ],  # type: ignore[list-item]
    ("pbc without quotes, a slab", "no_structure", given_(pbc="pbc=T T F"), ("T T F",)),
    ("pbc after a blank, a slab", "no_structure", given_(pbc="pbc= T T F"), ("T T F",)),
    ("an atom more than counted", "unreadable", given_().replace("2", "1", 1), ("declares 1", "'Cl 2.05 2.1 2.15'")),
    ("a column that is not there", "unreadable",
        given_(properties="Properties=species:S:1:charge:R:1:pos:R:3:f:R:3",
            rows="Cs 0 0 0 0 0 0\nCl 2.05 2.1 2.15 0 0 0"), ("atom 1", "7 columns", "says 8")),
    *[
        (f"partial by {key}", "disordered",
            given_(properties=f"{SPECIES}:{key}:R:1", rows=WHOLE.replace("1\n", ".5\n")), ("Atom 1", "50 %"))
        for key in ("occ", "occu", "Occupancy", "occupancies", "site_occupancies", "atomic_occupancy")
    ],  # type: ignore[list-item]
    *[
        (f"partial as {value}", "disordered", given_(pbc=f"{PERIODIC} occupancy={value}"), ("50 % Cs",))
        for value in ("{'0': {'Cs': 0.5}}", '"{0: {\'Cs\': 0.5}, 1: {\'Cl\': 1.0}}"')
    ],  # type: ignore[list-item]
    ("pbc in capitals alone", "no_structure", given_(pbc="PBC=[F,F,F]"), ("pbc",)),
    ("types of LAMMPS", "unknown_element", given_(rows="1 0 0 0\n2 2 2 2"), ("atom 1", "'1'", "LAMMPS", "Z:I:1")),
    ("a ghost", "unknown_element", given_(rows=ROWS.replace("Cl", "X")), ("'X'", "atom 2")),
    ("a label", "unknown_element", given_(rows=ROWS.replace("Cs", "CA1")), ("'CA1'", "atom 1")),
    ("number zero", "unknown_element", given_(properties="Properties=Z:I:1:pos:R:3", rows="0 0 0 0\n17 2 2 2"),
        ("Atom 1", "Z '0'", "1 to 118")),
    ("number 119", "unknown_element", given_(properties="Properties=Z:I:1:pos:R:3", rows="119 0 0 0\n17 2 2 2"),
        ("Z '119'",)),
    ("both, not in accord", "unreadable", given_(properties=Z_AND_SPECIES, rows="Cs 55 0 0 0\nCl 11 2 2 2"),
        ("Atom 2", "Cl by its species", "Na by its Z")),
    ("no elements", "unreadable", given_(properties="Properties=pos:R:3"), ("species:S:1 and Z:I:1",)),
    ("no positions", "unreadable", given_(properties="Properties=species:S:1:forces:R:3"), ("lacks pos:R:3",)),
    ("positions of four", "unreadable", given_(properties="Properties=species:S:1:pos:R:4"), ("lacks pos:R:3",)),
    ("positions twice", "unreadable", given_(properties=f"{SPECIES}:pos:R:3"), ("'pos' twice",)),
    ("a short line", "unreadable", given_(rows="Cs 0 0 0\nCl 2 2"), ("line of atom 2", "complete it")),
    ("no number", "unreadable", given_(rows="Cs 0 0 0\nCl 2 2 two"), ("line of atom 2",)),
    ("partial by ase", "disordered", given_(pbc=f"{PERIODIC} {PARTIAL}"), ("50 % Cs", "occupancy")),
    ("mixed by ase", "disordered", given_(pbc=f"{PERIODIC} {MIXED}"), ("50 % Cs, 50 % K",)),
    ("partial for all", "disordered", given_(pbc=f"{PERIODIC} occupancy=0.5"), ("50 %",)),
    ("partial by atom", "disordered",
        given_(properties=f"{SPECIES}:occupancy:R:1", rows="Cs 0 0 0 0.5\nCl 2 2 2 1"), ("Atom 1", "50 %")),
    ("more keys than anyone needs", "unreadable", given_(pbc="a " * 20_000), ("10,000 keys",)),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_with_the_value_and_the_remedy(code: str, text: str, said: tuple[str, ...]) -> None:
    for format_ in ("auto", "extxyz"):
        with pytest.raises(StructureError) as caught:
            read_structure(text, format=format_)  # type: ignore[arg-type]
        assert caught.value.code == code, caught.value.detail
        assert [part for part in said if part not in caught.value.detail] == [], caught.value.detail


def written(atoms: ase.Atoms, **options: Any) -> str:
    """What ase writes."""
    stream = StringIO()
    ase_write(stream, atoms, format="extxyz", **options)
    return stream.getvalue()


def test_what_ase_writes_of_a_space_group() -> None:
    ordered = ase_crystal("Na", [(0, 0, 0)], spacegroup=225, cellpar=[5.6] * 3 + [90] * 3)
    assert read_both(written(ordered)).formula == "Na4"
    partial = ase_crystal("Na", [(0, 0, 0)], occupancies=[0.5], spacegroup=225, cellpar=[5.6] * 3 + [90] * 3)
    with pytest.raises(StructureError) as caught:
        read_structure(written(partial))
    assert caught.value.code == "disordered"


def test_what_ase_writes_of_numbers_beside_symbols() -> None:
    text = written(bulk("NaCl", "rocksalt", a=5.64), columns=["symbols", "positions", "numbers"])
    assert "Z:I:1" in text
    crystal = read_both(text)
    assert (crystal.symbols, crystal.warnings) == (("Na", "Cl"), ())


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    crystal=st.sampled_from(CRYSTALS),
    elements=st.sampled_from(["species:S:1", "Z:I:1", "numbers:I:1", "species:S:1:Z:I:1"]),
    first=st.booleans(),
    lattice=st.sampled_from(['Lattice="{}"', "Lattice={{{}}}", "Lattice=[{}]", "'Lattice' = '{}'"]),
    pbc=st.sampled_from([PERIODIC, "pbc=[T, T, T]", "pbc=T", "pbc={1 1 1}"]),
    other=st.sampled_from(["", "lattice=fcc", 'name="a \\" = b"', "energy=-1.5D+00"]),
    exponent=st.sampled_from(["e", "D", "d"]),
)
def test_real_crystals_come_back_whatever_the_variant(
    crystal: Crystal, elements: str, first: bool, lattice: str, pbc: str, other: str, exponent: str
) -> None:
    def row(values: Any) -> str:
        return " ".join(f"{value:.15e}" for value in values).replace("e", exponent)

    columns = [elements, "pos:R:3"] if first else ["pos:R:3", elements]
    rows = []
    for number, symbol, position in zip(
        crystal.atomic_numbers, crystal.symbols, crystal.frac_coords @ crystal.lattice, strict=True
    ):
        element = {"species:S:1": symbol, "species:S:1:Z:I:1": f"{symbol} {number}"}.get(elements, str(number))
        rows.append(" ".join([element, row(position)] if first else [row(position), element]))
    text = frame(other, lattice.format(row(crystal.lattice.ravel())), "Properties=" + ":".join(columns), pbc,
                 rows="\n".join(rows))  # fmt: skip
    back = read_both(text)
    assert (back.symbols, back.warnings) == (crystal.symbols, ())
    np.testing.assert_allclose(back.lattice, crystal.lattice, atol=1e-10)
    np.testing.assert_allclose(back.frac_coords, crystal.frac_coords, atol=1e-10)
