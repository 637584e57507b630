"""Every tabulated setting of every space group by each of its names: the same operators, or what it leaves open."""

import gemmi
import pytest

from deepergatgnn.structures.cif.operators import Operators, of_gemmi, parse_operators
from deepergatgnn.structures.cif.settings import setting_of_hall, settings_of_name, settings_of_number
from deepergatgnn.structures.cif.statements import gather

TABLE = list(gemmi.spacegroup_table())
assert len(TABLE) == 564


def operators(group: gemmi.SpaceGroup) -> Operators:
    return of_gemmi(group.operations())


SPELLINGS = {
    "as tabulated": lambda name: name,
    "without blanks": lambda name: name.replace(" ", ""),
    "with underscores": lambda name: name.replace(" ", "_"),
    "in capitals": lambda name: name.upper(),
    "in small letters": lambda name: name.lower(),
    "quoted": lambda name: f"'{name}'",
    "with screw axes in parentheses": lambda name: name.replace("21", "2(1)").replace("63", "6(3)"),
    "with screw axes as indices": lambda name: name.replace("21", "2_1").replace("63", "6_3"),
    "with its number": lambda name: f"{name} (No. 1)",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_setting_is_found_by_its_symbol(spelling: str) -> None:
    for group in TABLE:
        found = settings_of_name(SPELLINGS[spelling](group.hm))
        assert any(setting.operators.key == operators(group).key for setting in found), group.xhm()
        # Nothing but an origin, or the axes of a rhombohedral cell, is left open by a whole symbol.
        assert {setting.name.split(":")[0] for setting in found} == {group.hm}


MARKS = {
    "1": (":1", " :1", " S", " (origin choice 1)", " origin 1", " (1)", " O1", " (S)", " first origin"),
    "2": (
        *(
            ":2",
            " :2",
            " Z",
            " (Z)",
            ";2",
            " O2",
            " (origin choice 2)",
            " {origin @ centre (-3m)}",
            " origin choice: 2",
        ),
        *(
            ", origin 2",
            " - origin choice 2",
            " Origin-2",
            " 2nd setting",
            " origin at -3m",
            " (No. 1, origin choice 2)",
        ),
    ),
    "H": (":H", " H", ":h", " (hexagonal axes)"),
    "R": (":R", " R", ":r", " (rhombohedral axes)", " rhombohedral setting"),
}


@pytest.mark.parametrize(("extension", "mark"), [(ext, mark) for ext, marks in MARKS.items() for mark in marks])
def test_a_mark_closes_what_a_symbol_leaves_open(extension: str, mark: str) -> None:
    for group in TABLE:
        if group.ext == extension:
            (found,) = settings_of_name(group.hm + mark)
            assert found.operators.key == operators(group).key, group.xhm()


def test_a_letter_may_follow_a_short_symbol() -> None:
    for extension, letter in (("1", "S"), ("2", "Z"), ("H", "H"), ("R", "R")):
        for group in TABLE:
            if group.ext == extension:
                (found,) = settings_of_name(group.hm.replace(" ", "") + letter)
                assert found.operators.key == operators(group).key, group.xhm()


def test_a_coordinate_system_code_closes_it_too() -> None:
    for group in TABLE:
        code = (group.ext if group.ext.strip("\0") else "") + group.qualifier
        if group.ext in ("H", "R"):
            code = group.ext.lower()
        if code:
            found = settings_of_name(group.hm, code)
            assert [setting.operators.key for setting in found] == [operators(group).key], group.xhm()


def test_every_setting_is_found_by_its_hall_symbol() -> None:
    for group in TABLE:
        for hall in (group.hall, group.hall.replace(" ", "_"), group.hall.lower()):
            setting = setting_of_hall(hall)
            assert setting is not None
            assert setting.operators.key == operators(group).key
            assert setting.number == group.number


def test_a_hall_symbol_keeps_its_double_prime() -> None:
    """It is a quote, and the two symbols are those of different groups."""
    for hall, name in (("-P 3 2", "P -3 1 m"), ('-P 3 2"', "P -3 m 1"), ('R 3 2"', "R 3 2:H")):
        columns = {"_space_group_name_hall": [hall]}
        (found,) = gather(columns).halls
        setting = setting_of_hall(found.text)
        assert setting is not None
        assert setting.name == name


def test_a_short_monoclinic_symbol_leaves_the_unique_axis_open() -> None:
    assert [setting.name for setting in settings_of_name("P 21/n")] == ["P 1 21/n 1", "P 1 1 21/n", "P 21/n 1 1"]
    assert [setting.name for setting in settings_of_name("I2/a")] == ["I 1 2/a 1", "I 1 1 2/a"]
    assert [setting.name for setting in settings_of_name("P 2 (unique axis c)")] == ["P 1 1 2"]


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("P 21/m 21/m 2/n (origin choice 2)", "P m m n:2"),
        ("P 2_1/n 2_1/m 2_1/a", "P n m a"),
        ("F 4/m -3 2/m", "F m -3 m"),
        ("P 63/m 2/m 2/c", "P 63/m m c"),
        ("R -3 2/c :H", "R -3 c:H"),
        ("I 41/a 2/m 2/d :1", "I 41/a m d:1"),
        ("P m 3 m", "P m -3 m"),
        ("Ia3d", "I a -3 d"),
        ("F d 3bar m Z", "F d -3 m:2"),
        ("A e m 2", "A b m 2"),
        ("C m c e", "C m c a"),
        ("B m e 2", "B m a 2"),
        ("P2~1~/c", None),
        ("H 3", "R 3:H"),
    ],
)
def test_full_old_and_new_symbols_are_known(name: str, setting: str | None) -> None:
    found = [one.name for one in settings_of_name(name)]
    assert found == ([setting] if setting else ["P 1 21/c 1", "P 21/c 1 1"])


@pytest.mark.parametrize("name", ["P -3 m", "Q d", "xyz", "P 1 2 1 (2*a+c,b,c)", "", "P 21/q"])
def test_what_is_no_symbol_of_one_setting_is_not_guessed(name: str) -> None:
    assert settings_of_name(name) == ()


def test_a_number_stands_for_the_conventional_setting() -> None:
    assert [setting.name for setting in settings_of_number(227)] == ["F d -3 m:1", "F d -3 m:2"]
    assert [setting.name for setting in settings_of_number(14)] == ["P 1 21/c 1"]
    assert [setting.name for setting in settings_of_number(14, "c2")] == ["P 1 1 21/n"]
    assert settings_of_number(231) == ()


def test_operators_of_every_setting_are_a_group_of_its_number() -> None:
    for group in TABLE:
        listed = parse_operators(tuple(operator.triplet() for operator in group.operations()))
        assert listed.is_group
        assert listed.group_number == group.number
        # Without any one of them they are none, unless they are the identity alone.
        if listed.n_operators > 2:
            rest = parse_operators(tuple(operator.triplet() for operator in list(group.operations())[:-1]))
            assert not rest.is_group
            assert rest.closure is None or rest.closure.key >= rest.key
