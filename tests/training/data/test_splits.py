"""Parting rows: disjoint, whole, repeatable; and what the parts share is said."""

from dataclasses import replace
from hashlib import sha256
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.config.split import SplitConfig
from deepergatgnn.training.data.splits import (
    PARTS,
    chemical_system,
    describe_split,
    split_rows,
    split_sentence,
)
from tests.support.bundled_rows import dataset, first, parts
from tests.support.fixtures import bundled

SIZES = {"test_fraction": 0.2, "validation_fraction": 0.1, "calibration_fraction": 0.1}
CONFIGS = {
    "rows": SplitConfig(**SIZES),
    "formulas": SplitConfig(**SIZES, by="formula"),
    "chemical systems": SplitConfig(**SIZES, by="chemical_system"),
    # The space group stands for a column of official folds.
    "official": SplitConfig(test_field="space_group", test_fold=225),
    "fold": SplitConfig(folds=5, fold=2),
    "fold of formulas": SplitConfig(folds=4, fold=3, by="formula"),
    "numbers of rows": SplitConfig(test_rows=100, validation_rows=50, calibration_rows=70),
}
each = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
# Digests of the parts that long runs were trained on: the same configuration must draw the same rows for ever.
DRAWN: list[tuple[dict[str, Any], int, str]] = [
    ({}, 0, "7155d2372f1f1157"),
    ({}, 1, "b5391e09ad980ec4"),
    (SIZES, 0, "51543022cfc766ea"),
    (SIZES, 1, "293fe7db6dad539e"),
    ({"by": "formula"}, 0, "b88f0816c0143f5f"),
    ({"by": "formula"}, 1, "83f881ddd5b7ef58"),
    ({"test_field": "space_group", "test_fold": 225}, 0, "6ee2d987dc2b3506"),
    ({"test_field": "space_group", "test_fold": 225}, 1, "e9a02d8dd7f4ece0"),
    ({"test_field": ("space_group",), "test_fold": 225, "by": "formula"}, 0, "e312cd888ceeceac"),
    ({"test_field": ("space_group",), "test_fold": 225, "by": "formula"}, 1, "1c76b33a64ca5cfa"),
]


def formulas(rows: list[int]) -> set[str]:
    return {dataset().formulas[row] for row in rows}


@pytest.mark.parametrize(("options", "seed", "drawn"), DRAWN)
def test_the_rows_that_were_drawn_once_are_drawn_for_ever(options: dict[str, Any], seed: int, drawn: str) -> None:
    found = parts(split_rows(dataset(), SplitConfig(**options), seed))
    content = b"".join(np.array([len(part), *part]).astype("<i8").tobytes() for part in found)
    assert sha256(content).hexdigest()[:16] == drawn


def test_options_that_are_not_given_are_not_in_what_a_state_is_known_by() -> None:
    """A state is taken up by the digest of the options that differ from their defaults: new ones must not show."""
    options = {"test_field": ["mb_e_form_fold", "mb_gap_fold"], "test_fold": 0}
    assert SplitConfig.model_validate(options).model_dump(mode="json", exclude_defaults=True) == options


@each
def test_the_parts_are_disjoint_and_together_are_all_rows(config: SplitConfig) -> None:
    together = [row for part in parts(split_rows(dataset(), config, seed=0)) for row in part]
    assert sorted(together) == list(range(len(dataset())))


@each
def test_the_same_seed_gives_the_same_parts_and_another_gives_others(config: SplitConfig) -> None:
    one = split_rows(dataset(), config, seed=3)
    assert parts(one) == parts(split_rows(dataset(), config, seed=3))
    assert parts(one) != parts(split_rows(dataset(), config, seed=4))


@each
def test_rows_keep_their_order(config: SplitConfig) -> None:
    assert all(part == sorted(part) for part in parts(split_rows(dataset(), config, seed=0)))


def test_the_sizes_are_those_asked_for() -> None:
    count = len(dataset())
    sizes = split_rows(dataset(), CONFIGS["rows"], seed=0).sizes()
    rest = count - round(0.2 * count)
    assert sizes["test"] == round(0.2 * count)
    assert sizes["validation"] == sizes["calibration"] == round(0.1 * rest)
    assert sum(sizes.values()) == count
    sizes = split_rows(dataset(), CONFIGS["numbers of rows"], seed=0).sizes()
    assert sizes == {"train": count - 220, "validation": 50, "calibration": 70, "test": 100}


@pytest.mark.parametrize("name", ["formulas", "chemical systems"])
def test_whole_groups_come_near_the_sizes_asked_for(name: str) -> None:
    groups = dataset().formulas if name == "formulas" else [chemical_system(f) for f in dataset().formulas]
    largest = max(np.unique(groups, return_counts=True)[1].tolist())
    by_row = split_rows(dataset(), CONFIGS["rows"], seed=0).sizes()
    by_group = split_rows(dataset(), CONFIGS[name], seed=0).sizes()
    for part in ("test", "validation", "calibration"):
        assert 0 <= by_group[part] - by_row[part] + largest <= 2 * largest, part


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["formulas", "chemical systems"])
def test_parts_by_group_share_no_formula(name: str, seed: int) -> None:
    split = split_rows(dataset(), CONFIGS[name], seed=seed)
    sets = [formulas(part) for part in parts(split)]
    assert sum(map(len, sets)) == len(set.union(*sets))
    assert set(describe_split(dataset(), split).values()) == {0}
    if name == "chemical systems":
        systems = [{chemical_system(formula) for formula in part} for part in sets]
        assert sum(map(len, systems)) == len(set.union(*systems))


def test_parts_by_formula_may_share_chemical_systems_and_by_system_may_not() -> None:
    """The wider group is another draw, not the same one under another name."""
    split = split_rows(dataset(), CONFIGS["formulas"], seed=0)
    systems = [{chemical_system(formula) for formula in formulas(part)} for part in parts(split)]
    assert systems[0] & systems[3]


@pytest.mark.parametrize(
    ("formula", "system"),
    [("Ba(MgPb)2", "Ba-Mg-Pb"), ("Si", "Si"), ("NaCl", "Cl-Na"), ("Co2CO4", "C-Co-O"), ("In2(Sn3I)4N", "I-In-N-Sn")],
)
def test_the_chemical_system_of_a_formula(formula: str, system: str) -> None:
    assert chemical_system(formula) == system


def test_the_chemical_system_is_that_of_the_atoms() -> None:
    for row, formula in zip(bundled().rows, dataset().formulas, strict=True):
        assert chemical_system(formula) == "-".join(sorted(set(row.crystal.symbols)))


def test_the_formulas_that_each_pair_of_parts_shares_are_counted() -> None:
    split = split_rows(dataset(), CONFIGS["rows"], seed=0)
    found = describe_split(dataset(), split)
    assert next(iter(found)) == "formulas_shared_by_train_and_test"
    assert len(found) == 6
    for one, other in combinations(PARTS, 2):
        by_hand = len(formulas(getattr(split, one).tolist()) & formulas(getattr(split, other).tolist()))
        assert found[f"formulas_shared_by_{one}_and_{other}"] == by_hand
    assert found["formulas_shared_by_train_and_test"] > 0


def test_the_sentence_names_sizes_and_what_is_shared() -> None:
    split = split_rows(dataset(), CONFIGS["rows"], seed=0)
    notes = describe_split(dataset(), split)
    said = split_sentence(split.sizes(), notes | {"extra_rows": 3})
    assert said.startswith("split: train 722, validation 90, calibration 90, test 226; formulas shared by ")
    assert f"train and test {notes['formulas_shared_by_train_and_test']}" in said
    assert said.count(" and ") == 6


@given(folds=st.integers(2, 12), seed=st.integers(0, 2**32 - 1), by=st.sampled_from(["row", "formula"]))
def test_folds_are_a_partition_of_the_rows_into_parts_of_about_equal_size(folds: int, seed: int, by: str) -> None:
    tests = [
        split_rows(dataset(), SplitConfig.model_validate({"folds": folds, "fold": fold, "by": by}), seed).test
        for fold in range(folds)
    ]
    assert sorted(np.concatenate(tests).tolist()) == list(range(len(dataset())))
    largest = 1 if by == "row" else max(np.unique(dataset().formulas, return_counts=True)[1].tolist())
    sizes = [len(test) for test in tests]
    assert max(sizes) - min(sizes) <= 2 * largest
    if by == "row":
        assert max(sizes) - min(sizes) <= 1
    else:
        sets = [formulas(test.tolist()) for test in tests]
        assert sum(map(len, sets)) == len(set.union(*sets))


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 rows or groups of rows cannot be 5 folds"):
        split_rows(first(4), SplitConfig(folds=5), seed=0)


def test_an_official_fold_is_the_test_part_whatever_the_seed() -> None:
    wanted = [index for index, row in enumerate(bundled().rows) if row.fields["space_group"] == 225]
    for seed in range(3):
        assert split_rows(dataset(), CONFIGS["official"], seed=seed).test.tolist() == wanted


def test_reserved_rows_are_learned_and_change_no_other_draw() -> None:
    """A run that starts from a network with two targets is validated on the rows that this one was validated on."""
    rows = range(len(dataset()))
    fields = {"one": [row % 5 for row in rows], "two": [row % 7 for row in rows]}
    late, kept = [dataset().ids[row] for row in (11, 12, 35)], [row for row in rows if row not in {11, 12, 35}]
    before = replace(
        dataset(),
        ids=[dataset().ids[row] for row in kept],
        formulas=[dataset().formulas[row] for row in kept],
        fields={name: [column[row] for row in kept] for name, column in fields.items()},
    )
    both = split_rows(before, SplitConfig(test_field=("one", "two"), test_fold=0), seed=3)
    config = SplitConfig(test_field="one", test_fold=0, reserved_field="two", reserved_ids=tuple(late))
    split = split_rows(replace(dataset(), fields=fields), config, seed=3)
    for part in ("validation", "calibration"):
        assert getattr(split, part).tolist() == [kept[row] for row in getattr(both, part)]
    assert split.test.tolist() == [row for row in rows if row % 5 == 0]
    assert {11, 12} <= set(split.train.tolist())
    assert sum(split.sizes().values()) == len(dataset())
    assert config.record().items() >= {"reserved_field": "two", "reserved_ids": late}.items()
    with pytest.raises(ConfigError, match=r"reserved_ids: .* has no row 'absent'"):
        split_rows(replace(dataset(), fields=fields), config.model_copy(update={"reserved_ids": ("absent",)}), seed=3)


@pytest.mark.parametrize(("old", "new"), [("apart_field", "reserved_field"), ("apart_ids", "reserved_ids")])
def test_former_names_of_options_are_deprecated(old: str, new: str) -> None:
    value: Any = "fold" if new == "reserved_field" else ["a", "b"]
    document: dict[str, Any] = {"test_field": "one", "test_fold": 0}
    with pytest.warns(FutureWarning, match=f"split.{old} is deprecated: write {new}"):
        config = SplitConfig.model_validate(document | {old: value})
    assert config == SplitConfig.model_validate(document | {new: value})
    with pytest.raises(ValueError, match=f"give {new} alone"):
        SplitConfig.model_validate(document | {old: value, new: value})


def test_an_official_fold_may_be_text() -> None:
    named = replace(dataset(), fields={"split": ["test" if row % 3 == 0 else "train" for row in range(len(dataset()))]})
    split = split_rows(named, SplitConfig(test_field="split", test_fold="test"), seed=0)
    assert split.test.tolist() == list(range(0, len(named), 3))


def test_a_fold_column_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="'mb_kvrh_fold'"):
        split_rows(dataset(), SplitConfig(test_field="mb_kvrh_fold", test_fold=0), seed=0)


def test_a_fold_that_no_row_has_leaves_no_test_part() -> None:
    with pytest.raises(ConfigError, match="no rows for test"):
        split_rows(dataset(), SplitConfig(test_field="space_group", test_fold=999), seed=0)


def test_too_few_rows_are_refused_with_the_parts_that_would_be_empty() -> None:
    with pytest.raises(ConfigError, match=r"no rows for validation, calibration, test: .* has 4 rows"):
        split_rows(first(4), SplitConfig(), seed=0)
    with pytest.raises(ConfigError, match="no rows for train"):
        split_rows(first(4), SplitConfig(test_fraction=0.99), seed=0)


def test_no_part_depends_on_the_values() -> None:
    """Rows with other targets are drawn alike: the split cannot leak what is to be predicted."""
    known = replace(dataset(), columns={"log10_K_VRH": bundled().values(["log10_K_VRH"])[:, 0]})
    for config in CONFIGS.values():
        assert parts(split_rows(known, config, 0)) == parts(split_rows(dataset(), config, 0))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"test_field": "fold"}, "both test_field and test_fold"),
        ({"test_fold": 0}, "both test_field and test_fold"),
        ({"folds": 1}, "folds"),
        ({"folds": 5, "fold": 5}, "fold 5 does not exist"),
        ({"fold": 1}, "fold 1 does not exist"),
        ({"folds": 5, "seeds": 5}, "only one of folds and seeds"),
        ({"test_field": "fold", "test_fold": 0, "folds": 5}, "only one of test_field and folds"),
        ({"lists": "missing.json"}, "missing.json: No such file"),
        ({"lists": {"train": ["a"]}}, "lists"),
        ({"by": "luck"}, "by"),
        ({"reserved_field": "fold"}, "require test_field"),
        ({"test_rows": 0}, "test_rows"),
        ({"calibration_fraction": 0}, "calibration_fraction"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        SplitConfig.model_validate(options)


def test_the_record_has_what_decided_and_no_more() -> None:
    assert SplitConfig().record() == {
        "test_fraction": 0.1,
        "validation_fraction": 0.05,
        "by": "row",
    }
    assert "test_fraction" not in CONFIGS["official"].record()
    assert CONFIGS["fold"].record().items() >= {"folds": 5, "fold": 2}.items()
    assert CONFIGS["numbers of rows"].record().keys() == {"test_rows", "validation_rows", "calibration_rows", "by"}
