"""Conformal intervals from the outputs of the members, in the target's unit; numpy only."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepergatgnn.checkpoints.manifest import Calibration, PredictedScale, Scaler, conformal_rank

_SMALLEST = 1e-6  # of a standard deviation over members, so that its logarithm is finite
_SIDES = np.array([-1.0, 1.0]).reshape(2, 1, 1)


def predicted_scales(
    log_scales: NDArray[np.float64], outputs: NDArray[np.float64], scores: NDArray[np.float64], spread: PredictedScale
) -> NDArray[np.float64]:
    """Predicted scale of the error of each crystal before calibration, [n], in the network's units.

    Args:
        log_scales: [members, n].
        outputs: [members, n].
        scores: domain scores [n].
        spread: the fitted formula.
    """
    features = scale_features(log_scales, outputs, scores)
    weights = [spread.constant, spread.learned, spread.ensemble, spread.distance]
    exponents: NDArray[np.float64] = features @ np.array(weights)
    if spread.most is not None:
        exponents = np.minimum(exponents, np.log(spread.most))
    result: NDArray[np.float64] = np.exp(exponents)
    return result


def scale_features(
    log_scales: NDArray[np.float64], outputs: NDArray[np.float64], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Features of which the logarithm of the scale is a linear function: [n, 4], see `PredictedScale`."""
    features = np.empty((outputs.shape[1], 4))
    features[:, 0] = 1
    features[:, 1] = log_scales.mean(axis=0)
    features[:, 2] = np.log(np.maximum(outputs.std(axis=0, ddof=1), _SMALLEST)) if len(outputs) > 1 else 0
    features[:, 3] = np.log1p(scores)
    return features


def half_widths(spread: NDArray[np.float64], calibration: Calibration, level: str | None = None) -> NDArray[np.float64]:
    """Half widths of the split-conformal intervals of a level [n], or of every level [L, n], in the network's units."""
    factors = list(calibration.factors.values()) if level is None else calibration.factors[level]
    classes = np.searchsorted(calibration.edges, spread, side="right")
    table = np.array(factors, dtype=np.float64).reshape(*np.shape(factors)[:-1], len(calibration.edges) + 1)
    result: NDArray[np.float64] = table[..., classes] * spread
    return result


def interval_ends(
    outputs: NDArray[np.float64], spread: NDArray[np.float64], calibration: Calibration, scaler: Scaler
) -> NDArray[np.float64]:
    """Ends of the intervals around the mean of the members' outputs [members, n], in the target's unit.

    Returns:
        [2, L, n]: low and high, for every level in the order of `calibration.levels`.
    """
    if not calibration.levels:
        return np.empty((2, 0, len(spread)))
    if calibration.method == "cv+":
        return unscale(_cross_ends(outputs, calibration), scaler)
    return unscale(outputs.mean(axis=0) + _SIDES * half_widths(spread, calibration), scaler)


def _cross_ends(outputs: NDArray[np.float64], calibration: Calibration) -> NDArray[np.float64]:
    """Ends of the CV+ intervals [2, L, n], in the network's units.

    Quantiles of output ± residual over all crystals of the folds, each with the output of the member that did not
    learn from it: the ⌈(n+1)·level⌉-th smallest of the upper ends, the ⌈(n+1)·level⌉-th largest of the lower ones.
    The mean of the members is always inside.
    """
    counts = [len(each) for each in calibration.residuals]
    off = np.array([each for fold in calibration.residuals for each in fold])[:, None]
    middles = np.repeat(outputs, counts, axis=0)
    lows, highs = np.sort(middles - off, axis=0), np.sort(middles + off, axis=0)
    ranks = np.array([conformal_rank(level, calibration.n) for level in calibration.levels])
    mean = outputs.mean(axis=0)
    return np.stack([np.minimum(lows[calibration.n - ranks], mean), np.maximum(highs[ranks - 1], mean)])


def scale(values: ArrayLike, scaler: Scaler) -> NDArray[np.float64]:
    """Values in the target's unit → the network's units; NaN for what the transform has no number for."""
    values = np.asarray(values, dtype=np.float64)
    if scaler.transform == "log10":
        values = np.log10(np.where(values > 0, values, np.nan))
    return (values - scaler.mean) / scaler.std


def unscale(outputs: ArrayLike, scaler: Scaler) -> NDArray[np.float64]:
    """The network's units → the target's unit."""
    values = np.asarray(outputs, dtype=np.float64) * scaler.std + scaler.mean
    return np.power(10.0, np.clip(values, -300, 300)) if scaler.transform == "log10" else values
