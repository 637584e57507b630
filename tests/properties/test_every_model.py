"""Every registered part has the properties of a network; a new entry of a registry is tested without further ado."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor
from torch_geometric.nn import CGConv
from torch_geometric.nn.aggr import Set2Set

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.model_check import PROPERTIES, ModelCheckError, check_model, drawn_model, example_crystals
from deepergatgnn.nn.batch import GraphBatch, collate
from deepergatgnn.nn.bodies.cgcnn import CGCNNLayer
from deepergatgnn.nn.config import (
    ATTENTIONS,
    BODIES,
    EMBEDDINGS,
    HEADS,
    POOLINGS,
    CGCNNConfig,
    ElementEmbeddingConfig,
    HeadConfig,
    MeanPoolingConfig,
    NetworkConfig,
    NoAttentionConfig,
    PoolingConfig,
    Set2SetConfig,
)
from deepergatgnn.nn.neighbourhood import Neighbourhood, mean_over_neighbours, softmax_over_neighbours
from deepergatgnn.nn.pooling.set2set import Set2SetPooling

GRAPH = GraphConfig(angles=2)
SIZES = NetworkConfig(layers=2, channels=8, groups=3, targets=2, spread=True)


def with_pooling(pooling: PoolingConfig, config: NetworkConfig = SIZES) -> NetworkConfig:
    """The configuration with a pooling, and with an attention only where that reads it."""
    return replace(config, pooling=pooling, attention=config.attention if pooling.reads_attention else NO_ATTENTION)


NO_ATTENTION = NoAttentionConfig()
MODELS = {
    **{f"body {name}": with_pooling(MeanPoolingConfig(), replace(SIZES, body=each())) for name, each in BODIES.items()},
    **{f"pooling {name} of agat": with_pooling(each()) for name, each in POOLINGS.items()},
    **{
        f"pooling {name} of cgcnn": with_pooling(each(), replace(SIZES, body=CGCNNConfig()))
        for name, each in POOLINGS.items()
    },
    **{f"embedding {name}": replace(SIZES, embedding=each()) for name, each in EMBEDDINGS.items()},
    **{
        f"attention {name}": replace(SIZES, attention=each())
        if each is not NoAttentionConfig
        else with_pooling(MeanPoolingConfig())
        for name, each in ATTENTIONS.items()
    },
    **{f"head {name}": replace(SIZES, head=each()) for name, each in HEADS.items()},
    "as CGCNN was published": with_pooling(
        MeanPoolingConfig(),
        replace(
            SIZES,
            embedding=ElementEmbeddingConfig(elements="one-hot", activation="relu", layers=2, gaussian_width=1.6),
            body=CGCNNConfig(residual=True),
            head=HeadConfig(layers=3, width=12, activation="relu"),
            skip=False,
            normalization="batch",
        ),
    ),
    "messages summed": with_pooling(
        MeanPoolingConfig(),
        replace(SIZES, body=CGCNNConfig(aggregation="sum", residual=True), skip=False, normalization="batch"),
    ),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", PROPERTIES)
def test_every_model_has_every_property(model: str, name: str) -> None:
    PROPERTIES[name](MODELS[model], GRAPH)


def test_every_registered_part_is_tested() -> None:
    for part, registry in (
        ("body", BODIES),
        ("pooling", POOLINGS),
        ("attention", ATTENTIONS),
        ("embedding", EMBEDDINGS),
    ):
        assert {type(getattr(config, part)) for config in MODELS.values()} == set(registry.values())


@dataclass(frozen=True, kw_only=True)
class ForgetfulConfig(PoolingConfig):
    """A pooling of one's own that forgets how many atoms a node stands for."""

    implementation: ClassVar[str] = "tests.properties.test_every_model:Forgetful"
    kind: Literal["forgetful"] = "forgetful"


class Forgetful(torch.nn.Module):
    def __init__(self, _config: NetworkConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, _weights: Tensor | None, batch: GraphBatch) -> Tensor:
        nodes = torch.bincount(batch.crystals, minlength=batch.n_crystals)
        total = x.new_zeros(batch.n_crystals, x.shape[1]).index_add(0, batch.crystals, x)
        return total / nodes.unsqueeze(-1)


def test_a_network_of_ones_own_is_checked_and_its_fault_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_model(with_pooling(MeanPoolingConfig()))
    monkeypatch.setitem(POOLINGS, "forgetful", ForgetfulConfig)
    with pytest.raises(ModelCheckError, match="merging atoms changes"):
        check_model(with_pooling(ForgetfulConfig()))


@pytest.mark.parametrize("aggregation", ["mean", "sum"])
def test_the_convolution_of_cgcnn_is_that_of_pyg(aggregation: str) -> None:
    torch.manual_seed(0)
    batch = collate([build_graph(crystal, GRAPH) for crystal in example_crystals()]).to("cpu", dtype=torch.float64)
    ours = CGCNNLayer(8, 5, aggregation, residual=True).double()
    theirs = CGConv(8, dim=5, aggr=aggregation).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(len(batch.crystals), 8, dtype=torch.float64)
    e = torch.randn(len(batch.senders), 5, dtype=torch.float64)
    expected = theirs(x, torch.stack([batch.senders, batch.receivers]), e)
    torch.testing.assert_close(ours(x, e, Neighbourhood.of(batch)), expected, rtol=1e-12, atol=1e-12)


def test_set2set_is_that_of_pyg_on_the_atoms_written_out() -> None:
    torch.manual_seed(0)
    whole = [build_graph(crystal, GRAPH) for crystal in example_crystals()]
    reduced = collate([reduce_graph(graph) for graph in whole]).to("cpu", dtype=torch.float64)
    assert len(reduced.crystals) < sum(graph.n_atoms for graph in whole)
    ours = Set2SetPooling(with_pooling(Set2SetConfig(steps=4))).double()
    theirs = Set2Set(8, processing_steps=4).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(len(reduced.crystals), 8, dtype=torch.float64)
    copies = reduced.multiplicities.long()
    expected = theirs(x.repeat_interleave(copies, dim=0), reduced.crystals.repeat_interleave(copies))
    torch.testing.assert_close(ours(x, None, reduced), expected, rtol=1e-12, atol=1e-12)


def test_weights_over_neighbours_sum_to_one_and_a_mean_of_equal_messages_is_the_message() -> None:
    batch = collate([reduce_graph(build_graph(crystal, GRAPH)) for crystal in example_crystals()])
    around = Neighbourhood.of(batch)
    weights = softmax_over_neighbours(torch.randn(len(batch.senders), 2), around)
    sums = torch.zeros(around.n_nodes, 2).index_add(0, batch.receivers, weights)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    messages = torch.full((len(batch.senders), 3), 7.0)
    torch.testing.assert_close(mean_over_neighbours(messages, around), torch.full((around.n_nodes, 3), 7.0))


def test_what_a_network_sees_decides_what_may_be_merged_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SIZES.sees == {"elements", "angles", "distances"}
    assert SIZES.may_merge_atoms
    assert SIZES.may_share_between_cells
    monkeypatch.setattr(CGCNNConfig, "sees", frozenset({"distances", "directions"}))
    other = with_pooling(MeanPoolingConfig(), replace(SIZES, body=CGCNNConfig()))
    assert not other.may_merge_atoms
    assert not other.may_share_between_cells
    monkeypatch.setattr(MeanPoolingConfig, "intensive", False)
    assert not with_pooling(MeanPoolingConfig()).may_share_between_cells


def test_a_model_without_attention_says_why() -> None:
    config = with_pooling(MeanPoolingConfig(), replace(SIZES, body=CGCNNConfig()))
    assert config.attention_reason == "CGCNN with mean pooling has no global attention"
    assert SIZES.attention_reason is None
    assert (
        drawn_model(config, GRAPH)(collate([build_graph(example_crystals()[0], GRAPH)]).to("cpu", dtype=torch.float64))[
            1
        ]
        is None
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": MeanPoolingConfig()}, "pooling mean reads no attention: set attention to none"),
        ({"attention": NoAttentionConfig()}, "pooling weighted needs an attention"),
        ({"body": CGCNNConfig(), "heads": 2}, "body cgcnn has no attention heads"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_the_remedy(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SIZES, **options)  # type: ignore[arg-type]
