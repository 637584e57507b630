"""Differentiable group normalization."""

import pytest
import torch
from torch import Tensor
from torch_geometric.nn import DiffGroupNorm

from deepergatgnn.nn.batch import collate
from deepergatgnn.nn.normalization import DifferentiableGroupNorm
from tests.support.fixtures import graphs_of, seeded_network, some_crystals

F, G = 64, 10
both_modes = pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])


def features() -> Tensor:
    """What the first layer of a network makes of real crystals, [N, F], float64."""
    network = seeded_network(layers=1, channels=F).double()
    caught: list[Tensor] = []
    network.body.norms[0].register_forward_hook(lambda _module, inputs, _output: caught.append(inputs[0]))
    with torch.no_grad():
        network(collate(graphs_of(some_crystals(12))).to("cpu", dtype=torch.float64))
    return caught[0]


def drawn(scale: float = 0.01) -> DifferentiableGroupNorm:
    """A normalization with nothing left at its default."""
    torch.manual_seed(0)
    norm = DifferentiableGroupNorm(F, G, scale).double()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(0.5 + torch.rand(G, F))
    return norm


@both_modes
def test_without_scale_it_is_the_identity(training: bool) -> None:
    x = features()
    assert torch.equal(drawn(scale=0.0).train(training)(x), x)


@both_modes
def test_it_is_the_function_of_pyg(training: bool) -> None:
    norm, x = drawn(scale=1.0).train(training), features()
    other = DiffGroupNorm(F, G, lamda=1.0, eps=norm.eps, momentum=norm.momentum).double().train(training)
    other.lin.load_state_dict(norm.assign.state_dict())
    flat = {
        name: getattr(norm, name).detach().reshape(-1) for name in ("weight", "bias", "running_mean", "running_var")
    }
    other.norm.load_state_dict(flat | {"num_batches_tracked": torch.tensor(0)})
    torch.testing.assert_close(norm(x), other(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(norm.running_mean.reshape(-1), other.norm.running_mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(norm.running_var.reshape(-1), other.norm.running_var, rtol=1e-10, atol=1e-10)


@both_modes
def test_atoms_may_be_reordered(training: bool) -> None:
    norm, x = drawn().train(training), features()
    order = torch.randperm(len(x))
    torch.testing.assert_close(norm(x[order]), norm(x)[order], rtol=1e-12, atol=1e-12)


def test_in_evaluation_an_atom_does_not_see_its_company() -> None:
    norm, x = drawn().eval(), features()
    torch.testing.assert_close(norm(x[:1]), norm(x)[:1], rtol=1e-14, atol=1e-14)


def test_in_training_each_group_is_standardised() -> None:
    """With one group everything belongs to it, and what is added is batch normalization itself."""
    x = features()
    norm = DifferentiableGroupNorm(F, 1, 1.0).double().train()
    added = norm(x) - x
    torch.testing.assert_close(added.mean(dim=0), torch.zeros(F, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        added.var(dim=0, unbiased=False), x.var(dim=0, unbiased=False) / (x.var(dim=0, unbiased=False) + norm.eps)
    )


def test_running_statistics_approach_those_of_the_data() -> None:
    x, norm = features(), drawn().train()
    for _ in range(1500):
        norm(x)
    assignment = norm.assign(x).softmax(dim=-1)
    grouped = assignment[:, :, None] * x[:, None, :]
    torch.testing.assert_close(norm.running_mean, grouped.mean(dim=0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.running_var, grouped.var(dim=0), rtol=1e-5, atol=1e-5)


def test_evaluation_keeps_the_running_statistics() -> None:
    norm = drawn().eval()
    before = norm.running_mean.clone(), norm.running_var.clone()
    norm(features())
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])


@pytest.mark.parametrize("rows", [1, 40])
def test_atoms_that_are_all_alike_stay_finite(rows: int) -> None:
    """An elemental crystal with one site: the variance is zero, up to rounding that must not turn it negative."""
    x = features()[:1].float().repeat(rows, 1).requires_grad_()
    norm = drawn().float().train()
    out = norm(x)
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert norm.running_var.isfinite().all()


def test_input_is_not_changed() -> None:
    x = features()
    before = x.clone()
    drawn().train()(x)
    assert torch.equal(x, before)


def test_it_has_1_920_parameters_and_prints_its_sizes() -> None:
    norm = DifferentiableGroupNorm(F, G)
    assert sum(parameter.numel() for parameter in norm.parameters()) == 640 + 1280
    assert repr(norm).startswith("DifferentiableGroupNorm(\n  64, groups=10, scale=0.01\n")
