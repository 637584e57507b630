"""Data of a run: main data set, split, extra rows, standardised targets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.checkpoints.files import digest
from deepergatgnn.checkpoints.manifest import MAIN_LEVEL, Scaler, crystals_needed
from deepergatgnn.errors import ConfigError
from deepergatgnn.nn.config import MOST_OUTPUTS, NetworkConfig
from deepergatgnn.training.config.run import ExcludedRows, TargetConfig, TrainingConfig
from deepergatgnn.training.config.yaml_files import nearest
from deepergatgnn.training.data.cache import prepared_dataset
from deepergatgnn.training.data.classes import classes_of, one_hot, target_values
from deepergatgnn.training.data.dataset import PreparedDataset
from deepergatgnn.training.data.examples import Examples
from deepergatgnn.training.data.graph_arrays import Subset
from deepergatgnn.training.data.row_counts import EXAMPLES, missing_groups, refusal_groups, sentence, transformed
from deepergatgnn.training.data.row_warnings import joined
from deepergatgnn.training.data.splits import Split, describe_split, split_rows
from deepergatgnn.uncertainty.intervals import scale

FEWEST = 20  # crystals needed to fit a temperature; with fewer the fit is dominated by noise
LARGEST = 1e30  # largest magnitude of a transformed target; its square fits into float64
SAME = 1e-12  # a standard deviation below this share of the largest magnitude is rounding


@dataclass(frozen=True, eq=False)
class RunData:
    """Data of a run, for training and publication.

    Attributes:
        dataset: rows of the main set, then the accepted rows of the extra sets.
        split: parts of the main set; extra rows are in the training part.
        truth: targets in their own units [n, T]; NaN where missing.
        scalers: scaler of each target, fitted to the training part.
        scaled: standardised targets [n, O]: one column for a number, one for each class.
        notes: counts of the split, for the record.
        folds: training rows that each member does not learn from; their residuals give CV+ intervals. Empty if a
            calibration part gives the intervals.
        classes: classes of each target, empty for a number; the truth of a class is its index.
    """

    dataset: PreparedDataset
    split: Split
    truth: NDArray[np.float64]
    scalers: tuple[Scaler, ...]
    scaled: NDArray[np.float32]
    notes: dict[str, Any]
    folds: tuple[NDArray[np.int64], ...] = ()
    classes: tuple[tuple[str, ...], ...] = ()

    @property
    def outputs(self) -> tuple[int, ...]:
        """Number of outputs of each target: one for a number, else one for each class."""
        return tuple(max(1, len(each)) for each in self.classes) or (1,) * len(self.scalers)

    def columns(self, index: int) -> slice:
        """Return the output columns of a target."""
        start = sum(self.outputs[:index])
        return slice(start, start + self.outputs[index])

    def network(self, config: TrainingConfig) -> NetworkConfig:
        """Return the network of a run, with the outputs that the data need and without σ if all targets are classes."""
        spread = config.network.spread and not all(self.classes or [()])
        return replace(config.network, targets=sum(self.outputs), spread=spread)

    def examples(self, rows: NDArray[np.int64]) -> Examples:
        """Return rows for the training loop."""
        return Examples(Subset([self.dataset.graphs], rows), self.scaled[rows])

    def fingerprint(self, config: TrainingConfig, member: int) -> str:
        """Digest of everything that determines the weights of a member; a state of another digest is not resumed.

        Options at their defaults are left out, so that a new option does not invalidate older states.
        """
        unimportant = {"name", "source", "licence", "version", "members", "targets"}
        options = config.model_dump(mode="json", exclude=unimportant, exclude_defaults=True)
        learned = [
            [target.key, target.transform, target.weight, *([list(classes)] if classes else [])]
            for target, classes in zip(config.targets, self.classes or [()] * len(config.targets), strict=True)
        ]
        whole = [options, learned, member, self.dataset.sha256, *(["cv+"] if self.folds else [])]
        return digest(json.dumps(whole, sort_keys=True).encode())


def assemble_run_data(config: TrainingConfig) -> RunData:
    """Read, split, join and standardise the data of a run.

    Raises:
        ConfigError: if the data are missing, a part is empty or a target does not vary.
    """
    dataset = prepared_dataset(config.data, config.graph)
    for target in config.targets:
        _require_numbers(target, dataset)
    split = _split(config, dataset)
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
    classes = tuple(classes_of(dataset, target) for target in config.targets)
    if sum(max(1, len(each)) for each in classes) > MOST_OUTPUTS:
        raise ConfigError(f"the targets have more than {MOST_OUTPUTS} numbers and classes in all: train fewer at once")
    truth = target_values(dataset, config.targets)
    scalers = tuple(
        _scaler(target, column, dataset, split, names)
        for target, column, names in zip(config.targets, truth.T, classes, strict=True)
    )
    columns = [
        one_hot(column, len(names)) if names else scale(column, scaler)[:, None]
        for column, scaler, names in zip(truth.T, scalers, classes, strict=True)
    ]
    scaled = np.concatenate(columns, axis=1)
    truth = known_truth(truth, scaled, classes)
    # Rows without any target cost time and contribute nothing to the loss.
    learned = split.train[np.isfinite(truth[split.train]).any(axis=1)]
    split = Split(learned, split.validation, split.calibration, split.test)
    folds: tuple[NDArray[np.int64], ...] = ()
    if _needs_folds(config, split, truth):
        common = np.sort(np.concatenate([split.train, split.calibration]))
        split = Split(common, split.validation, np.empty(0, dtype=np.int64), split.test)
        order = np.random.default_rng(config.seed).permutation(common)
        folds = tuple(np.sort(part) for part in np.array_split(order, config.members))
        notes["cross_conformal_folds"] = len(folds)
    notes |= describe_split(dataset, split)
    return RunData(dataset, split, truth, scalers, scaled.astype(np.float32), notes, folds, classes)


def known_truth(
    truth: NDArray[np.float64], scaled: NDArray[Any], classes: Sequence[Sequence[str]]
) -> NDArray[np.float64]:
    """Return the truth [n, T] with NaN wherever the standardised target [n, O] has no number."""
    firsts = np.cumsum([0, *(max(1, len(each)) for each in classes)])[:-1]
    return np.where(np.isfinite(scaled[:, firsts]), truth, np.nan)


def interval_sentences(run_data: RunData, targets: Sequence[TargetConfig]) -> list[str]:
    """Explain for each target with too few calibration rows the consequence and the remedy."""
    found = []
    for index, target in enumerate(targets):
        rows = np.concatenate(run_data.folds) if run_data.folds else run_data.split.calibration
        n = int(np.isfinite(run_data.truth[rows, index]).sum())
        if target.kind == "classification":
            if n < FEWEST:
                found.append(
                    f"{target.model}: the probabilities will not be calibrated: this takes {FEWEST} calibration "
                    f"crystals, there are {n}; give split.calibration_rows: {FEWEST} or more"
                )
        elif n < (needed := crystals_needed(MAIN_LEVEL)):
            found.append(
                f"{target.model} will have no 90 % interval: it takes {needed} calibration crystals, there are {n}; "
                f"give split.calibration_rows: {needed} or more, or more rows"
            )
        elif run_data.folds:
            found.append(
                f"{target.model}: too few calibration crystals for a 90 % interval, so the {len(run_data.folds)} "
                f"members are calibrated on each other's folds (CV+), {n} crystals in all"
            )
    return found


def _needs_folds(config: TrainingConfig, split: Split, truth: NDArray[np.float64]) -> bool:
    """Return whether members are calibrated on each other's folds, as the calibration part is too small for 90 %.

    This requires exchangeable rows: drawn one by one, and not learned before by a starting network.
    """
    known = np.isfinite(truth[split.calibration]).sum(axis=0).min()
    alone = config.start is None and not config.extra_data and config.split.by == "row"
    alone = alone and config.split.reserved_field is None and not config.split.reserved_ids
    return bool(known < crystals_needed(MAIN_LEVEL)) and alone and config.members > 1


def _formulas(config: TrainingConfig, rows: ExcludedRows) -> set[str]:
    other = prepared_dataset(rows.data, config.graph)
    if rows.field is None:
        return set(other.formulas)
    column = other.fields.get(rows.field)
    if column is None:
        raise ConfigError(f"exclude: {other.name} has no field {rows.field!r}")
    return {formula for formula, found in zip(other.formulas, column, strict=True) if found == rows.value}


def _joined(main: PreparedDataset, extras: Sequence[PreparedDataset]) -> PreparedDataset:
    """Join the main set and, of each other set, the rows whose formulas no earlier set has."""
    taken = set(main.formulas)
    parts: list[tuple[PreparedDataset, list[int]]] = [(main, list(range(len(main))))]
    for extra in extras:
        parts.append((extra, [row for row, formula in enumerate(extra.formulas) if formula not in taken]))
        taken |= set(extra.formulas)
    keys = sorted({key for part, _ in parts for key in part.columns})
    names = dict.fromkeys(name for part, _ in parts for name in part.fields)
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
        fields={name: [_cell(part, name, row) for part, rows in parts for row in rows] for name in names},
        graphs=Subset([part.graphs for part in sets], places),
        cells=Subset([part.cells for part in sets], places),
        refused=tuple(refusal for part in sets for refusal in part.refused),
        warnings=joined((part.warnings, [part.ids[row] for row in rows]) for part, rows in parts),
    )


def _cell(part: PreparedDataset, name: str, row: int) -> Any:
    column = part.fields.get(name)
    return None if column is None else column[row]


def _require_numbers(target: TargetConfig, dataset: PreparedDataset) -> None:
    """Refuse a main set without rows, or without a number for a target."""
    if not len(dataset):
        refused = refusal_groups(dataset.refused)
        detail = (
            f"every row was refused: {sentence(refused)}; {dataset.refused[0].detail}" if refused else "it is empty"
        )
        raise ConfigError(f"{dataset.name} has no row to learn from: {detail}")
    column = target_values(dataset, [target])[:, 0]
    if np.isfinite(transformed(column, target)).any():
        return
    if target.kind == "classification":
        raise ConfigError(
            f"no row of {dataset.name} is of one of the classes {', '.join(map(str, target.classes))} of target "
            f"{target.key!r}: give those of its column"
        )
    known = sorted(key for key, numbers in dataset.columns.items() if np.isfinite(numbers).any())
    if np.isfinite(column).any():
        detail = sentence(missing_groups(dataset, target, column))
    else:
        what = "its column holds none" if target.key in dataset.columns else "it has no such column"
        detail = f"{what}; {nearest(target.key, known)}columns with numbers: {', '.join(known) or 'none'}"
    raise ConfigError(f"no number for target {target.key!r} of {dataset.name}: {detail}")


def _split(config: TrainingConfig, dataset: PreparedDataset) -> Split:
    """Split the main set; an error also names the refused rows."""
    try:
        return split_rows(dataset, config.split, config.seed)
    except ConfigError as error:
        if not dataset.refused:
            raise
        raise ConfigError(f"{error}; {sentence(refusal_groups(dataset.refused))}") from None


def _scaler(
    target: TargetConfig,
    column: NDArray[np.float64],
    dataset: PreparedDataset,
    split: Split,
    classes: Sequence[str],
) -> Scaler:
    """Fit the scaler of a target; refuse a target without values in some part."""
    numbers = transformed(column, target)
    if empty := [part for part in split.sizes() if not np.isfinite(numbers[getattr(split, part)]).any()]:
        detail = sentence(missing_groups(dataset, target, column))
        what = "class" if classes else "number"
        raise ConfigError(
            f"no {what} for target {target.key!r} of {dataset.name} in part {', '.join(empty)}"
            f"{f': {detail}' if detail else ''}; of {len(dataset)} rows it has {split.sizes()}"
        )
    if classes:
        learned = set(column[split.train].tolist())
        if absent := [name for place, name in enumerate(classes) if place not in learned]:
            raise ConfigError(
                f"no row of the training part of {dataset.name} has class {', '.join(absent)} of target "
                f"{target.key!r}: list in `classes` those to learn, or part the rows in another way"
            )
        return Scaler(mean=0.0, std=1.0)
    if (huge := np.flatnonzero(np.abs(np.nan_to_num(numbers)) > LARGEST)).size:
        named = ", ".join(f"{dataset.ids[row]} ({column[row]:g})" for row in huge[:EXAMPLES])
        raise ConfigError(
            f"target {target.key!r} of {dataset.name} has {len(huge)} numbers beyond ±{LARGEST:g}, {named}: correct "
            "them or leave them empty"
        )
    known = numbers[split.train]
    mean, std = float(np.nanmean(known)), float(np.nanstd(known))
    if std <= SAME * float(np.nanmax(np.abs(known))):
        raise ConfigError(
            f"target {target.key!r} of {dataset.name} is the same in the whole training part, {mean:g}: there is "
            "nothing to learn"
        )
    return Scaler(transform=target.transform, mean=mean, std=std)
