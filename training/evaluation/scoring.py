"""A version scored on any data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import ConfigError
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.config.yaml_files import nearest
from deepergatgnn.training.data.cache import prepared_dataset
from deepergatgnn.training.data.classes import class_codes
from deepergatgnn.training.data.dataset import PreparedDataset, Refusal
from deepergatgnn.training.evaluation.classification import MAIN as OF_CLASSES
from deepergatgnn.training.evaluation.classification import ScoredClasses, reliability, summarise_classes
from deepergatgnn.training.evaluation.metrics import Scored, by_element, by_size, by_width, summarise
from deepergatgnn.training.evaluation.predictions import write_predictions

MAIN = ("mae", "rmse", "r2", "coverage_90", "mean_width_90", "mae_flagged", "mae_unflagged")


@dataclass(frozen=True, eq=False)
class ScoredDataset(Scored):
    """A version's predictions for the rows of a data set that have the target.

    Attributes:
        target: column of the truth.
        ids: of the rows [n], in file order.
        refused: rows without a graph.
    """

    target: str
    ids: list[str]
    refused: tuple[Refusal, ...]


class ScoredClassDataset(ScoredClasses, ScoredDataset):
    """The same of a version with classes."""


def score(predictor: Predictor, dataset_name: str, target: str | None, where: str | None) -> ScoredDataset:
    """Predict the rows of a data set that have a number, or one of the version's classes, in the target.

    Args:
        predictor: the loaded version.
        dataset_name: a bundled set, a set of the data folder, or a path.
        target: column of `targets`; the one it was trained on, if None.
        where: FIELD=VALUE, only the rows with that value in that column; all, if None.

    Raises:
        ConfigError: if there is no such data set, no such target, or no row left.
    """
    key = target or predictor.manifest.target.key
    prepared = prepared_dataset(dataset_name, predictor.manifest.graph)
    if not len(prepared):
        detail = f"all {len(prepared.refused)} rows were refused, the first {prepared.refused[0].detail!r}"
        raise ConfigError(f"{prepared.name}: {detail if prepared.refused else 'there are no rows'}")
    classes = predictor.manifest.target.classes
    truth = class_codes(prepared, key, classes) if classes else prepared.values([key])[:, 0]
    rows = np.flatnonzero(np.isfinite(truth) & _selected(prepared, where)).tolist()
    if not rows:
        condition = f" and {where}" if where else ""
        known = sorted(name for name, numbers in prepared.columns.items() if np.isfinite(numbers).any())
        known = sorted({*known, *prepared.fields}) if classes else known
        columns = "columns" if classes else "columns with numbers"
        hint = "" if key in known else f": {nearest(key, known)}its {columns} are {', '.join(known) or 'none'}"
        what = f"one of the classes {', '.join(classes)}" if classes else "a number"
        raise ConfigError(f"{prepared.name} has no row with {what} in target {key!r}{condition}{hint}")
    graphs = [prepared.graphs[row] for row in rows]
    kind = ScoredClassDataset if classes else ScoredDataset
    return kind(
        graphs=graphs,
        predictions=predictor.predict_graphs(graphs),
        truth=truth[rows],
        target=key,
        ids=[prepared.ids[row] for row in rows],
        refused=prepared.refused,
    )


def _selected(prepared: PreparedDataset, where: str | None) -> NDArray[np.bool_]:
    if where is None:
        return np.ones(len(prepared), dtype=bool)
    field, _, value = where.partition("=")
    column = prepared.fields.get(field, [None] * len(prepared))
    return np.array([found is not None and str(found) == value for found in column], dtype=bool)


def evaluate(
    predictor: Predictor, dataset_name: str, target: str | None, where: str | None, predictions: Path | None = None
) -> dict[str, Any]:
    """Score a version on a data set.

    Args:
        predictor: the loaded version.
        dataset_name: a bundled set, a set of the data folder, or a path.
        target: column of `targets`; the one it was trained on, if None.
        where: FIELD=VALUE, only the rows with that value in that column; all, if None.
        predictions: a CSV to write, with a line for each row.

    Returns:
        The object of `deepergatgnn evaluate --json`; figures that do not exist are None. A version with classes has
        `accuracy`, `roc_auc`, `log_loss` and `brier` instead of errors and intervals.

    Raises:
        ConfigError: as `score`.
    """
    scored, manifest = score(predictor, dataset_name, target, where), predictor.manifest
    if predictions is not None:
        write_predictions(predictions, scored.ids, scored)
    if isinstance(scored, ScoredClasses):
        found, groups = summarise_classes(scored), {"reliability": reliability(scored.probabilities, scored.truth)}
    else:
        found, groups = summarise(scored), {"by_width": by_width(scored)}
    figures = {name: value if np.isfinite(value) else None for name, value in found.items()}
    counts = {name: round(figures.pop(name) or 0) for name in ("n", "flagged")}
    main = {name: figures.pop(name, None) for name in MAIN}
    if isinstance(scored, ScoredClasses):
        main |= {name: figures.pop(name) for name in OF_CLASSES}
    return {
        "model": manifest.name,
        "version": manifest.version,
        "target": scored.target,
        "unit": manifest.target.unit,
        **counts,
        **main,
        "refused": [{"id": refusal.id, "code": refusal.code} for refusal in scored.refused],
        "figures": {
            **figures,
            "by_element": by_element(scored),
            "by_size": by_size(scored),
            **groups,
        },
    }
