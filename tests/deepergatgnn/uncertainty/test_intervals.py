"""From outputs and log-spreads to values with intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydantic import ValidationError

from deepergatgnn.checkpoints.manifest import Calibration, PredictedScale, Scaler
from deepergatgnn.uncertainty.intervals import (
    half_widths,
    interval_ends,
    predicted_scales,
    scale,
    scale_features,
    unscale,
)

Array = NDArray[np.float64]
SCALERS = [
    Scaler(mean=0, std=1),
    Scaler(mean=-3.5, std=0.02),
    Scaler(transform="log10", mean=1.9, std=0.37),
]
LEVELS = ("0.5", "0.8", "0.9", "0.95")


def said(seed: int, members: int, n: int = 40) -> tuple[Array, Array, Array]:
    """Log-spreads, outputs and domain scores."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-3, 1, (members, n)), rng.normal(size=(members, n)), rng.exponential(0.5, n)


@given(arrays(np.float64, 20, elements=st.floats(1e-6, 1e6)), st.sampled_from(SCALERS))
def test_values_come_back_from_the_networks_units(values: Array, scaler: Scaler) -> None:
    np.testing.assert_allclose(unscale(scale(values, scaler), scaler), values, rtol=1e-9, atol=1e-9)


@given(arrays(np.float64, 20, elements=st.floats(-20, 20)), st.sampled_from(SCALERS))
def test_outputs_come_back_from_the_targets_unit(outputs: Array, scaler: Scaler) -> None:
    np.testing.assert_allclose(scale(unscale(outputs, scaler), scaler), outputs, rtol=1e-6, atol=1e-6)


def test_scaling_standardises_the_transformed_values() -> None:
    values = np.random.default_rng(0).lognormal(3, 1, 500)
    logs = np.log10(values)
    scaled = scale(values, Scaler(transform="log10", mean=float(logs.mean()), std=float(logs.std())))
    assert scaled.mean() == pytest.approx(0, abs=1e-12)
    assert scaled.std() == pytest.approx(1)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_what_has_no_logarithm_is_missing(value: float) -> None:
    assert np.isnan(scale([value], SCALERS[2])).all()
    assert np.isnan(scale([[1.0, value]], SCALERS[2])).tolist() == [[False, True]]


def test_no_output_makes_an_infinite_value() -> None:
    extreme = unscale(np.array([-1e6, 1e6]), SCALERS[2])
    assert np.isfinite(extreme).all()
    assert (extreme > 0).all()


@pytest.mark.parametrize("members", [1, 2, 5])
def test_no_weights_are_the_same_spread_for_all(members: int) -> None:
    assert predicted_scales(*said(0, members), PredictedScale()).tolist() == [1.0] * 40


@pytest.mark.parametrize("members", [1, 2, 5])
def test_the_networks_own_spread_is_their_geometric_mean(members: int) -> None:
    log_scales, outputs, scores = said(1, members)
    found = predicted_scales(log_scales, outputs, scores, PredictedScale(learned=1))
    np.testing.assert_allclose(found, np.prod(np.exp(log_scales), axis=0) ** (1 / members))


def test_the_spread_of_an_ensemble_is_the_standard_deviation_of_its_members() -> None:
    log_scales, outputs, scores = said(2, 4)
    found = predicted_scales(log_scales, outputs, scores, PredictedScale(ensemble=1))
    np.testing.assert_allclose(found, np.std(outputs, axis=0, ddof=1))
    np.testing.assert_allclose(
        predicted_scales(log_scales, outputs, scores, PredictedScale(distance=2)), (1 + scores) ** 2
    )


def test_one_member_and_members_that_agree_have_finite_features() -> None:
    log_scales, outputs, scores = said(3, 1)
    assert (scale_features(log_scales, outputs, scores)[:, 2] == 0).all()
    agreed = scale_features(np.repeat(log_scales, 3, axis=0), np.repeat(outputs, 3, axis=0), scores)
    assert np.isfinite(agreed).all()


def test_weights_add_up_in_the_logarithm() -> None:
    parts = [
        PredictedScale(constant=0.3),
        PredictedScale(learned=0.8),
        PredictedScale(ensemble=-0.2),
        PredictedScale(distance=1.1),
    ]
    whole = PredictedScale(constant=0.3, learned=0.8, ensemble=-0.2, distance=1.1)
    factors = [predicted_scales(*said(4, 3), part) for part in parts]
    np.testing.assert_allclose(predicted_scales(*said(4, 3), whole), np.prod(factors, axis=0))


def calibration(*edges: float) -> Calibration:
    factors = {level: tuple(float(level) * (2 + each) for each in range(len(edges) + 1)) for level in LEVELS}
    return Calibration(n=1000, edges=edges, factors=factors)


def test_no_spread_is_larger_than_the_largest() -> None:
    log_scales, outputs, scores = said(0, 3)
    free = predicted_scales(log_scales, outputs, scores, PredictedScale(learned=1, distance=6))
    most = float(np.median(free))
    capped = predicted_scales(log_scales, outputs, scores, PredictedScale(learned=1, distance=6, most=most))
    np.testing.assert_allclose(capped, np.minimum(free, most))
    far = predicted_scales(log_scales, outputs, np.full_like(scores, 1e200), PredictedScale(distance=6, most=most))
    np.testing.assert_allclose(far, most)


def test_a_class_of_spread_has_its_own_factor_and_an_edge_belongs_to_the_class_above() -> None:
    spread = np.array([0.1, 0.5, 0.7, 2.0, 9.0])
    np.testing.assert_allclose(
        half_widths(spread, calibration(0.5, 2.0), "0.5"), spread * 0.5 * np.array([2, 3, 3, 4, 4])
    )


@pytest.mark.parametrize("scaler", SCALERS, ids=["plain", "shifted", "log10"])
@pytest.mark.parametrize("edges", [(), (0.5, 1.0)], ids=["one class", "three classes"])
def test_all_levels_at_once_are_what_each_is_alone(scaler: Scaler, edges: tuple[float, ...]) -> None:
    log_scales, outputs, scores = said(6, 2)
    spread, middle = predicted_scales(log_scales, outputs, scores, PredictedScale(learned=1)), outputs.mean(axis=0)
    lows, highs = interval_ends(outputs, spread, calibration(*edges), scaler)
    assert len(lows) == len(highs) == len(LEVELS)
    for level, low, high in zip(LEVELS, lows, highs, strict=True):
        half = half_widths(spread, calibration(*edges), level)
        assert low.tolist() == unscale(middle - half, scaler).tolist()
        assert high.tolist() == unscale(middle + half, scaler).tolist()


@pytest.mark.parametrize("scaler", SCALERS, ids=["plain", "shifted", "log10"])
@pytest.mark.parametrize("edges", [(), (0.5, 1.0)], ids=["one class", "three classes"])
def test_a_higher_level_has_a_wider_interval_around_the_value(scaler: Scaler, edges: tuple[float, ...]) -> None:
    log_scales, outputs, scores = said(5, 3)
    spread = predicted_scales(log_scales, outputs, scores, PredictedScale(learned=1, distance=0.5))
    middle, lows, highs = outputs.mean(axis=0), [], []
    for level in LEVELS:
        half = half_widths(spread, calibration(*edges), level)
        lows.append(unscale(middle - half, scaler))
        highs.append(unscale(middle + half, scaler))
    value = unscale(middle, scaler)
    assert (np.diff(np.stack([*lows[::-1], value, *highs]), axis=0) > 0).all()
    if scaler.transform == "log10":
        assert (np.stack(lows) > 0).all()
        assert (highs[-1] - value > value - lows[-1]).all()
        np.testing.assert_allclose(highs[-1] / value, value / lows[-1])
    else:
        np.testing.assert_allclose(highs[-1] - value, value - lows[-1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"factors": {"1.5": (1.0,)}}, "level '1.5' is not between 0 and 1"),
        ({"factors": {"most": (1.0,)}}, "could not convert"),
        ({"method": "cv+", "residuals": ((1.0,),)}, "residuals must be those of 10 crystals"),
        ({"edges": (1.0,)}, "factors must have 2 numbers"),
        ({"edges": (2.0, 1.0), "factors": {"0.9": (1.0, 1.0, 1.0)}}, "edges must ascend"),
        ({"factors": {"0.9": (-1.0,)}}, "greater than or equal to 0"),
        ({"factors": {"0.9": (float("inf"),)}}, "finite"),
        ({"spread": {"learned": float("nan")}}, "finite"),
        ({"n": -1}, "greater than or equal to 0"),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(change: dict[str, object], reason: str) -> None:
    good: dict[str, object] = {"n": 10, "factors": {"0.9": (1.0,)}}
    assert Calibration.model_validate(good).edges == ()
    with pytest.raises(ValidationError, match=reason):
        Calibration.model_validate(good | change)


def test_a_level_that_an_older_version_cannot_promise_is_not_read() -> None:
    old = {"n": 4, "factors": {level: [1.5] for level in LEVELS}}
    assert Calibration.model_validate(old).levels == ("0.5", "0.8")
    assert Calibration.model_validate(old | {"n": 19}).levels == LEVELS
