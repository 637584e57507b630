"""Conformal calibration: the formula of the predicted scale, and factors or residuals on top of it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.checkpoints.manifest import LEVELS, Calibration, PredictedScale, conformal_rank
from deepergatgnn.uncertainty.intervals import predicted_scales, scale_features

PER_CLASS = 200  # calibration crystals that a class of scales needs for a factor of its own
MOST_CLASSES = 5
PRIOR = 1.0  # standard deviation of the weights around the network's own scale
LARGEST = 0.99  # quantile of the scales of held-out crystals that no scale exceeds
NO_RESIDUAL = 1e-9  # stands for zero, so that its logarithm is finite
ITERATIONS, SMALLEST_STEP = 100, 1e-9
HeldOut = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def fit_scale(
    log_scales: NDArray[np.float64],
    outputs: NDArray[np.float64],
    scores: NDArray[np.float64],
    residuals: NDArray[np.float64],
) -> PredictedScale:
    """Fit the formula of the predicted scale to held-out residuals.

    The weights are the most likely ones if the residuals have Laplace densities of that scale: a convex problem in
    four numbers, solved by Newton steps, with a normal prior that keeps them finite. Crystals with a number that is
    not finite are left out; without any other, the scale is the same for all crystals. Far from the fitted crystals
    the power of the domain score would give intervals of hundreds of eV, so the 99th percentile of the scales is the
    limit.

    Args:
        log_scales: of the networks [members, n].
        outputs: [members, n], in the networks' units.
        scores: domain scores [n].
        residuals: [n], same units as the outputs.
    """
    features = scale_features(log_scales, outputs, scores)
    known = np.isfinite(features).all(axis=1) & np.isfinite(residuals)
    if not known.any():
        return PredictedScale()
    features, off = features[known], np.maximum(np.abs(residuals[known]), NO_RESIDUAL)
    weights = _most_likely(features, off)
    constant, learned, ensemble, distance = weights.tolist()
    most = float(np.exp(np.quantile(features @ weights, LARGEST)))
    return PredictedScale(constant=constant, learned=learned, ensemble=ensemble, distance=distance, most=most)


def _most_likely(features: NDArray[np.float64], off: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights [4] that minimise the mean of off / scale + log(scale), scale = exp(features @ weights), and prior."""
    start = np.array([0.0, 1.0, 0.0, 0.0])
    ridge = np.array([0.0, 1.0, 1.0, 1.0]) / (PRIOR**2 * len(off))

    def objective(at: NDArray[np.float64]) -> float:
        exponent = features @ at
        with np.errstate(over="ignore"):  # infinite, and so not a step to take
            return float((off * np.exp(-exponent) + exponent).mean() + (ridge * (at - start) ** 2).sum() / 2)

    weights = start.copy()
    weights[0] = np.log((off * np.exp(-features @ start)).mean())  # the best for the other three
    for _ in range(ITERATIONS):
        share = off * np.exp(-features @ weights)
        gradient = (features * (1 - share)[:, None]).mean(axis=0) + ridge * (weights - start)
        hessian = (features * share[:, None]).T @ features / len(off) + np.diag(ridge)
        step: NDArray[np.float64] = np.linalg.lstsq(hessian, gradient)[0]
        while not objective(weights - step) < objective(weights):
            step /= 2
            if np.abs(step).max() < SMALLEST_STEP:
                return weights
        weights = weights - step
    return weights


def calibrate(spread: PredictedScale, widths: NDArray[np.float64], residuals: NDArray[np.float64]) -> Calibration:
    """Split-conformal factors, one for each class of scales if there are enough crystals for classes.

    Args:
        spread: the formula that gave `widths`.
        widths: predicted scales of the calibration crystals [n].
        residuals: their residuals [n], same units. One that is not a number counts as larger than all others.
    """
    edges = class_edges(widths)
    classes = np.searchsorted(edges, widths, side="right")
    scores = _scores(widths, residuals)
    factors = {
        level: [conformal_factor(scores[classes == each], level) for each in range(len(edges) + 1)] for level in LEVELS
    }
    promised = {level: tuple(each) for level, each in factors.items() if np.isfinite(each).all()}
    return Calibration(n=len(widths), spread=spread, edges=tuple(edges), factors=promised)


def _scores(widths: NDArray[np.float64], residuals: NDArray[np.float64]) -> NDArray[np.float64]:
    """|residual| / scale [n]; infinite where that is no number, but 0 for a residual of 0."""
    off = np.abs(residuals)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scores = np.where(off == 0, 0.0, off / widths)
    return np.where(np.isnan(scores) | np.isnan(widths), np.inf, scores)


def class_edges(widths: NDArray[np.float64]) -> list[float]:
    """Edges between classes of about equal size, each with enough crystals; fewer where many scales are equal."""
    count = int(np.clip(len(widths) // PER_CLASS, 1, MOST_CLASSES))
    edges: list[float] = []
    if count == 1:
        return edges
    for edge in np.quantile(widths, np.arange(1, count) / count, method="higher").tolist():
        below, above = (widths >= (edges or [-np.inf])[-1]) & (widths < edge), widths >= edge
        if min(below.sum(), above.sum()) >= PER_CLASS // 2:
            edges.append(edge)
    return edges


def conformal_factor(scores: NDArray[np.float64], level: str) -> float:
    """The ⌈(n+1)·level⌉-th smallest score: |residual| / scale of crystals that nothing was fitted to.

    Lei et al., J. Am. Stat. Assoc. 113, 1094 (2018), doi:10.1080/01621459.2017.1307116. Infinite with too few scores
    for the level.
    """
    rank = conformal_rank(level, len(scores))
    return float("inf") if rank is None else float(np.sort(scores)[rank - 1])


def fit_intervals(
    validation: HeldOut,
    calibration: HeldOut,
) -> Calibration:
    """Fit the scale to the validation part, the factors to the calibration part.

    Args:
        validation: log-spreads [members, n], outputs [members, n], domain scores [n] and the truth [n], in the
            networks' units.
        calibration: the same of that part.
    """
    log_scales, outputs, scores, truth = validation
    spread = fit_scale(log_scales, outputs, scores, outputs.mean(axis=0) - truth)
    log_scales, outputs, scores, truth = calibration
    return calibrate(spread, predicted_scales(log_scales, outputs, scores, spread), outputs.mean(axis=0) - truth)


def fit_cross_intervals(validation: HeldOut, residuals: Sequence[NDArray[np.float64]]) -> Calibration:
    """Calibrate by CV+: with the residuals of each member for the crystals of its fold, from which it did not learn.

    Args:
        validation: as for `fit_intervals`; the scale is fitted to it.
        residuals: of each member, in the networks' units; the folds are those of all the crystals to learn from.
    """
    log_scales, outputs, scores, truth = validation
    spread = fit_scale(log_scales, outputs, scores, outputs.mean(axis=0) - truth)
    off = [np.abs(each) for each in residuals]
    n = sum(map(len, off))
    if not all(np.isfinite(each).all() for each in off):
        return Calibration(n=n, spread=spread)
    return Calibration(method="cv+", n=n, spread=spread, residuals=tuple(tuple(each.tolist()) for each in off))
