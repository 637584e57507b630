"""Errors of predictions and coverage of intervals: figures, no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepergatgnn.checkpoints.manifest import MAIN_LEVEL
from deepergatgnn.element_features import element_symbol
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.predictor import Prediction

SIZES = (1, 2, 3, 5, 9, 17, 33)  # where the bins of inequivalent atoms begin; the last one is open
QUINTILES = 5
WIDTH_QUANTILES = (0.05, 0.5, 0.95)
WIDTH_PRECISION = 1e-9  # of the widest, so that what is the same for all crystals has no order
Figures = dict[str, float]


@dataclass(frozen=True, eq=False)
class Scored:
    """Predictions for crystals of which the truth is known.

    Shapes:
        graphs, predictions: [n].
        truth: [n], in the target's unit.
    """

    graphs: Sequence[CrystalGraph]
    predictions: Sequence[Prediction]
    truth: NDArray[np.float64]

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """Predicted values [n]."""
        return np.array([prediction.value for prediction in self.predictions], dtype=np.float64)

    @cached_property
    def off(self) -> NDArray[np.float64]:
        """Absolute errors [n]."""
        return np.abs(self.values - self.truth)

    @property
    def of_group(self) -> tuple[str, NDArray[np.float64]]:
        """The name of the figure of a group of crystals, and what it is the mean of [n]."""
        return "mae", self.off

    @cached_property
    def flagged(self) -> NDArray[np.bool_]:
        """Which crystals are outside the domain [n]."""
        return np.array([not prediction.domain.in_domain for prediction in self.predictions], dtype=bool)

    def ends(self, level: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ends of the intervals of a level such as "0.9": low [n], high [n]."""
        pairs = np.array([prediction.intervals[level] for prediction in self.predictions]).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def widths(self, level: str = "0.9") -> NDArray[np.float64]:
        """Widths of the intervals of a level [n], without the noise of subtracting their ends."""
        low, high = self.ends(level)
        grain = WIDTH_PRECISION * float(np.max(high - low, initial=0)) or 1.0
        return np.round((high - low) / grain) * grain

    @cached_property
    def has_intervals(self) -> bool:
        """Whether there are 90 % intervals."""
        return MAIN_LEVEL in self.predictions[0].intervals

    def covered(self, level: str = "0.9") -> NDArray[np.bool_]:
        """Which intervals of a level hold the truth [n]; an end belongs to its interval."""
        low, high = self.ends(level)
        return (low <= self.truth) & (self.truth <= high)


def errors(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> Figures:
    """Figures of predictions [n] against the truth [n]; NaN for one that does not exist.

    `mae_se` is the standard error of the MAE; `mad` the mean absolute deviation of the truth from its mean, which is
    the MAE of a constant.
    """
    residual = predicted - true
    spread = float(((true - true.mean()) ** 2).sum())
    mae, mad = float(np.abs(residual).mean()), float(np.abs(true - true.mean()).mean())
    return {
        "n": float(len(true)),
        "mae": mae,
        "mae_se": standard_error(np.abs(residual)),
        "rmse": float(np.sqrt((residual**2).mean())),
        "r2": 1 - float((residual**2).sum()) / spread if spread > 0 else float("nan"),
        "mad": mad,
        "mae_over_mad": mae / mad if mad > 0 else float("nan"),
    }


def standard_error(numbers: NDArray[np.float64]) -> float:
    """Standard error of a mean; NaN for fewer than two numbers."""
    return float(numbers.std(ddof=1) / np.sqrt(len(numbers))) if len(numbers) > 1 else float("nan")


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation, equal numbers sharing their mean rank; NaN where one of the two does not vary."""
    one, other = (ranks(np.asarray(each, dtype=np.float64)) for each in (first, second))
    if not one.std() * other.std() > 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def ranks(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1 [n]; equal numbers share their mean rank."""
    _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    middle: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return middle


def summarise(scored: Scored) -> Figures:
    """Errors, coverage and width of the intervals, errors by domain verdict; NaN for a figure that does not exist.

    `coverage_90` and the like are shares; `width_90_p05` and the like are quantiles of the widths; `spearman_domain`
    and `spearman_width` are rank correlations of the absolute error with the domain score and with the width.
    """
    off, flagged = scored.off, scored.flagged
    widths = scored.widths() if scored.has_intervals else np.full(len(off), np.nan)
    levels = sorted(scored.predictions[0].intervals, key=float)
    coverage = {MAIN_LEVEL: float("nan")} | {level: float(scored.covered(level).mean()) for level in levels}
    return (
        errors(scored.values, scored.truth)
        | {f"coverage_{percent(level)}": share for level, share in coverage.items()}
        | {"mean_width_90": float(widths.mean())}
        | {f"width_90_p{100 * part:02.0f}": float(np.quantile(widths, part)) for part in WIDTH_QUANTILES}
        | {
            "flagged": float(flagged.sum()),
            "mae_flagged": _mean(off[flagged]),
            "mae_flagged_se": standard_error(off[flagged]),
            "mae_unflagged": _mean(off[~flagged]),
            "mae_unflagged_se": standard_error(off[~flagged]),
            "spearman_domain": spearman(off, [prediction.domain.score for prediction in scored.predictions]),
            "spearman_width": spearman(off, widths),
        }
    )


def percent(level: str) -> str:
    """A level as figures name it: "0.9" → "90"."""
    return f"{100 * float(level):g}"


def _mean(numbers: NDArray[np.float64]) -> float:
    return float(numbers.mean()) if len(numbers) else float("nan")


def by_element(scored: Scored) -> Figures:
    """For each element n_Fe, mae_Fe: the crystals that contain it; of classes accuracy_Fe."""
    contained = [np.unique(graph.atomic_numbers) for graph in scored.graphs]
    name, each = scored.of_group
    numbers, where = np.concatenate(contained), np.repeat(np.arange(len(contained)), [len(each) for each in contained])
    figures: Figures = {}
    for number in np.unique(numbers).tolist():
        inside = each[where[numbers == number]]
        symbol = element_symbol(number)
        figures |= {f"n_{symbol}": float(len(inside)), f"{name}_{symbol}": _mean(inside)}
    return figures


def by_size(scored: Scored) -> Figures:
    """For each bin of inequivalent atoms n_3-4, mae_3-4, of classes accuracy_3-4; the same in every cell."""
    figure, each = scored.of_group
    sizes = np.array([graph.n_nodes for graph in scored.graphs])
    figures: Figures = {}
    for first, following in zip(SIZES, [*SIZES[1:], None], strict=True):
        inside = (sizes >= first) & (sizes < (following or np.inf))
        last = f"{first}+" if following is None else f"{first}-{following - 1}"
        name = str(first) if following == first + 1 else last
        if inside.any():
            figures |= {f"n_{name}": float(inside.sum()), f"{figure}_{name}": _mean(each[inside])}
    return figures


def by_width(scored: Scored) -> Figures:
    """For each quintile of the width of the 90 % intervals, 1 the narrowest: n_1, coverage_1, mae_1, from_1, to_1.

    Crystals of equal width stay together, so a quintile may be empty and is then left out. Without intervals there is
    nothing.
    """
    if not scored.has_intervals:
        return {}
    widths, covered = scored.widths(), scored.covered()
    limits = np.quantile(widths, np.arange(1, QUINTILES) / QUINTILES)
    groups = np.searchsorted(limits, widths, side="right") + 1
    figures: Figures = {}
    for group in np.unique(groups).tolist():
        inside = groups == group
        figures |= {
            f"n_{group}": float(inside.sum()),
            f"coverage_{group}": float(covered[inside].mean()),
            f"mae_{group}": _mean(scored.off[inside]),
            f"from_{group}": float(widths[inside].min()),
            f"to_{group}": float(widths[inside].max()),
        }
    return figures


def measure(scored: Scored, part: str) -> dict[str, Figures]:
    """All figures of a part of the data, as the manifest keeps them; those that do not exist are left out.

    Returns:
        `part`, `part`_by_element, `part`_by_size and `part`_by_width.
    """
    measured = {
        part: summarise(scored),
        f"{part}_by_element": by_element(scored),
        f"{part}_by_size": by_size(scored),
        f"{part}_by_width": by_width(scored),
    }
    return {name: finite(figures) for name, figures in measured.items()}


def finite(figures: Figures) -> Figures:
    """The figures that exist."""
    return {name: figure for name, figure in figures.items() if np.isfinite(figure)}
