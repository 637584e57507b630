"""Merging atoms that message passing cannot tell apart changes no answer."""

from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import torch
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from torch import Tensor

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.nn.batch import collate
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.structures import crystal_from_pymatgen, crystal_to_pymatgen
from tests.support.fixtures import SODIUM, graphs_of, one_atom_cells, seeded_network, some_crystals, supercell

CRYSTALS = [SODIUM, one_atom_cells()[0], *some_crystals(40)]


def run(network: CrystalModel, graphs: list[CrystalGraph]) -> dict[str, Tensor]:
    """Values, attention of each atom, gradients and, after it, the running statistics."""
    batch = collate(graphs).to("cpu", dtype=torch.float64)
    network.zero_grad()
    output = network(batch)
    output.values.square().mean().backward()
    shares = np.split(
        (output.attention / batch.multiplicities).detach().numpy(), np.cumsum([g.n_nodes for g in graphs])[:-1]
    )
    found = {f"gradient of {name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    found |= {name: tensor.clone() for name, tensor in network.state_dict().items() if "running" in name}
    attention = np.concatenate([share[graph.node_of_atom] for share, graph in zip(shares, graphs, strict=True)])
    return found | {"values": output.values.detach(), "attention": torch.from_numpy(attention)}


@pytest.mark.parametrize("training", [False, True])
def test_answers_gradients_and_statistics_are_those_of_the_whole_graph(training: bool) -> None:
    whole = graphs_of(CRYSTALS)
    expected = run(seeded_network(layers=4).double().train(training), whole)
    found = run(seeded_network(layers=4).double().train(training), [reduce_graph(graph) for graph in whole])
    assert found.keys() == expected.keys()
    largest = max(float(t.abs().max()) for name, t in expected.items() if name.startswith("gradient"))
    for name, tensor in expected.items():
        scale = largest if name.startswith("gradient") else float(tensor.abs().max())
        assert float((found[name] - tensor).abs().max()) <= 1e-10 * scale, name


def test_the_crystal_keeps_its_atoms_and_edges_and_the_graph_gets_smaller() -> None:
    whole = graphs_of(CRYSTALS)
    merged = [reduce_graph(graph) for graph in whole]
    for small, large in zip(merged, whole, strict=True):
        assert (small.n_atoms, small.n_edges, small.volume) == (large.n_atoms, large.n_edges, large.volume)
        np.testing.assert_array_equal(small.atomic_numbers[small.node_of_atom], large.atomic_numbers)
        np.testing.assert_array_equal(np.bincount(small.node_of_atom), small.multiplicities)
    assert sum(graph.n_links for graph in merged) < sum(graph.n_links for graph in whole) / 5


def test_every_atom_of_a_class_has_the_neighbourhood_of_its_class() -> None:
    for whole in graphs_of(CRYSTALS):
        merged = reduce_graph(whole)
        of_class: list[Counter[tuple[int, float]]] = [Counter() for _ in range(merged.n_nodes)]
        for receiver, sender, distance, count in zip(
            merged.receivers, merged.senders, merged.distances, merged.counts, strict=True
        ):
            of_class[receiver][int(sender), float(distance)] += int(count)
        of_atom: list[Counter[tuple[int, float]]] = [Counter() for _ in range(whole.n_nodes)]
        for receiver, sender, distance in zip(whole.receivers, whole.senders, whole.distances, strict=True):
            of_atom[receiver][int(merged.node_of_atom[sender]), float(distance)] += 1
        assert [of_class[c] for c in merged.node_of_atom] == of_atom


def test_atoms_of_one_symmetry_orbit_are_merged() -> None:
    for crystal in CRYSTALS:
        refined = SpacegroupAnalyzer(crystal_to_pymatgen(crystal), 1e-3).get_refined_structure()
        orbits = SpacegroupAnalyzer(refined, 1e-3).get_symmetry_dataset().crystallographic_orbits
        merged = reduce_graph(build_graph(crystal_from_pymatgen(refined), GraphConfig()))
        assert len(set(zip(orbits, merged.node_of_atom, strict=True))) == len(set(orbits))


def test_a_supercell_becomes_the_graph_of_its_cell() -> None:
    for crystal in CRYSTALS[:20]:
        small, large = (
            reduce_graph(build_graph(cell, GraphConfig())) for cell in (crystal, supercell(crystal, (2, 1, 3)))
        )
        np.testing.assert_array_equal(large.multiplicities, 6 * small.multiplicities)
        np.testing.assert_array_equal(large.atomic_numbers, small.atomic_numbers)
        assert large.n_links == small.n_links
        np.testing.assert_allclose(np.sort(large.distances), np.sort(small.distances), atol=1e-6)


def test_merging_again_changes_nothing_and_the_graph_given_is_not_changed() -> None:
    for graph in graphs_of(CRYSTALS[:10]):
        before = {field.name: np.copy(getattr(graph, field.name)) for field in fields(graph)}
        merged = reduce_graph(graph)
        again = reduce_graph(merged)
        for field in fields(graph):
            np.testing.assert_array_equal(getattr(again, field.name), getattr(merged, field.name))
            np.testing.assert_array_equal(getattr(graph, field.name), before[field.name])
