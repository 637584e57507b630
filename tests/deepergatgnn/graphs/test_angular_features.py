"""Angles around atoms: what they are by brute force, and that nothing depends on how a crystal was posted."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from scipy.spatial.transform import Rotation
from scipy.special import eval_legendre

from deepergatgnn.graphs.angular_features import SHELLS, compute_angular_features, n_angular_features
from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.nn.batch import collate
from deepergatgnn.structures import Crystal, crystal_from_pymatgen, crystal_to_pymatgen
from tests.support.fixtures import SODIUM, seeded_network, some_crystals, supercell

CONFIG = GraphConfig(angles=8)


def drawn(counts: list[int], seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    vectors = np.random.default_rng(seed).normal(size=(sum(counts), 3)) * 2
    return vectors, np.linalg.norm(vectors, axis=1), np.array(counts)


def test_they_are_the_double_sums_of_their_definition() -> None:
    vectors, distances, degrees = drawn([1, 5, 12, 3])
    found = compute_angular_features(vectors, distances, degrees, 6, 12)
    assert found.shape == (4, n_angular_features(6))
    end = 0
    for atom, degree in enumerate(degrees):
        edges = slice(end, end := end + degree)
        u, d = vectors[edges] / distances[edges, None], distances[edges]
        for number, reach in enumerate(SHELLS):
            far = d / d.min() - 1
            w = np.ones(degree) if reach is None else np.where(far < reach, (1 + np.cos(np.pi * far / reach)) / 2, 0)
            expected = [w.sum() / 12]
            for order in range(1, 7):
                pairs = [w[j] * w[k] * eval_legendre(order, u[j] @ u[k]) for j in range(degree) for k in range(degree)]
                expected.append(sum(pairs) / w.sum() ** 2)
            np.testing.assert_allclose(found[atom, number * 7 : number * 7 + 7], expected, atol=1e-12)


def test_they_are_orders_of_bonds_squared_and_do_not_rotate() -> None:
    vectors, distances, degrees = drawn([9, 14])
    found = compute_angular_features(vectors, distances, degrees, 8, 12)
    assert (found >= -1e-12).all()  # squares of sums of spherical harmonics
    turned = Rotation.random(random_state=1).apply(vectors)
    np.testing.assert_allclose(compute_angular_features(turned, distances, degrees, 8, 12), found, atol=1e-12)


def test_many_atoms_at_once_are_those_one_by_one() -> None:
    vectors, distances, degrees = drawn([30] * 2500)
    whole = compute_angular_features(vectors, distances, degrees, 2, 12)
    for atom in (0, 1110, 1111, 2499):
        edges = slice(30 * atom, 30 * atom + 30)
        alone = compute_angular_features(vectors[edges], distances[edges], degrees[:1], 2, 12)
        np.testing.assert_allclose(whole[atom], alone[0], atol=1e-12)


def test_cubes_are_known() -> None:
    """Body-centred: eight neighbours along the diagonals have Steinhardt's Q4 = 0.509 and Q6 = 0.629."""
    graph = build_graph(SODIUM, GraphConfig(angles=6, neighbours=8))
    orders = graph.angular_features[0, :7]
    assert orders[0] == pytest.approx(1)
    assert np.sqrt(orders[[4, 6]]) == pytest.approx([0.509, 0.629], abs=1e-3)
    assert orders[[1, 2, 3, 5]] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("crystal", [SODIUM, *some_crystals(12)], ids=lambda crystal: crystal.reduced_formula)
def test_every_posting_of_a_crystal_has_the_same(crystal: Crystal) -> None:
    network = seeded_network(3, CONFIG, layers=2, channels=16, heads=2, groups=4)
    structure = crystal_to_pymatgen(crystal)
    moved = dataclasses.replace(
        crystal,
        lattice=crystal.lattice @ Rotation.random(random_state=2).as_matrix(),
        frac_coords=crystal.frac_coords + np.array([0.317, 0.11, 0.73]),
    )
    analyzer = SpacegroupAnalyzer(structure)
    postings = [
        moved,
        supercell(crystal, (2, 1, 1)),
        crystal_from_pymatgen(structure.get_primitive_structure()),
        crystal_from_pymatgen(analyzer.get_conventional_standard_structure()),
    ]
    with torch.inference_mode():
        whole = float(network(collate([build_graph(crystal, CONFIG)])).values)
        for posted in [crystal, *postings]:
            merged = reduce_graph(build_graph(posted, CONFIG))
            assert float(network(collate([merged])).values) == pytest.approx(whole, abs=2e-5)


def test_angles_hardly_keep_atoms_from_merging() -> None:
    with_angles = sum(reduce_graph(build_graph(c, CONFIG)).n_nodes for c in some_crystals(60))
    without = sum(reduce_graph(build_graph(c, GraphConfig())).n_nodes for c in some_crystals(60))
    assert without <= with_angles <= 1.1 * without


def test_the_network_sees_them() -> None:
    network = seeded_network(0, CONFIG, layers=1, channels=16, heads=2, groups=4)
    graph = build_graph(some_crystals(3)[1], CONFIG)
    other = dataclasses.replace(graph, angular_features=graph.angular_features + np.float32(0.1))
    with torch.inference_mode():
        assert float(network(collate([graph])).values) != float(network(collate([other])).values)
        filled = network(collate([graph], filled=True)).values[0]
        assert float(filled) == pytest.approx(float(network(collate([graph])).values), abs=1e-6)
