"""Schedules and their numbers."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from deepergatgnn.training.config.optimization import RISE_FROM, OptimizationConfig, one_cycle, plateau

CONFIG = OptimizationConfig(schedule="plateau", learning_rate=5e-3)


@given(
    errors=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5]), max_size=60),
    patience=st.integers(1, 5),
    factor=st.floats(0.1, 0.9),
    floor=st.sampled_from([0.0, 1e-5, 1e-3]),
)
def test_the_plateau_schedule_is_that_of_torch(errors: list[float], patience: int, factor: float, floor: float) -> None:
    config = replace(CONFIG, plateau_patience=patience, plateau_factor=factor, plateau_floor=floor)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
    theirs = ReduceLROnPlateau(optimizer, factor=factor, patience=patience, threshold=0, min_lr=floor, eps=0)
    for count, error in enumerate(errors, start=1):
        theirs.step(error)
        assert plateau(errors[:count], config) == optimizer.param_groups[0]["lr"]


def test_the_plateau_schedule_begins_at_the_full_rate() -> None:
    assert plateau([], CONFIG) == 5e-3


def test_the_one_cycle_schedule_rises_to_its_peak_and_falls_to_nothing() -> None:
    config = OptimizationConfig(learning_rate=2e-3, warmup=0.2)
    rates = [one_cycle(step / 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(2e-3 * RISE_FROM)
    assert max(rates) == rates[20] == 2e-3
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


@given(done=st.floats(0, 1), warmup=st.floats(0.01, 0.99))
def test_the_one_cycle_schedule_is_smooth_and_in_range(done: float, warmup: float) -> None:
    """No steeper anywhere than the steeper of its two cosines."""
    config = OptimizationConfig(learning_rate=1.0, warmup=warmup)
    rate, step = one_cycle(done, config), 1e-4
    assert 0 <= rate <= 1
    steepest = math.pi / 2 / min(warmup, 1 - warmup)
    assert abs(one_cycle(min(1.0, done + step), config) - rate) <= steepest * step * 1.01


@pytest.mark.parametrize(
    ("field", "value"),
    [("learning_rate", 0), ("epochs", 0), ("ema", 1), ("warmup", 1), ("clip", 0), ("layer_decay", 1.5), ("beta", 0)],
)
def test_numbers_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field} is {value}, it must be "):
        OptimizationConfig(**{field: value})
