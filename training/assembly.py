"""What a run learns from: the main data set, its split, extra rows, standardised targets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.artifact import digest
from deepergatgnn.errors import ConfigError
from deepergatgnn.intervals import scale
from deepergatgnn.manifest import Scaler
from training.batches import Examples
from training.cache import prepared_dataset
from training.config import ExcludedRows, TargetConfig, TrainingConfig
from training.packed import Selected
from training.prepared import PreparedDataset
from training.row_warnings import joined
from training.splits import Split, describe_split, split_rows


@dataclass(frozen=True, eq=False)
class Assembly:
    """All that training and publication need of the data.

    Attributes:
        dataset: rows of the main set, then those of the extra sets that were taken.
        split: parts of the main set; extra rows are in the training part.
        truth: targets in their own units [n, T]; NaN where missing.
        scalers: of each target, from the training part.
        scaled: targets as the network sees them [n, T].
        notes: what the split came to, for the record.
    """

    dataset: PreparedDataset
    split: Split
    truth: NDArray[np.float64]
    scalers: tuple[Scaler, ...]
    scaled: NDArray[np.float32]
    notes: dict[str, Any]

    def examples(self, rows: NDArray[np.int64]) -> Examples:
        """Some rows for the loop."""
        return Examples(Selected([self.dataset.graphs], rows), self.scaled[rows])

    def fingerprint(self, config: TrainingConfig, member: int) -> str:
        """Of all that decides the weights of a member: a state is taken up only by the same.

        Options at their defaults are left out, so that a new option does not orphan older states.
        """
        unimportant = {"name", "source", "licence", "version", "members", "targets"}
        said = config.model_dump(mode="json", exclude=unimportant, exclude_defaults=True)
        learned = [[target.key, target.transform, target.weight] for target in config.targets]
        return digest(json.dumps([said, learned, member, self.dataset.sha256], sort_keys=True).encode())


def assemble(config: TrainingConfig) -> Assembly:
    """Read, part, join and standardise.

    Raises:
        ConfigError: if the data are not there, a part is empty or a target does not vary.
    """
    dataset = prepared_dataset(config.data, config.graph)
    split = split_rows(dataset, config.split, config.seed)
    notes: dict[str, Any] = {}
    if config.exclude:
        forbidden = set().union(*(_formulas(config, rows) for rows in config.exclude))
        kept = np.array([row for row in split.train if dataset.formulas[row] not in forbidden], dtype=np.int64)
        notes["excluded_from_train"] = len(split.train) - len(kept)
        split = Split(kept, split.validation, split.calibration, split.test)
    if config.extra_data:
        extras = [prepared_dataset(name, config.graph) for name in config.extra_data]
        main = len(dataset)
        dataset = _joined(dataset, extras)
        notes["extra_rows"] = len(dataset) - main
        added = np.arange(main, len(dataset))
        split = Split(np.concatenate([split.train, added]), split.validation, split.calibration, split.test)
    truth = dataset.values([target.key for target in config.targets])
    scalers = tuple(
        _scaler(target, column, dataset, split) for target, column in zip(config.targets, truth.T, strict=True)
    )
    scaled = np.stack([scale(column, scaler) for column, scaler in zip(truth.T, scalers, strict=True)], axis=1)
    truth = np.where(np.isfinite(scaled), truth, np.nan)
    # What has no number teaches nothing and costs as much as what has one.
    learned = split.train[np.isfinite(truth[split.train]).any(axis=1)]
    split = Split(learned, split.validation, split.calibration, split.test)
    notes |= describe_split(dataset, split)
    return Assembly(dataset, split, truth, scalers, scaled.astype(np.float32), notes)


def _formulas(config: TrainingConfig, rows: ExcludedRows) -> set[str]:
    other = prepared_dataset(rows.data, config.graph)
    if rows.field is None:
        return set(other.formulas)
    column = other.fields.get(rows.field)
    if column is None:
        raise ConfigError(f"exclude: {other.name} has no field {rows.field!r}")
    return {formula for formula, found in zip(other.formulas, column, strict=True) if found == rows.value}


def _joined(main: PreparedDataset, extras: Sequence[PreparedDataset]) -> PreparedDataset:
    """The main set and, of each other one, the rows whose formulas no set before it has."""
    taken = set(main.formulas)
    parts: list[tuple[PreparedDataset, list[int]]] = [(main, list(range(len(main))))]
    for extra in extras:
        parts.append((extra, [row for row, formula in enumerate(extra.formulas) if formula not in taken]))
        taken |= set(extra.formulas)
    keys = sorted({key for part, _ in parts for key in part.columns})
    sets = [part for part, _ in parts]
    firsts = np.cumsum([len(part) for part in sets]) - [len(part) for part in sets]
    places = np.concatenate(
        [first + np.array(rows, dtype=np.int64) for first, (_, rows) in zip(firsts, parts, strict=True)]
    )
    return PreparedDataset(
        name=" + ".join(part.name for part in sets),
        sha256=digest("".join(part.sha256 for part in sets).encode()),
        graph=main.graph,
        ids=[part.ids[row] for part, rows in parts for row in rows],
        formulas=[part.formulas[row] for part, rows in parts for row in rows],
        columns={key: np.concatenate([part.values([key])[rows, 0] for part, rows in parts]) for key in keys},
        fields=main.fields,
        graphs=Selected([part.graphs for part in sets], places),
        cells=Selected([part.cells for part in sets], places),
        refused=tuple(refusal for part in sets for refusal in part.refused),
        warnings=joined((part.warnings, [part.ids[row] for row in rows]) for part, rows in parts),
    )


def _scaler(target: TargetConfig, column: NDArray[np.float64], dataset: PreparedDataset, split: Split) -> Scaler:
    """Refuse a target that a part knows nothing of: better now than after the training."""
    transformed = scale(column, Scaler(transform=target.transform, mean=0, std=1))
    if empty := [part for part in split.sizes() if not np.isfinite(transformed[getattr(split, part)]).any()]:
        raise ConfigError(f"no number for target {target.key!r} of {dataset.name} in part {', '.join(empty)}")
    known = transformed[split.train]
    mean, std = float(np.nanmean(known)), float(np.nanstd(known))
    if std == 0:
        raise ConfigError(f"target {target.key!r} of {dataset.name} is the same in the whole training part")
    return Scaler(transform=target.transform, mean=mean, std=std)
