"""Attention that is held to what taking atoms away does."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.nn.batch import GraphBatch, collate
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.training.config.optimization import OptimizationConfig
from deepergatgnn.training.fit.attention_loss import attention_loss, draw_sets, effects_of_removal
from tests.support.fixtures import SODIUM, graphs_of, seeded_network, some_crystals


@pytest.fixture
def batch() -> GraphBatch:
    """Merged crystals of several nodes, and sodium, which has one."""
    merged = [reduce_graph(graph) for graph in graphs_of([*some_crystals(40), SODIUM])]
    return collate(merged)


@pytest.fixture
def network() -> CrystalModel:
    """Two layers with running statistics of their own, in training."""
    return seeded_network(layers=2, channels=16, heads=2, groups=4).train()


def per_crystal(nodes: Tensor, batch: GraphBatch) -> Tensor:
    return torch.zeros(batch.n_crystals, dtype=nodes.dtype).index_add(0, batch.crystals, nodes)


@pytest.fixture
def restless() -> Iterator[None]:
    """Draws of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


@pytest.mark.usefixtures("restless")
def test_sets_are_disjoint_and_of_one_size(batch: GraphBatch) -> None:
    nodes = torch.bincount(batch.crystals)
    seen = torch.zeros(batch.crystals.shape[0], dtype=torch.int64)
    for _ in range(50):
        one, other = draw_sets(batch)
        assert not (one & other).any()
        first, second = per_crystal(one.long(), batch), per_crystal(other.long(), batch)
        assert torch.equal(first, second)
        assert torch.equal(first > 0, nodes > 1)
        assert (2 * first <= nodes).all()
        seen += one.long() + other.long()
    assert torch.equal(seen > 0, (nodes > 1)[batch.crystals])


def test_the_effect_of_a_set_is_that_of_the_change_it_makes(network: CrystalModel, batch: GraphBatch) -> None:
    nothing = torch.zeros(batch.crystals.shape[0], dtype=torch.bool)
    chosen = nothing.clone()
    chosen[0] = True  # a node of the first crystal
    unchanged, changed = effects_of_removal(network, batch, (nothing, chosen))
    assert unchanged.abs().max() == 0
    assert changed[0] > 0
    assert changed[1:].abs().max() < 1e-6


@pytest.mark.usefixtures("restless")
def test_only_the_attention_learns_and_nothing_else_is_touched(network: CrystalModel, batch: GraphBatch) -> None:
    network.body.layers[0].eval()  # a layer that rests
    network.body.norms[0].train()
    modes = [module.training for module in network.modules()]
    output = network(batch)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    attention_loss(network, batch, output.attention).backward()  # type: ignore[no-untyped-call]
    assert [module.training for module in network.modules()] == modes
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert network.attention.output.weight.grad is not None
    assert network.head.values.weight.grad is None
    assert network.head.hidden[0].weight.grad is None


@pytest.mark.usefixtures("restless")
def test_attention_learns_which_atoms_matter(network: CrystalModel, batch: GraphBatch) -> None:
    network.eval()

    def disagreement() -> float:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(7)
            losses = [attention_loss(network, batch, network(batch).attention) for _ in range(20)]
        return float(torch.stack(losses).mean())

    before = disagreement()
    optimizer = torch.optim.Adam(network.attention.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        attention_loss(network, batch, network(batch).attention).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert disagreement() < before - 0.02


def test_a_batch_of_single_nodes_has_no_loss(network: CrystalModel) -> None:
    batch = collate(graphs_of([SODIUM, SODIUM]))
    assert attention_loss(network, batch, network(batch).attention) == 0


def test_the_weight_of_the_loss_is_checked() -> None:
    with pytest.raises(ValueError, match="attention_weight"):
        OptimizationConfig(attention_weight=-0.1)
