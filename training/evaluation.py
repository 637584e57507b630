"""How far predictions are from the truth, and how honest the intervals are."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import ConfigError
from deepergatgnn.predictor import Prediction, Predictor
from training.datasets import Row, build_graphs, number, read_dataset

LEVELS = (0.5, 0.8, 0.9, 0.95)


def errors(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> dict[str, float]:
    """MAE, RMSE, R² of predictions [n] against the truth [n]."""
    residual = predicted - true
    spread = float(((true - true.mean()) ** 2).sum())
    return {
        "n": float(len(true)),
        "mae": float(np.abs(residual).mean()),
        "rmse": float(np.sqrt((residual**2).mean())),
        "r2": 1 - float((residual**2).sum()) / spread if spread > 0 else float("nan"),
    }


def conformal_half_width(residuals: NDArray[np.float64], level: float) -> float:
    """Split-conformal half width: the ⌈(n+1)·level⌉-th smallest absolute residual of the calibration part.

    Lei et al., J. Am. Stat. Assoc. 113, 1094 (2018), doi:10.1080/01621459.2017.1307116. With too few residuals
    for the level, the largest of them.
    """
    ordered = np.sort(np.abs(residuals))
    rank = min(len(ordered), int(np.ceil((len(ordered) + 1) * level)))
    return float(ordered[rank - 1])


def summarise(predictions: Sequence[Prediction], true: NDArray[np.float64]) -> dict[str, float]:
    """Errors, coverage and width of the 90 % intervals, and errors by domain verdict."""
    value = np.array([p.value for p in predictions])
    low, high = np.array([p.low for p in predictions]), np.array([p.high for p in predictions])
    flagged = np.array([not p.domain.in_domain for p in predictions])
    off = np.abs(value - true)
    return errors(value, true) | {
        "coverage_90": float(((low <= true) & (true <= high)).mean()),
        "mean_width_90": float((high - low).mean()),
        "flagged": float(flagged.sum()),
        "mae_flagged": float(off[flagged].mean()) if flagged.any() else float("nan"),
        "mae_unflagged": float(off[~flagged].mean()) if (~flagged).any() else float("nan"),
    }


def evaluate(predictor: Predictor, dataset_name: str, target: str | None, where: str | None) -> dict[str, Any]:
    """Score a version on a data set.

    Args:
        predictor: the loaded version.
        dataset_name: a bundled set, a set of the data folder, or a path.
        target: column of `targets`; the one it was trained on, if None.
        where: FIELD=VALUE, only the rows with that value in that column; all, if None.

    Returns:
        The object of `deepergatgnn evaluate --json`; figures that do not exist are None.

    Raises:
        ConfigError: if there is no such data set, no such target, or no row left.
    """
    manifest = predictor.manifest
    key = target or manifest.target.key
    dataset = read_dataset(dataset_name)
    known = [row for row in dataset.rows if np.isfinite(number(row.targets.get(key))) and _selected(row, where)]
    if not known:
        condition = f" and {where}" if where else ""
        raise ConfigError(f"{dataset.name} has no row with a number in target {key!r}{condition}")
    dataset, graphs = build_graphs(replace(dataset, rows=tuple(known)), manifest.graph)
    if not graphs:
        raise ConfigError(
            f"{dataset.name}: all {len(known)} rows were refused, the first {dataset.refused[-1].detail!r}"
        )
    truth = dataset.values([key])[:, 0]
    figures = summarise(predictor.predict_graphs(graphs), truth)
    counts = {name: int(figures.pop(name)) for name in ("n", "flagged")}
    return {
        "model": manifest.name,
        "version": manifest.version,
        "target": key,
        "unit": manifest.target.unit,
        **counts,
        **{name: value if np.isfinite(value) else None for name, value in figures.items()},
        "refused": [{"id": refusal.id, "code": refusal.code} for refusal in dataset.refused],
    }


def _selected(row: Row, where: str | None) -> bool:
    if where is None:
        return True
    field, _, value = where.partition("=")
    return str(row.fields.get(field)) == value
