"""Parting rows: disjoint, whole, repeatable."""

from dataclasses import replace

import numpy as np
import pytest

from deepergatgnn.errors import ConfigError
from tests.fixtures import bundled
from training.config import SplitConfig
from training.splits import Split, shared_formulas, split_rows

CONFIGS = {
    "rows": SplitConfig(test_fraction=0.2, validation_fraction=0.1, calibration_fraction=0.1),
    "formulas": SplitConfig(test_fraction=0.2, validation_fraction=0.1, calibration_fraction=0.1, by="formula"),
    # The space group stands for a column of official folds.
    "folds": SplitConfig(test_field="space_group", test_fold=225),
}
each = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def parts(split: Split) -> list[list[int]]:
    return [getattr(split, name).tolist() for name in split.sizes()]


def formulas(rows: np.ndarray) -> set[str]:
    return {bundled().rows[row].crystal.reduced_formula for row in rows}


@each
def test_the_parts_are_disjoint_and_together_are_all_rows(config: SplitConfig) -> None:
    together = [row for part in parts(split_rows(bundled(), config, seed=0)) for row in part]
    assert sorted(together) == list(range(len(bundled().rows)))


@each
def test_the_same_seed_gives_the_same_parts_and_another_gives_others(config: SplitConfig) -> None:
    one = split_rows(bundled(), config, seed=3)
    assert parts(one) == parts(split_rows(bundled(), config, seed=3))
    assert parts(one) != parts(split_rows(bundled(), config, seed=4))


@each
def test_rows_keep_their_order(config: SplitConfig) -> None:
    assert all(part == sorted(part) for part in parts(split_rows(bundled(), config, seed=0)))


def test_the_sizes_are_those_asked_for() -> None:
    count = len(bundled().rows)
    sizes = split_rows(bundled(), CONFIGS["rows"], seed=0).sizes()
    rest = count - round(0.2 * count)
    assert sizes["test"] == round(0.2 * count)
    assert sizes["validation"] == sizes["calibration"] == round(0.1 * rest)
    assert sum(sizes.values()) == count


def test_whole_formulas_come_near_the_sizes_asked_for() -> None:
    largest = max(np.unique([row.crystal.reduced_formula for row in bundled().rows], return_counts=True)[1].tolist())
    by_row = split_rows(bundled(), CONFIGS["rows"], seed=0).sizes()
    by_formula = split_rows(bundled(), CONFIGS["formulas"], seed=0).sizes()
    for name in ("test", "validation", "calibration"):
        assert 0 <= by_formula[name] - by_row[name] + largest <= 2 * largest, name


@pytest.mark.parametrize("seed", range(5))
def test_parts_by_formula_share_no_formula(seed: int) -> None:
    split = split_rows(bundled(), CONFIGS["formulas"], seed=seed)
    sets = [formulas(np.array(part)) for part in parts(split)]
    assert sum(map(len, sets)) == len(set.union(*sets))
    assert shared_formulas(bundled(), split) == 0


def test_parts_by_row_may_share_formulas_and_the_count_says_how_many() -> None:
    split = split_rows(bundled(), CONFIGS["rows"], seed=0)
    assert shared_formulas(bundled(), split) == len(formulas(split.test) & formulas(split.train)) > 0


def test_an_official_fold_is_the_test_part_whatever_the_seed() -> None:
    wanted = [index for index, row in enumerate(bundled().rows) if row.fields["space_group"] == 225]
    for seed in range(3):
        assert split_rows(bundled(), CONFIGS["folds"], seed=seed).test.tolist() == wanted


def test_a_fold_column_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="'mb_kvrh_fold'"):
        split_rows(bundled(), SplitConfig(test_field="mb_kvrh_fold", test_fold=0), seed=0)


def test_a_fold_that_no_row_has_leaves_no_test_part() -> None:
    with pytest.raises(ConfigError, match="no rows for test"):
        split_rows(bundled(), SplitConfig(test_field="space_group", test_fold=999), seed=0)


def test_too_few_rows_are_refused_with_the_parts_that_would_be_empty() -> None:
    few = replace(bundled(), rows=bundled().rows[:4])
    with pytest.raises(ConfigError, match=r"no rows for validation, calibration, test: .* has 4 rows"):
        split_rows(few, SplitConfig(), seed=0)
    with pytest.raises(ConfigError, match="no rows for train"):
        split_rows(few, SplitConfig(test_fraction=0.99), seed=0)


def test_no_part_depends_on_the_values() -> None:
    """Rows with other targets are drawn alike: the split cannot leak what is to be predicted."""
    blind = replace(bundled(), rows=tuple(replace(row, targets={}) for row in bundled().rows))
    for config in CONFIGS.values():
        assert parts(split_rows(blind, config, 0)) == parts(split_rows(bundled(), config, 0))
