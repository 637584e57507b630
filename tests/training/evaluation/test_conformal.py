"""Intervals from real residuals: the classical ones where nothing is known, crepes' ones otherwise, and they cover."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from crepes import ConformalRegressor
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from deepergatgnn.checkpoints import manifest
from deepergatgnn.checkpoints.manifest import Calibration, PredictedScale, Scaler, crystals_needed
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.nn.batch import collate
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.evaluation.conformal import (
    MOST_CLASSES,
    PER_CLASS,
    PRIOR,
    calibrate,
    class_edges,
    conformal_factor,
    fit_cross_intervals,
    fit_intervals,
    fit_scale,
)
from deepergatgnn.uncertainty.intervals import half_widths, interval_ends, predicted_scales, scale, scale_features
from tests.support.fixtures import Published, bundled, graphs_of, pair

__all__ = ["pair"]
Array = NDArray[np.float64]
LEVELS = tuple(map(float, manifest.LEVELS))
SPREAD = PredictedScale(constant=-0.4, learned=1, ensemble=0.1, distance=1)


@dataclass(frozen=True, eq=False)
class Real:
    """What the tiny ensemble says of the bundled crystals [n], in its own units."""

    log_scales: Array
    outputs: Array
    scores: Array
    truth: Array

    @property
    def residuals(self) -> Array:
        return self.outputs.mean(axis=0) - self.truth

    @property
    def widths(self) -> Array:
        return predicted_scales(self.log_scales, self.outputs, self.scores, SPREAD)

    def part(self, rows: slice) -> tuple[Array, Array, Array, Array]:
        return self.log_scales[:, rows], self.outputs[:, rows], self.scores[rows], self.truth[rows]


@pytest.fixture(scope="module")
def real(pair: Published) -> Real:
    predictor = Predictor.load(pair.folder)
    order = np.random.default_rng(0).permutation(len(bundled().rows))
    graphs = [reduce_graph(graph) for graph in graphs_of([bundled().rows[row].crystal for row in order])]
    with torch.inference_mode():
        said = [network(collate(graphs)) for network in predictor.networks]
    return Real(
        log_scales=np.stack([output.log_scales[:, 0].double().numpy() for output in said]),
        outputs=np.stack([output.values[:, 0].double().numpy() for output in said]),
        scores=np.array([answer.domain.score for answer in predictor.predict_graphs(graphs)]),
        truth=scale(bundled().values([pair.manifest.target.key])[order, 0], pair.manifest.scaler),
    )


def crepes_half_widths(regressor: ConformalRegressor, level: float, sigmas: Array, bins: Array | None = None) -> Array:
    """Half widths of crepes.

    It takes the ⌊(n+1)(1-level)⌋-th largest score, which is our ⌈(n+1)·level⌉-th smallest; where (n+1)(1-level) is
    whole its floating-point product may fall just below and the next larger score is taken, hence the tiny step.
    """
    ends = regressor.predict_int(np.zeros(len(sigmas)), sigmas=sigmas, bins=bins, confidence=level - 1e-12)
    half: Array = ends[:, 1]
    return half


@pytest.mark.parametrize("n", [20, 90, 99, 100, 199, 1000])
@pytest.mark.parametrize("level", LEVELS)
def test_the_same_spread_for_all_gives_the_classical_half_width(real: Real, n: int, level: float) -> None:
    residuals, ones = real.residuals[:n], np.ones(n)
    found = half_widths(np.ones(5), calibrate(PredictedScale(), ones, residuals), str(level))
    classical = np.sort(np.abs(residuals))[math.ceil((n + 1) * Fraction(str(level))) - 1]
    assert found.tolist() == [classical] * 5
    regressor = ConformalRegressor().fit(residuals)
    np.testing.assert_allclose(found, crepes_half_widths(regressor, level, np.ones(5)))


@pytest.mark.parametrize("n", [20, 90, 99, 100, 199])
@pytest.mark.parametrize("level", LEVELS)
def test_spreads_give_the_normalised_intervals_of_crepes(real: Real, n: int, level: float) -> None:
    widths, others = real.widths[:n], real.widths[n:]
    calibration = calibrate(SPREAD, widths, real.residuals[:n])
    assert calibration.edges == ()
    regressor = ConformalRegressor().fit(real.residuals[:n], sigmas=widths)
    expected = crepes_half_widths(regressor, level, others)
    np.testing.assert_allclose(half_widths(others, calibration, str(level)), expected)


@pytest.mark.parametrize("n", [400, 777, 1000])
@pytest.mark.parametrize("level", LEVELS)
def test_classes_give_the_mondrian_intervals_of_crepes(real: Real, n: int, level: float) -> None:
    widths, others = real.widths[:n], real.widths[n:]
    calibration = calibrate(SPREAD, widths, real.residuals[:n])
    assert len(calibration.edges) == min(n // PER_CLASS, MOST_CLASSES) - 1 >= 1
    bins, theirs = (np.digitize(each, calibration.edges) for each in (widths, others))
    regressor = ConformalRegressor().fit(real.residuals[:n], sigmas=widths, bins=bins)
    expected = crepes_half_widths(regressor, level, others, theirs)
    np.testing.assert_allclose(half_widths(others, calibration, str(level)), expected)


def test_with_too_few_crystals_there_is_no_interval_where_crepes_says_infinity(real: Real) -> None:
    residuals = real.residuals[:8]
    calibration = calibrate(PredictedScale(), np.ones(8), residuals)
    assert calibration.levels == ("0.5", "0.8")
    assert calibration.shortfall("0.9") == "8 calibration crystals cannot promise it, which takes 9"
    with pytest.warns(UserWarning, match="too small"):
        assert np.isinf(crepes_half_widths(ConformalRegressor().fit(residuals), 0.9, np.ones(1))).all()


@pytest.mark.parametrize(("level", "needed"), [("0.5", 1), ("0.8", 4), ("0.9", 9), ("0.95", 19), ("0.99", 99)])
def test_a_level_takes_as_many_crystals_as_its_rank(level: str, needed: int) -> None:
    assert crystals_needed(level) == needed
    assert conformal_factor(np.arange(1.0, needed + 1), level) == needed
    assert conformal_factor(np.arange(1.0, needed), level) == math.inf


def test_the_rank_is_exact_for_every_number_of_crystals() -> None:
    for n in range(1, 1500):
        ranks = np.arange(1.0, n + 1)
        for level in manifest.LEVELS:
            rank = math.ceil((n + 1) * Fraction(level))
            assert conformal_factor(ranks, level) == (rank if rank <= n else math.inf), (n, level)


DRAWS = {
    "heavy tails": lambda rng, shape: rng.standard_t(2, shape),
    "ties": lambda rng, shape: rng.integers(0, 3, shape).astype(float),
    "zeros": lambda rng, shape: np.where(rng.random(shape) < 0.7, 0.0, 1.0),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_what_so_few_crystals_promise_they_cover(kind: str) -> None:
    """From 1 to 50 calibration crystals; over many draws each promised level covers, and no other is there."""
    rng, times, fresh = np.random.default_rng(5), 250, 40
    for n in range(1, 51):
        hits = dict.fromkeys(manifest.LEVELS, 0.0)
        for _ in range(times):
            widths, residuals = rng.lognormal(size=n + fresh), DRAWS[kind](rng, n + fresh)
            found = calibrate(PredictedScale(), widths[:n], residuals[:n] * widths[:n])
            assert found.levels == tuple(level for level in hits if n >= crystals_needed(level))
            for level in found.levels:
                off = np.abs(residuals[n:] * widths[n:])
                hits[level] += float((off <= half_widths(widths[n:], found, level) * (1 + 1e-12)).mean()) / times
        for level in found.levels:
            share = float(level)
            error = math.sqrt(share * (1 - share) * (1 / n + 1 / fresh) / times)
            assert hits[level] > share - 4 * error, (n, level)


def learned(rng: np.random.Generator, n: int, members: int, kind: str) -> tuple[Calibration, Array, float]:
    """CV+ intervals of small regressions, what the members say of one more crystal, and its truth."""
    x = rng.normal(size=(n + 1, 3))
    y = x @ np.array([1.0, 0.5, -1.0]) + rng.standard_t(3, n + 1)
    residuals, outputs = [], []
    for fold in np.array_split(rng.permutation(n), members):
        rows = np.setdiff1d(np.arange(n), fold)
        if kind == "mean":
            guesses = np.full(n + 1, y[rows].mean())
        else:
            weights = np.linalg.solve(x[rows].T @ x[rows] + 0.1 * np.eye(3), x[rows].T @ y[rows])
            guesses = x @ weights
        residuals.append(guesses[fold] - y[fold])
        outputs.append(guesses[n:])
    nothing = np.zeros((members, 0)), np.zeros((members, 0)), np.zeros(0), np.zeros(0)
    return fit_cross_intervals(nothing, residuals), np.stack(outputs), float(y[n])


@pytest.mark.parametrize("kind", ["mean", "ridge"])
@pytest.mark.parametrize("members", [2, 5])
def test_members_calibrated_on_each_others_folds_cover_what_they_promise(members: int, kind: str) -> None:
    rng, times = np.random.default_rng(6), 500
    hits, counts = dict.fromkeys(manifest.LEVELS, 0), dict.fromkeys(manifest.LEVELS, 0)
    for n in range(members, 51, 3):
        for _ in range(times // 10):
            calibration, outputs, truth = learned(rng, n, members, kind)
            assert calibration.method == "cv+"
            assert calibration.levels == tuple(level for level in hits if n >= crystals_needed(level))
            lows, highs = interval_ends(outputs, np.ones(1), calibration, Scaler(mean=0, std=1))
            assert (lows <= outputs.mean()).all()
            assert (highs >= outputs.mean()).all()
            for level, low, high in zip(calibration.levels, lows[:, 0], highs[:, 0], strict=True):
                hits[level] += low <= truth <= high
                counts[level] += 1
    for level, share in ((level, float(level)) for level in hits):
        error = math.sqrt(share * (1 - share) / counts[level])
        assert hits[level] / counts[level] > share - 3 * error, level


def test_the_ends_of_cv_plus_are_those_of_its_definition() -> None:
    rng = np.random.default_rng(7)
    residuals = [np.abs(rng.normal(size=size)) for size in (7, 6, 9)]
    nothing = np.zeros((3, 0)), np.zeros((3, 0)), np.zeros(0), np.zeros(0)
    calibration, outputs = fit_cross_intervals(nothing, residuals), rng.normal(size=(3, 4))
    n, alpha = 22, Fraction(1, 10)
    [_, _, low, _], [_, _, high, _] = interval_ends(outputs, np.ones(4), calibration, Scaler(mean=0, std=1))
    for crystal in range(4):
        ends = [(outputs[m, crystal] - r, outputs[m, crystal] + r) for m in range(3) for r in residuals[m]]
        lower, upper = sorted(end for end, _ in ends), sorted(end for _, end in ends)
        assert low[crystal] == lower[math.floor(alpha * (n + 1)) - 1]
        assert high[crystal] == upper[math.ceil((1 - alpha) * (n + 1)) - 1]


DEGENERATE = {
    "no crystal": (np.zeros(0), np.zeros(0), ()),
    "one crystal": (np.ones(1), np.ones(1), ("0.5",)),
    "all residuals equal": (np.ones(30), np.full(30, 0.3), manifest.LEVELS),
    "all residuals zero": (np.ones(30), np.zeros(30), manifest.LEVELS),
    "spreads of zero": (np.zeros(30), np.ones(30), ()),
    "spreads and residuals of zero": (np.zeros(30), np.zeros(30), manifest.LEVELS),
    "a residual that is not a number": (np.ones(20), np.append(np.ones(19), np.nan), ("0.5", "0.8", "0.9")),
    "no residual that is a number": (np.ones(20), np.full(20, np.nan), ()),
    "a spread that is not a number": (np.append(np.ones(19), np.nan), np.ones(20), ("0.5", "0.8", "0.9")),
    "no spread that is a number": (np.full(500, np.nan), np.ones(500), ()),
    "infinite residuals": (np.ones(20), np.full(20, np.inf), ()),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_residuals_promise_what_their_finite_quantiles_do(name: str) -> None:
    widths, residuals, levels = DEGENERATE[name]
    calibration = calibrate(PredictedScale(), widths, residuals)
    assert calibration.levels == levels
    assert calibration.n == len(widths)
    assert Calibration.model_validate_json(calibration.model_dump_json()) == calibration
    for level in manifest.LEVELS:
        assert (calibration.shortfall(level) is None) == (level in levels)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 3000))
def test_every_class_has_crystals_enough_whatever_the_ties(seed: int, different: int, n: int) -> None:
    widths = np.random.default_rng(seed).integers(1, different + 1, n) / 7.0
    edges = class_edges(widths)
    assert edges == sorted(set(edges))
    assert len(edges) < MOST_CLASSES
    counts = np.bincount(np.searchsorted(edges, widths, side="right"), minlength=len(edges) + 1)
    assert len(edges) == 0 or counts.min() >= PER_CLASS // 2


def test_classes_of_different_spreads_are_of_equal_size(real: Real) -> None:
    for n, classes in ((399, 1), (400, 2), (1000, 5), (1128, 5)):
        widths = real.widths[:n]
        counts = np.bincount(np.searchsorted(class_edges(widths), widths, side="right"))
        assert len(counts) == classes
        assert np.ptp(counts) <= 2


@pytest.mark.parametrize("n", [1, 150, 1000])
def test_the_same_spread_for_many_is_one_class(real: Real, n: int) -> None:
    assert calibrate(PredictedScale(), np.ones(n), real.residuals[:n]).edges == ()


def stretched(real: Real) -> tuple[Array, Array, Array]:
    """Real features, many times, and so far apart that each of them can be told from the others."""
    log_scales = real.log_scales + 39 * (real.log_scales - real.log_scales.mean())
    return np.tile(log_scales, 20), np.tile(real.outputs, 20), np.tile(3 * real.scores, 20)


@pytest.mark.parametrize("weights", [(0.0, 1.0, 0.0, 0.0), (-0.5, 0.7, 0.3, 1.2), (0.4, 0.0, -0.2, 0.0)])
def test_weights_are_recovered_from_drawn_residuals(real: Real, weights: tuple[float, ...]) -> None:
    said = stretched(real)
    features = scale_features(*said)
    drawn = np.random.default_rng(3).laplace(size=len(features)) * np.exp(features @ weights)
    found = fit_scale(*said, drawn)
    # Fisher information of a Laplace scale: one for each residual and unit of log-spread.
    errors = np.sqrt(np.diag(np.linalg.inv(features.T @ features)))
    off = np.array([found.constant, found.learned, found.ensemble, found.distance]) - weights
    assert (np.abs(off) < 4 * errors + 0.01).all(), (off, errors)


def test_no_other_optimiser_does_better(real: Real) -> None:
    features = scale_features(real.log_scales, real.outputs, real.scores)
    start = np.array([0.0, 1.0, 0.0, 0.0])

    def objective(weights: Array) -> float:
        spread = np.exp(features @ weights)
        prior = ((weights - start)[1:] ** 2).sum() / (2 * PRIOR**2 * len(features))
        return float((np.abs(real.residuals) / spread + np.log(spread)).mean() + prior)

    found = fit_scale(real.log_scales, real.outputs, real.scores, real.residuals)
    ours = np.array([found.constant, found.learned, found.ensemble, found.distance])
    theirs = minimize(objective, start, method="BFGS", options={"gtol": 1e-8}).x
    assert objective(ours) <= objective(theirs) + 1e-10
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert objective(ours) < objective(start)


def test_a_fitted_spread_is_right_on_average_and_larger_where_residuals_are(real: Real) -> None:
    found = fit_scale(real.log_scales, real.outputs, real.scores, real.residuals)
    capped = predicted_scales(real.log_scales, real.outputs, real.scores, found)
    free = found.model_copy(update={"most": None})
    spread, off = predicted_scales(real.log_scales, real.outputs, real.scores, free), np.abs(real.residuals)
    np.testing.assert_allclose(capped, np.minimum(spread, np.quantile(spread, 0.99)), rtol=1e-4)
    assert (off / spread).mean() == pytest.approx(1, abs=1e-6)
    easy, hard = off[spread < np.median(spread)], off[spread >= np.median(spread)]
    assert hard.mean() > 1.2 * easy.mean()


RNG, N = np.random.default_rng(0), 50
DRAWN = RNG.normal(size=(2, N)), RNG.normal(size=(2, N)), RNG.random(N), RNG.normal(size=N)
THIRD = np.arange(N) == 3
HOSTILE = {
    "one crystal": (DRAWN[0][:, :1], DRAWN[1][:, :1], DRAWN[2][:1], DRAWN[3][:1]),
    "no crystal": (np.zeros((2, 0)), np.zeros((2, 0)), np.zeros(0), np.zeros(0)),
    "constant": (np.full((2, N), -7.0), np.ones((2, N)), np.ones(N), DRAWN[3]),
    "one member": (np.zeros((1, N)), DRAWN[1][:1], np.zeros(N), DRAWN[3]),
    "zero residuals": (*DRAWN[:3], np.zeros(N)),
    "huge residuals": (*DRAWN[:3], 1e30 * DRAWN[3]),
    "one huge residual": (*DRAWN[:3], np.where(THIRD, 1e12, DRAWN[3])),
    "far away": (np.full((2, N), 4.0), 1e8 * DRAWN[1], 1e8 * DRAWN[2], np.ones(N)),
    "an infinite residual": (*DRAWN[:3], np.where(THIRD, np.inf, DRAWN[3])),
    "nothing but infinite": (*DRAWN[:3], np.full(N, np.inf)),
    "a missing output": (DRAWN[0], np.where(THIRD, np.nan, DRAWN[1]), *DRAWN[2:]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_the_residuals_the_spread_is_a_number(name: str) -> None:
    log_scales, outputs, scores, residuals = HOSTILE[name]
    found = fit_scale(log_scales, outputs, scores, residuals)
    assert np.isfinite([found.constant, found.learned, found.ensemble, found.distance]).all()
    width = predicted_scales(log_scales, outputs, scores, found)[np.isfinite(outputs).all(axis=0)]
    assert np.isfinite(width).all()
    assert (width > 0).all()


def test_crystals_that_are_not_finite_change_nothing(real: Real) -> None:
    log_scales, outputs, scores, _ = real.part(slice(0, 200))
    residuals = real.residuals[:200]
    clean = fit_scale(log_scales, outputs, scores, residuals)
    more = fit_scale(
        np.concatenate([log_scales, log_scales[:, :2]], axis=1),
        np.concatenate([outputs, outputs[:, :2]], axis=1),
        np.append(scores, [1.0, np.inf]),
        np.append(residuals, [np.nan, 1.0]),
    )
    assert more == clean


def test_the_spread_is_from_validation_and_the_factors_from_calibration(real: Real) -> None:
    one, two, three = (real.part(rows) for rows in (slice(0, 100), slice(100, 300), slice(300, 500)))
    both = fit_intervals(one, two)
    assert both.n == 200
    assert fit_intervals(one, three).spread == both.spread
    assert fit_intervals(three, two).spread != both.spread
    log_scales, outputs, scores, truth = two
    residuals = outputs.mean(axis=0) - truth
    assert both == calibrate(both.spread, predicted_scales(log_scales, outputs, scores, both.spread), residuals)
    with_twice_the_residuals = (log_scales, outputs, scores, outputs.mean(axis=0) - 2 * residuals)
    doubled = fit_intervals(one, with_twice_the_residuals).factors
    for level, factors in both.factors.items():
        np.testing.assert_allclose(doubled[level], 2 * np.array(factors))


def covered(calibration: Calibration, widths: Array, residuals: Array, level: float) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.abs(residuals) <= half_widths(widths, calibration, str(level))
    return inside


@pytest.mark.parametrize("n", [60, 150])
@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "normalised"])
def test_intervals_cover_what_they_promise(real: Real, n: int, normalised: bool) -> None:
    """Over random partings the mean coverage is exactly ⌈(n+1)·level⌉ / (n+1), whatever the residuals are."""
    rng, times, hits = np.random.default_rng(1), 400, dict.fromkeys(LEVELS, 0.0)
    widths = real.widths if normalised else np.ones(len(real.truth))
    for _ in range(times):
        order = rng.permutation(len(widths))
        fit, test = order[:n], order[n:]
        calibration = calibrate(SPREAD, widths[fit], real.residuals[fit])
        for level in LEVELS:
            hits[level] += covered(calibration, widths[test], real.residuals[test], level).mean() / times
    for level, found in hits.items():
        error = math.sqrt(level * (1 - level) * (1 / n + 1 / (len(widths) - n)) / times)
        assert found == pytest.approx(math.ceil((n + 1) * Fraction(str(level))) / (n + 1), abs=4 * error), level


def test_each_fifth_of_the_widths_is_covered_as_promised(real: Real) -> None:
    """Easy crystals and hard ones alike: the factors of one class know nothing of the others."""
    rng, times, n = np.random.default_rng(2), 300, PER_CLASS * MOST_CLASSES
    hits, counts = {level: np.zeros(MOST_CLASSES) for level in LEVELS}, np.zeros(MOST_CLASSES)
    # Residuals whose size has little to do with the spread, so that one factor for all would not do.
    residuals = real.residuals / real.widths**1.5
    for _ in range(times):
        order = rng.permutation(len(residuals))
        fit, test = order[:n], order[n:]
        calibration = calibrate(SPREAD, real.widths[fit], residuals[fit])
        fifths = np.digitize(real.widths[test], calibration.edges)
        counts += np.bincount(fifths, minlength=MOST_CLASSES)
        for level in LEVELS:
            inside = covered(calibration, real.widths[test], residuals[test], level)
            hits[level] += np.bincount(fifths, weights=inside, minlength=MOST_CLASSES)
    for level, found in hits.items():
        error = math.sqrt(level * (1 - level) * (1 / PER_CLASS + MOST_CLASSES / (len(residuals) - n)) / times)
        promised = math.ceil((PER_CLASS + 1) * Fraction(str(level))) / (PER_CLASS + 1)
        np.testing.assert_allclose(found / counts, promised, atol=4 * error + 1 / PER_CLASS)
