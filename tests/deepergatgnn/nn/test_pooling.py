"""Composition, global attention, and the weighted sum."""

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.attention.composition import CompositionAttention, composition
from deepergatgnn.nn.batch import GraphBatch, collate
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.neighbourhood import weighted_sum_over_atoms
from tests.support.fixtures import SODIUM, graphs_of, one_atom_cells, some_crystals, supercell

F, C = 16, 108
CRYSTALS = [SODIUM, one_atom_cells()[3], *some_crystals(8)]


def batch_of_all() -> GraphBatch:
    return collate(graphs_of(CRYSTALS))


def compositions_of(batch: GraphBatch) -> Tensor:
    return composition(batch.to("cpu", dtype=torch.float64), C)


def test_a_composition_row_counts_the_elements_of_its_crystal() -> None:
    rows = compositions_of(batch_of_all())
    assert rows.shape == (len(CRYSTALS), C)
    for row, crystal in zip(rows, CRYSTALS, strict=True):
        counted = Counter(crystal.atomic_numbers.tolist())
        expected = torch.zeros(C, dtype=torch.float64)
        for number, count in counted.items():
            expected[number - 1] = count / crystal.n_atoms
        torch.testing.assert_close(row, expected, rtol=1e-15, atol=0)
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(len(CRYSTALS), dtype=torch.float64))


def test_a_supercell_has_the_same_composition() -> None:
    larger = collate(graphs_of([supercell(crystal, (2, 1, 3)) for crystal in CRYSTALS]))
    torch.testing.assert_close(compositions_of(larger), compositions_of(batch_of_all()), rtol=1e-14, atol=0)


def test_the_last_element_has_a_column() -> None:
    metals = collate(graphs_of(one_atom_cells()[:2]))
    rows = composition(replace(metals, atomic_numbers=torch.tensor([C, 1])), C)
    assert rows[0, C - 1] == rows[1, 0] == 1


def new_attention() -> CompositionAttention:
    return CompositionAttention(NetworkConfig(channels=F), GraphConfig())


def attention_and_input() -> tuple[CompositionAttention, Tensor, GraphBatch]:
    torch.manual_seed(0)
    batch = batch_of_all().to("cpu", dtype=torch.float64)
    x = torch.randn(len(batch.atomic_numbers), F, dtype=torch.float64)
    return new_attention().double(), x, batch


def test_attention_is_positive_and_sums_to_one_over_each_crystal() -> None:
    attention, x, batch = attention_and_input()
    weights = attention(x, batch)
    assert weights.shape == (len(x),)
    assert (weights > 0).all()
    sums = torch.zeros(batch.n_crystals, dtype=torch.float64).index_add(0, batch.crystals, weights)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-12, atol=0)


def test_attention_follows_the_order_of_atoms() -> None:
    attention, x, batch = attention_and_input()
    order = torch.randperm(len(x))
    nodes = ("atomic_numbers", "crystals", "multiplicities")
    reordered = replace(batch, **{name: getattr(batch, name)[order] for name in nodes})
    torch.testing.assert_close(
        attention(x[order], reordered),
        attention(x, batch)[order],
        rtol=1e-12,
        atol=0,
    )


def test_attention_sees_the_composition() -> None:
    attention, x, batch = attention_and_input()
    others = attention(x, replace(batch, atomic_numbers=batch.atomic_numbers.flip(0)))
    assert not torch.allclose(others, attention(x, batch))


def test_equal_atoms_share_the_attention_equally() -> None:
    attention, x, batch = attention_and_input()
    weights = attention(x[:1].expand_as(x), batch)
    torch.testing.assert_close(weights, 1 / batch.n_atoms.double()[batch.crystals], rtol=1e-12, atol=0)


def test_extreme_scores_do_not_underflow_a_crystal_to_nothing() -> None:
    """The softmax keeps the maximum of each crystal, not of the batch."""
    attention, x, batch = attention_and_input()
    x = x.float() * torch.where(batch.crystals == 0, 1e4, 1e-2)[:, None].float()
    weights = attention.float()(x, batch.to("cpu", dtype=torch.float32))
    sums = torch.zeros(batch.n_crystals).index_add(0, batch.crystals, weights)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_the_weighted_sum_is_done_for_each_crystal_on_its_own() -> None:
    attention, x, batch = attention_and_input()
    weights = attention(x, batch)
    pooled = weighted_sum_over_atoms(x, weights, batch)
    for crystal in range(batch.n_crystals):
        own = batch.crystals == crystal
        torch.testing.assert_close(pooled[crystal], weights[own] @ x[own], rtol=1e-12, atol=1e-12)


def test_input_is_not_changed() -> None:
    attention, x, batch = attention_and_input()
    before = x.clone(), batch.multiplicities.clone()
    weighted_sum_over_atoms(x, attention(x, batch), batch)
    assert torch.equal(x, before[0])
    assert torch.equal(batch.multiplicities, before[1])


def test_it_prints_its_layers() -> None:
    assert f"(first): Linear(in_features={F + C}, out_features={F}, bias=True)" in repr(new_attention())
