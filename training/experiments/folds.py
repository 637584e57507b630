"""Trainings of a cross-validation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.config.split import SplitConfig
from deepergatgnn.training.data.run_data import RunData
from deepergatgnn.training.data.splits import fold_fields

FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """Training of one fold: name of its folder, and its configuration."""

    name: str
    config: TrainingConfig


def plan_folds(config: TrainingConfig, assembled: Callable[[], RunData]) -> list[Fold]:
    """Plan the trainings of a cross-validation.

    One for each value of the columns of official folds, for each of `split.seeds`, or for each of `split.folds`
    (default 5).

    Args:
        config: configuration of the cross-validation.
        assembled: returns the data; called only for official folds.

    Raises:
        ConfigError: if the split has lists, or the column of folds has a single value.
    """
    split = config.split
    if split.lists is not None:
        raise ConfigError("split.lists is a single split: train it, or cross-validate without the lists")
    if split.seeds is not None:
        once = split.model_copy(update={"seeds": None})
        seeds = [config.seed + config.members * number for number in range(split.seeds)]
        return [_fold(config, f"seed-{seed}", once, seed) for seed in seeds]
    if fields := fold_fields(split):
        values = _fold_values(assembled(), fields)
        parts = [split.model_copy(update={"test_fold": value}) for value in values]
        # Text values may contain characters that a folder name must not.
        names = [value if isinstance(value, int) else number for number, value in enumerate(values)]
        return [_fold(config, f"fold-{name}", part, config.seed) for name, part in zip(names, parts, strict=True)]
    count = split.folds or FOLDS
    parts = [split.model_copy(update={"folds": count, "fold": number}) for number in range(count)]
    return [_fold(config, f"fold-{part.fold}", part, config.seed) for part in parts]


def _fold(config: TrainingConfig, name: str, split: SplitConfig, seed: int) -> Fold:
    return Fold(name, config.model_copy(update={"name": name, "split": split, "seed": seed}))


def _fold_values(run_data: RunData, fields: Sequence[str]) -> list[int | str]:
    """Return the sorted values of the columns of official folds."""
    found = [value for field in fields for value in run_data.dataset.fields[field] if value is not None]
    place = f"split.test_field {', '.join(fields)}"
    if other := [value for value in found if not isinstance(value, int | str)]:
        raise ConfigError(f"{place} has the value {other[0]!r}: folds are integers or text")
    values = sorted(set(found), key=lambda value: (isinstance(value, str), value))
    if len(values) < 2:  # noqa: PLR2004 - a test fold and at least one other
        raise ConfigError(f"{place} has only the value {values[0]!r}: nothing is left to learn")
    return values
