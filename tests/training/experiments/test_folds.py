"""What the folds of a configuration are."""

from typing import Any

import pytest

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.run_data import assemble_run_data
from deepergatgnn.training.experiments.fold_results import configuration_digest
from deepergatgnn.training.experiments.folds import plan_folds
from tests.support.cross_validated import Validated, configuration


def planned(data: str, **split: Any) -> list[tuple[str, TrainingConfig]]:
    config = configuration(data, split=split, seed=7)
    return [(fold.name, fold.config) for fold in plan_folds(config, lambda: assemble_run_data(config))]


def test_official_folds_are_all_values_of_their_columns(validated: Validated) -> None:
    folds = planned(validated.data, test_field="fold", test_fold=1)
    assert [(name, config.split.test_fold) for name, config in folds] == [("fold-0", 0), ("fold-1", 1), ("fold-2", 2)]
    both = planned(validated.data, test_field=["fold", "other"], test_fold=1)
    assert [config.split.test_fold for _, config in both] == [0, 1, 2]
    # Text could be anything and is no name of a folder.
    sides = planned(validated.data, test_field="side", test_fold="left")
    assert [(name, config.split.test_fold) for name, config in sides] == [("fold-0", "left"), ("fold-1", "right")]


def test_seeds_draw_other_splits_and_begin_with_the_runs_own(validated: Validated) -> None:
    folds = planned(validated.data, seeds=3)
    assert [(name, config.seed) for name, config in folds] == [("seed-7", 7), ("seed-8", 8), ("seed-9", 9)]
    tests = [tuple(assemble_run_data(config).split.test) for _, config in folds]
    assert len(set(tests)) == 3


def test_members_of_one_seed_are_not_those_of_the_next(validated: Validated) -> None:
    config = configuration(validated.data, split={"seeds": 2}, members=3)
    assert [fold.config.seed for fold in plan_folds(config, lambda: assemble_run_data(config))] == [0, 3]


def test_five_folds_if_nothing_is_said(validated: Validated) -> None:
    folds = planned(validated.data)
    assert [(config.split.folds, config.split.fold) for _, config in folds] == [(5, fold) for fold in range(5)]


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ({"lists": {"train": ["a"], "test": ["b"]}}, "lists is a single split"),
        ({"test_field": "same", "test_fold": 1}, "has only the value 1: nothing is left"),
        ({"test_field": "half", "test_fold": 1}, r"has the value 0\.0"),
    ],
)
def test_what_cannot_be_cross_validated_is_refused(validated: Validated, split: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        planned(validated.data, **split)


def test_the_digest_is_of_all_that_the_folds_have_in_common(validated: Validated) -> None:
    config = validated.config
    same = [
        config.model_copy(update={"seed": 5, "name": "other"}),
        config.model_copy(update={"split": config.split.model_copy(update={"fold": 2})}),
        config.model_copy(update={"split": config.split.model_copy(update={"folds": None})}),
    ]
    assert {configuration_digest(each) for each in same} == {configuration_digest(config)}
    longer = configuration(validated.data, optimization={"epochs": 3, "batch_size": 16})
    by_formula = config.split.model_copy(update={"by": "formula"})
    assert configuration_digest(longer) != configuration_digest(config)
    assert configuration_digest(config.model_copy(update={"split": by_formula})) != configuration_digest(config)
