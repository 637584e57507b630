"""What a step is made of: losses, groups of parameters, averages, moments in full precision."""

import math
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from deepergatgnn.nn.crystal_model import NetworkOutput
from deepergatgnn.nn.normalization import DifferentiableGroupNorm, WeightedBatchNorm
from deepergatgnn.training.config.optimization import OptimizationConfig
from deepergatgnn.training.fit.loop import _losses, _moving_average, _parameter_groups
from tests.support.fixtures import seeded_network

CONFIG = OptimizationConfig(weight_decay=0.1)
LOSSES = get_args(get_type_hints(OptimizationConfig)["loss"])


def said(values: Tensor, log_scales: Tensor | None = None) -> NetworkOutput:
    """An output with these values; the parts that no loss sees are empty."""
    nothing = torch.zeros(0)
    return NetworkOutput(values, nothing, nothing, torch.zeros_like(values) if log_scales is None else log_scales)


def penalty(name: str, residual: float, beta: float) -> float:
    """What a single residual costs, from the losses' definitions."""
    size = abs(residual)
    if name == "l1":
        return size
    if name == "mse":
        return size**2
    limit = 1.0 if name == "huber" else beta
    return (size**2 / 2 if size < limit else limit * (size - limit / 2)) / (1 if name == "huber" else beta)


@pytest.mark.parametrize("name", LOSSES)
def test_missing_targets_count_for_nothing(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 2, generator=generator, requires_grad=True)
    targets = 2 * torch.randn(6, 2, generator=generator)
    targets[0, 0] = targets[3, 1] = targets[4, 0] = targets[4, 1] = math.nan
    share = (1.0, 0.25)
    config = OptimizationConfig(loss=name, beta=0.3)  # type: ignore[arg-type]
    loss, _ = _losses(said(values), targets, torch.tensor(share), config)
    known = [(row, column) for row in range(6) for column in range(2) if not math.isnan(targets[row, column])]
    residuals = (values - targets).tolist()
    total = sum(share[column] * penalty(name, residuals[row][column], 0.3) for row, column in known)
    assert loss.item() == pytest.approx(total / sum(share[column] for _, column in known))
    [gradient] = torch.autograd.grad(loss, values)
    assert gradient.isfinite().all()
    assert gradient[4].tolist() == [0, 0]
    assert gradient[0, 0] == gradient[3, 1] == 0


def test_a_batch_without_any_target_neither_learns_nor_fails() -> None:
    values = torch.ones(3, 1, requires_grad=True)
    loss, spread = _losses(said(values), torch.full((3, 1), math.nan), torch.ones(1), CONFIG)
    assert loss == spread == 0
    [gradient] = torch.autograd.grad(loss, values)
    assert not gradient.any()


def test_the_best_spread_of_equal_residuals_is_their_size() -> None:
    """The negative logarithm of a Laplace density, |r| / s + log s, is lowest at s = |r|."""
    targets = torch.tensor([[0.3], [-0.3]])
    log_scales = torch.full((2, 1), math.log(0.3), requires_grad=True)
    _, loss = _losses(said(torch.zeros(2, 1), log_scales), targets, torch.ones(1), CONFIG)
    assert loss.item() == pytest.approx(1 + math.log(0.3))
    [gradient] = torch.autograd.grad(loss, log_scales)
    torch.testing.assert_close(gradient, torch.zeros(2, 1), rtol=0, atol=1e-6)


def test_weight_decay_is_for_matrices_only() -> None:
    network = seeded_network(layers=2, channels=16, heads=2, groups=4, targets=2)
    decayed, spared = _parameter_groups(network, CONFIG)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {  # type: ignore[attr-defined]
        *(f"body.layers.{index}.{name}" for index in range(2) for name in ("weight", "attention")),
        *(f"{name}.weight" for name in ("embedding.elements.0", "embedding.edges", "head.hidden.0", "head.values")),
        *(f"attention.{name}.weight" for name in ("first", "second", "output")),
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(names)  # type: ignore[arg-type]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_the_moving_average_starts_short_and_copies_counters() -> None:
    update = _moving_average(0.9)
    mean, counter = torch.zeros(1), torch.zeros((), dtype=torch.int64)
    update([mean, counter], [torch.ones(1), torch.tensor(7)], 0)
    assert mean.item() == pytest.approx(0.9)  # decay 1/10 at first
    assert counter.item() == 7
    update([mean, counter], [torch.zeros(1), torch.tensor(8)], 10_000)
    assert mean.item() == pytest.approx(0.81)


def test_the_groups_have_the_pace_of_their_height() -> None:
    network = seeded_network(layers=2, channels=16)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    paces = {
        names[id(parameter)]: group["pace"]
        for group in _parameter_groups(network, replace(CONFIG, layer_decay=0.5))
        for parameter in group["params"]  # type: ignore[attr-defined]
    }
    assert paces.keys() == set(names.values())
    below = ("embedding.edges.weight", "body.layers.0.weight", "body.norms.1.weight")
    assert [paces[name] for name in below] == [0.125, 0.25, 0.5]
    assert paces["head.values.bias"] == paces["attention.first.weight"] == 1


@pytest.mark.parametrize("norm", [WeightedBatchNorm(8), DifferentiableGroupNorm(8, groups=3)])
def test_moments_under_autocast_are_those_of_full_precision(norm: torch.nn.Module) -> None:
    """In bfloat16 a variance far from its mean would be nothing but rounding."""
    if isinstance(norm, DifferentiableGroupNorm):  # its soft assignment may be in bfloat16, all that follows may not
        torch.nn.init.zeros_(norm.assign.weight)
    x = (20 + torch.randn(500, 8, generator=torch.Generator().manual_seed(0))).bfloat16().float()
    norm(x)
    expected = {name: tensor.clone() for name, tensor in norm.named_buffers()}
    norm.get_buffer("running_mean").zero_()
    norm.get_buffer("running_var").fill_(1)
    with torch.autocast("cpu", torch.bfloat16):
        norm(x)
    for name, tensor in norm.named_buffers():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
