"""The network: the papers' equations, and what must not matter to its answers."""

import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deepergatgnn.checkpoints.files import MANIFEST, WEIGHTS, digest
from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.checkpoints.weights import load_artifact, pack_weights
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.model_store import ModelStore
from deepergatgnn.nn.batch import GraphBatch, collate
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.crystal_model import CrystalModel, NetworkOutput
from tests.support.fixtures import (
    SODIUM,
    Published,
    graphs_of,
    one_atom_cells,
    permuted_graph,
    seeded_network,
    some_crystals,
    supercell,
)
from tests.support.literal_network import LiteralDeeperGATGNN, literal_names

CRYSTALS = [*some_crystals(6), SODIUM, one_atom_cells()[0]]


def double(graphs: list[CrystalGraph]) -> GraphBatch:
    return collate(graphs).to("cpu", dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def gradients(network: torch.nn.Module, output: NetworkOutput) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    # Every output counts, each with its own weight, so that no gradient vanishes by symmetry.
    total = sum((part * torch.randn(part.shape, generator=generator, dtype=part.dtype)).sum() for part in output)
    names = [name for name, _ in network.named_parameters()]
    return dict(zip(names, torch.autograd.grad(total, list(network.parameters())), strict=True))


@pytest.mark.parametrize(
    ("layers", "spread"), [(1, False), (5, False), (1, True), (5, True), (20, True)]
)  # with spreads there are values too
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_agrees_with_the_equations(layers: int, training: bool, spread: bool) -> None:
    network = seeded_network(seed=layers, layers=layers, targets=2, spread=spread).double().train(training)
    literal = LiteralDeeperGATGNN(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    batch = double(graphs_of(CRYSTALS if layers < 20 else CRYSTALS[::2]))

    output, expected = network(batch), literal(batch)

    for actual, wanted in zip(output, expected, strict=True):
        close(actual, wanted, 1e-9)
    wanted_gradients = gradients(literal, expected)
    actual_gradients = literal_names(gradients(network, output))
    assert actual_gradients.keys() == wanted_gradients.keys()
    for name, gradient in actual_gradients.items():
        scale = wanted_gradients[name].abs().max().clamp_min(1)
        close(gradient / scale, wanted_gradients[name] / scale, 1e-9)
    statistics = literal_names(network.state_dict())
    for name, tensor in literal.state_dict().items():
        if "running_" in name:
            close(statistics[name], tensor, 1e-9)
            assert torch.equal(statistics[name], literal_names(before)[name]) is not training


def test_a_layer_with_its_normalization_has_the_papers_number_of_parameters() -> None:
    def count(layers: int) -> int:
        return sum(p.numel() for p in seeded_network(layers=layers, channels=64, heads=4, groups=10).parameters())

    assert count(2) - count(1) == 35_272
    assert count(20) - count(5) == 15 * 35_272


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_crystal_has_the_same_answer_alone_and_in_any_company(dtype: torch.dtype, tolerance: float) -> None:
    network = seeded_network(layers=5).to(dtype)
    graphs = graphs_of(CRYSTALS)
    with torch.inference_mode():
        together = network(collate(graphs).to("cpu", dtype=dtype))
        alone = [network(collate([graph]).to("cpu", dtype=dtype)) for graph in graphs]
    close(together.values, torch.cat([output.values for output in alone]), tolerance)
    close(together.attention, torch.cat([output.attention for output in alone]), tolerance)
    close(together.crystal_vectors, torch.cat([output.crystal_vectors for output in alone]), tolerance)


def test_the_order_of_atoms_does_not_matter() -> None:
    network, rng = seeded_network(layers=3).double(), np.random.default_rng(0)
    for graph in graphs_of(some_crystals(10)):
        order = rng.permutation(graph.n_atoms)
        original, permuted = network(double([graph])), network(double([permuted_graph(graph, order)]))
        close(permuted.values, original.values, 1e-10)
        close(permuted.attention, original.attention[torch.from_numpy(order)], 1e-10)


def test_the_order_of_an_atoms_edges_does_not_matter() -> None:
    network, rng = seeded_network(layers=3).double(), np.random.default_rng(0)
    batch = double(graphs_of(CRYSTALS))
    # Any shuffle, so that not even sorting by receiver is needed.
    order = torch.from_numpy(rng.permutation(len(batch.senders)))
    edges = ("senders", "receivers", "distances", "counts")
    shuffled = replace(batch, **{name: getattr(batch, name)[order] for name in edges})
    for actual, expected in zip(network(shuffled), network(batch), strict=True):
        close(actual, expected, 1e-10)


def test_the_order_of_crystals_does_not_matter() -> None:
    network, graphs = seeded_network(layers=3).double(), graphs_of(CRYSTALS)
    close(network(double(graphs[::-1])).values.flip(0), network(double(graphs)).values, 1e-10)


def test_attention_is_a_share_of_each_crystal() -> None:
    batch = double(graphs_of(CRYSTALS))
    attention = seeded_network(layers=5).double()(batch).attention
    assert (attention >= 0).all()
    sums = torch.zeros(batch.n_crystals, dtype=torch.float64).index_add(0, batch.crystals, attention)
    close(sums, torch.ones_like(sums), 1e-12)
    assert attention[-2:].tolist() == [1, 1]  # the one-atom cells


def test_a_supercell_has_the_same_value_and_the_attention_of_each_atom_is_shared_by_its_images() -> None:
    network = seeded_network(layers=5).double()
    repeats = (2, 2, 2)
    for crystal in [SODIUM, *one_atom_cells()[:4], *some_crystals(8)]:
        small, large = (
            # Distances on a common grid: what float32 makes of the same length in two cells is not in question here.
            batch.to("cpu", dtype=torch.float64)
            for batch in (collate(graphs_of([crystal])), collate(graphs_of([supercell(crystal, repeats)])))
        )
        for batch in (small, large):
            batch.distances.copy_(batch.distances.round(decimals=3))
        with torch.inference_mode():
            one, eight = network(small), network(large)
        close(eight.values, one.values, 1e-9)
        close(eight.attention.view(-1, 8).sum(dim=1), one.attention, 1e-9)


def test_input_is_not_changed() -> None:
    for training in (False, True):
        batch = collate(graphs_of(CRYSTALS))
        before = {field.name: getattr(batch, field.name).clone() for field in fields(batch)}
        seeded_network(layers=2).train(training)(batch)
        for name, tensor in before.items():
            assert torch.equal(getattr(batch, name), tensor), name


def test_evaluation_changes_nothing_in_the_network() -> None:
    network = seeded_network(layers=2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network(collate(graphs_of(CRYSTALS)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_dropout_is_for_training_only() -> None:
    network, batch = seeded_network(layers=1, dropout=0.5), collate(graphs_of(CRYSTALS))
    assert torch.equal(network(batch).values, network(batch).values)
    network.train()
    torch.manual_seed(0)
    assert not torch.equal(network(batch).values, network(batch).values)


def test_float32_stays_near_float64_at_depth() -> None:
    graphs = graphs_of(CRYSTALS)
    for training in (False, True):
        network = seeded_network(layers=20).train(training)
        reference = seeded_network(layers=20).double().train(training)
        with torch.no_grad():
            close(network(collate(graphs)).values.double(), reference(double(graphs)).values, 1e-4)


def test_the_printed_network_names_its_parts_and_sizes() -> None:
    printed = " ".join(repr(seeded_network(layers=2)).split())
    assert "(layers): ModuleList( (0-1): 2 x AGATLayer( 64, heads=4 " in printed
    assert "DifferentiableGroupNorm( 64, groups=10, scale=0.01 " in printed
    assert "CompositionAttention( (first): Linear(in_features=172, out_features=64, bias=True)" in printed


def test_every_weight_has_a_gradient() -> None:
    network = seeded_network(layers=2).double().train()
    found = gradients(network, network(double(graphs_of(CRYSTALS))))
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in found.values())


def test_depth_is_counted_as_configured() -> None:
    network = seeded_network(layers=7)
    assert isinstance(network, CrystalModel)
    assert len(network.body.layers) == len(network.body.norms) == 7


def embeddings(network: CrystalModel, batch: GraphBatch) -> tuple[Tensor, Tensor]:
    """Of the atoms, before the layers and after them."""
    found: list[Tensor] = []
    hooks = [
        part.register_forward_pre_hook(lambda _, given: found.append(given[0]))
        for part in (network.body.layers[0], network.attention)
    ]
    network(batch)
    for hook in hooks:
        hook.remove()
    return found[0], found[1]


@pytest.mark.parametrize("layers", [5, 10, 20, 30, 50])
def test_a_new_network_of_any_depth_starts_finite_and_keeps_atoms_apart(layers: int) -> None:
    torch.manual_seed(0)
    network, batch = CrystalModel(NetworkConfig(layers=layers), GraphConfig()).train(), collate(graphs_of(CRYSTALS))
    output = network(batch)
    output.values.square().mean().backward()
    assert output.values.abs().max() < 100  # with biases of zero, thousands at 50 layers
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(layer.weight.grad.norm() > 0 for layer in network.body.layers)
    first, last = (x / x.square().mean().sqrt() for x in embeddings(network, batch))
    assert torch.pdist(last).mean() > 0.3 * torch.pdist(first).mean()


def test_without_skips_a_layer_replaces_the_embeddings_instead_of_adding_to_them() -> None:
    with_skip, batch = seeded_network(layers=1).double(), double(graphs_of(CRYSTALS))
    without = CrystalModel(replace(with_skip.config, skip=False), with_skip.graph).double().eval()
    without.load_state_dict(with_skip.state_dict())
    (start, added), (same, replaced) = embeddings(with_skip, batch), embeddings(without, batch)
    assert torch.equal(start, same)
    close(added, start + replaced, 1e-12)


def test_no_normalization_is_group_normalization_of_no_weight_and_without_its_parameters() -> None:
    group, batch = seeded_network(layers=3, group_scale=0.0), collate(graphs_of(CRYSTALS))
    none = CrystalModel(replace(group.config, normalization="none"), group.graph).eval()
    state = group.state_dict()
    none.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("body.norms.")})
    close(none(batch).values, group(batch).values, 1e-6)
    assert not torch.equal(seeded_network(layers=3)(batch).values, none(batch).values)
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in (group, none)]
    assert counts[0] - counts[1] == 3 * 1_920


@pytest.mark.parametrize("options", [{"skip": False}, {"normalization": "none"}])
def test_a_version_with_a_part_switched_off_is_read_as_it_was_written(
    options: dict[str, Any], tiny: Published, tmp_path: Path
) -> None:
    config = replace(tiny.manifest.network, **options)
    network, arrays = CrystalModel(config, tiny.manifest.graph), load_artifact(tiny.folder)[2]
    folder = Path(shutil.copytree(tiny.folder, tmp_path / "1.0.0"))
    weights = pack_weights([network], arrays)
    (folder / WEIGHTS).write_bytes(weights[WEIGHTS])
    files = tiny.manifest.files | {name: digest(content) for name, content in weights.items()}
    written = tiny.manifest.model_copy(update={"network": config, "files": files})
    (folder / MANIFEST).write_text(written.model_dump_json(), "utf-8")
    manifest, [read], _ = load_artifact(folder)
    assert manifest == written == Manifest.model_validate_json(written.model_dump_json())
    assert read.config == config != tiny.manifest.network
    batch = collate(graphs_of(CRYSTALS))
    assert torch.equal(read(batch).values, network.eval()(batch).values)


def test_shipped_versions_of_before_there_was_a_choice_have_skips_and_group_normalization() -> None:
    store = ModelStore()
    configs = [store.manifest(name).network for name in ("bulk-modulus@1.0.0", "shear-modulus@1.0.0")]
    assert all(config.skip and config.normalization == "group" for config in configs)
