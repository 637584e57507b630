"""The attention layer and the radial basis."""

import math

import pytest
import torch
from torch import Tensor

from deepergatgnn.nn.batch import collate
from deepergatgnn.nn.bodies.agat import AGATLayer
from deepergatgnn.nn.embedding import GaussianBasis
from deepergatgnn.nn.neighbourhood import Neighbourhood
from tests.support.fixtures import SODIUM, graphs_of, one_atom_cells, some_crystals

F, H = 16, 3


def among(x: Tensor, receivers: Tensor, senders: Tensor) -> Neighbourhood:
    """The neighbourhoods of a graph that was not reduced."""
    ones = x.new_ones(len(senders))
    return Neighbourhood(receivers, senders, ones, ones.log(), ones, x.new_ones(len(x)))


def layer_and_input(*, training: bool = False) -> tuple[AGATLayer, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    batch = collate(graphs_of([SODIUM, *one_atom_cells()[:2], *some_crystals(4)]))
    layer = AGATLayer(F, H).double().train(training)
    x = torch.randn(len(batch.atomic_numbers), F, dtype=torch.float64)
    e = torch.randn(len(batch.senders), F, dtype=torch.float64)
    return layer, x, e, batch.receivers, batch.senders


def test_a_layer_of_the_papers_size_has_33_352_parameters() -> None:
    # W 32,768 + attention 512 + batch norm 8 + bias 64; the group normalization adds 1,920 more.
    assert sum(parameter.numel() for parameter in AGATLayer(64, 4).parameters()) == 32_768 + 512 + 8 + 64


@pytest.mark.parametrize("training", [False, True])
def test_atoms_may_be_renumbered(training: bool) -> None:
    layer, x, e, receivers, senders = layer_and_input(training=training)
    order = torch.randperm(len(x))
    place = order.argsort()
    torch.testing.assert_close(
        layer(x[order], e, among(x, place[receivers], place[senders])),
        layer(x, e, among(x, receivers, senders))[order],
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("training", [False, True])
def test_edges_may_be_reordered(training: bool) -> None:
    layer, x, e, receivers, senders = layer_and_input(training=training)
    order = torch.randperm(len(e))
    torch.testing.assert_close(
        layer(x, e[order], among(x, receivers[order], senders[order])),
        layer(x, e, among(x, receivers, senders)),
        rtol=1e-12,
        atol=1e-12,
    )


def test_a_neighbour_that_appears_twice_as_a_whole_neighbourhood_changes_nothing() -> None:
    """The softmax weighs shares: doubling every edge of every atom gives the same sum."""
    layer, x, e, receivers, senders = layer_and_input()
    twice = among(x, torch.cat([receivers, receivers]), torch.cat([senders, senders]))
    doubled = layer(x, torch.cat([e, e]), twice)
    torch.testing.assert_close(doubled, layer(x, e, among(x, receivers, senders)), rtol=1e-12, atol=1e-12)


def test_an_atom_sees_its_neighbours_only() -> None:
    layer, x, e, receivers, senders = layer_and_input()
    before = layer(x, e, among(x, receivers, senders))
    changed = 0  # sodium, the first crystal: nobody else's neighbour
    x[changed] += 1
    after = layer(x, e, among(x, receivers, senders))
    assert not torch.allclose(after[changed], before[changed])
    assert torch.equal(after[1:], before[1:])


def test_equal_neighbours_are_averaged() -> None:
    """Where all atoms and edges are alike, every atom receives the message of one edge, however many it has."""
    layer, x, e, receivers, senders = layer_and_input()
    message = torch.nn.functional.softplus(torch.cat([x[0], e[0]]) @ layer.weight).view(H, F).mean(dim=0)
    received = layer(x[:1].expand_as(x), e[:1].expand_as(e), among(x, receivers, senders))
    torch.testing.assert_close(received, (message + layer.bias).expand_as(x), rtol=1e-12, atol=1e-12)


def test_large_features_neither_overflow_nor_underflow() -> None:
    layer, x, e, receivers, senders = layer_and_input()
    layer, x, e = layer.float(), 1e4 * x.float(), e.float()
    assert layer(x, e, among(x, receivers, senders)).isfinite().all()


def test_input_is_not_changed() -> None:
    layer, *inputs = layer_and_input(training=True)
    before = [tensor.clone() for tensor in inputs]
    x, e, receivers, senders = inputs
    layer(x, e, among(x, receivers, senders))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, before, strict=True))


def test_new_weights_are_drawn_from_the_generator() -> None:
    torch.manual_seed(3)
    first = AGATLayer(F, H)
    torch.manual_seed(3)
    second = AGATLayer(F, H)
    assert torch.equal(first.weight, second.weight)
    first.reset_parameters()
    assert not torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, -torch.nn.functional.softplus(torch.zeros(F)))
    bound = math.sqrt(6 / (2 * F + H * F))
    assert first.weight.abs().max() <= bound


def test_it_prints_its_sizes() -> None:
    assert repr(AGATLayer(F, H)).startswith(f"AGATLayer(\n  {F}, heads={H}\n")


def test_a_gaussian_is_one_at_its_centre_and_falls_with_the_grid_spacing() -> None:
    basis = GaussianBasis(8.0, 50).double()
    at_centres = basis(basis.centres)
    assert at_centres.shape == (50, 50)
    torch.testing.assert_close(at_centres.diagonal(), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(
        at_centres.diagonal(1), torch.full((49,), math.exp(-0.5), dtype=torch.float64), rtol=1e-5, atol=0
    )
    assert (basis.centres[0], basis.centres[-1]) == (0, 8)


def test_the_gaussians_are_no_part_of_the_weights() -> None:
    assert not GaussianBasis(8.0, 50).state_dict()
