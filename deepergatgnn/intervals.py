"""From what the networks say to a value with intervals, in the target's unit. numpy only."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepergatgnn.manifest import Calibration, Scaler, Spread

_SMALLEST = 1e-6  # of a standard deviation over members, so that its logarithm is finite


def spreads(
    log_spreads: NDArray[np.float64], outputs: NDArray[np.float64], scores: NDArray[np.float64], spread: Spread
) -> NDArray[np.float64]:
    """How far each crystal may be off before calibration, [n], in the network's units.

    Args:
        log_spreads: [members, n].
        outputs: [members, n].
        scores: domain scores [n].
        spread: what was fitted.
    """
    features = spread_features(log_spreads, outputs, scores)
    weights = [spread.constant, spread.learned, spread.ensemble, spread.distance]
    exponents: NDArray[np.float64] = features @ np.array(weights)
    if spread.most is not None:
        exponents = np.minimum(exponents, np.log(spread.most))
    result: NDArray[np.float64] = np.exp(exponents)
    return result


def spread_features(
    log_spreads: NDArray[np.float64], outputs: NDArray[np.float64], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What the logarithm of the spread is a linear function of: [n, 4], see `Spread`."""
    deviation = outputs.std(axis=0, ddof=1) if len(outputs) > 1 else np.ones(outputs.shape[1])
    return np.stack(
        [
            np.ones(outputs.shape[1]),
            log_spreads.mean(axis=0),
            np.log(np.maximum(deviation, _SMALLEST)),
            np.log1p(scores),
        ],
        axis=1,
    )


def half_widths(spread: NDArray[np.float64], calibration: Calibration, level: str) -> NDArray[np.float64]:
    """Half widths [n] of the intervals of a level, in the network's units."""
    classes = np.searchsorted(np.array(calibration.edges), spread, side="right")
    result: NDArray[np.float64] = np.array(calibration.factors[level])[classes] * spread
    return result


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
