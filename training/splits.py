"""Parting a data set into training, validation, calibration and test rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import ConfigError
from training.config import SplitConfig
from training.datasets import Dataset

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Row indices of each part; the parts are disjoint."""

    train: Indices
    validation: Indices
    calibration: Indices
    test: Indices

    def sizes(self) -> dict[str, int]:
        """Number of rows of each part."""
        return {name: len(getattr(self, name)) for name in ("train", "validation", "calibration", "test")}


def split_rows(dataset: Dataset, config: SplitConfig, seed: int) -> Split:
    """Part the rows.

    Args:
        dataset: rows in file order.
        config: what to draw.
        seed: of the draw; with the same rows it always gives the same parts.

    Raises:
        ConfigError: if a part would be empty or the fold column is not there.
    """
    rng = np.random.default_rng(seed)
    groups = _groups(dataset, config)
    if config.test_field is None:
        test, rest = _draw(groups, np.arange(len(groups)), round(config.test_fraction * len(groups)), rng)
    else:
        folds = [row.fields.get(config.test_field) for row in dataset.rows]
        if all(fold is None for fold in folds):
            raise ConfigError(f"no row of {dataset.name} has a field {config.test_field!r}")
        is_test = np.array([fold == config.test_fold for fold in folds])
        test, rest = np.flatnonzero(is_test), np.flatnonzero(~is_test)
    validation, train = _draw(groups, rest, round(config.validation_fraction * len(rest)), rng)
    calibration, train = _draw(groups, train, round(config.calibration_fraction * len(rest)), rng)
    split = Split(train, validation, calibration, test)
    if empty := [name for name, size in split.sizes().items() if size == 0]:
        raise ConfigError(f"split leaves no rows for {', '.join(empty)}: {dataset.name} has {len(groups)} rows")
    return split


def shared_formulas(dataset: Dataset, split: Split) -> int:
    """Number of reduced formulas of the test part that the training part has too."""
    formulas = [row.crystal.reduced_formula for row in dataset.rows]
    return len({formulas[i] for i in split.test} & {formulas[i] for i in split.train})


def _groups(dataset: Dataset, config: SplitConfig) -> Indices:
    """A number for each row; rows of one number stay together."""
    if config.by == "row":
        return np.arange(len(dataset.rows))
    return np.unique([row.crystal.reduced_formula for row in dataset.rows], return_inverse=True)[1].astype(np.int64)


def _draw(groups: Indices, rows: Indices, count: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Draw whole groups until `count` rows are reached: (drawn, left), both in file order."""
    members, sizes = np.unique(groups[rows], return_counts=True)
    order = rng.permutation(len(members))
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = members[order[before < count]]
    drawn = np.isin(groups[rows], chosen)
    return rows[drawn], rows[~drawn]
