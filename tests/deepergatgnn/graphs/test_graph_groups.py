"""Several crystals at once give what each gives alone, to the bit, whoever shares the group."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from deepergatgnn.errors import StructureError
from deepergatgnn.graphs import neighbours
from deepergatgnn.graphs import symmetry_reduction as equivalence
from deepergatgnn.graphs.build import build_graph, build_graphs
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.symmetry_reduction import merge_all, reduce_graph
from deepergatgnn.structures import Crystal
from tests.support.fixtures import SODIUM, graphs_of, one_atom_cells, some_crystals, supercell

CONFIG = GraphConfig()
CRYSTALS = [SODIUM, one_atom_cells()[0], *some_crystals(60), supercell(SODIUM, (3, 3, 2))]
EMPTY = Crystal(4 * np.eye(3), np.zeros(0, dtype=np.int64), np.zeros((0, 3)))
UNKNOWN = replace(SODIUM, atomic_numbers=np.array([110]))
ALONE = Crystal(20 * np.eye(3), np.array([2]), np.zeros((1, 3)))
LONELY = Crystal(30 * np.eye(3), np.array([1, 1, 2]), np.array([[0, 0, 0], [0.025, 0, 0], [0.5, 0.5, 0.5]]))
# Columns of atoms: the shells of those at the rims do not end within the sphere that is searched first.
COLUMNS = Crystal(np.diag([2.5, 5.0, 7.0]), np.full(4, 6), np.array([[0, 0, z] for z in (0.0, 0.1, 0.2, 0.3)]))


def assert_equal(one: CrystalGraph, other: CrystalGraph) -> None:
    for field in fields(CrystalGraph):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        assert np.array_equal(ours, theirs), field.name
        assert type(ours) is type(theirs)
        if field.name != "volume":
            assert ours.dtype == theirs.dtype
    assert one.n_edges == other.n_edges


def groups(count: int, sizes: Sequence[int], seed: int) -> list[NDArray[np.int64]]:
    """All indices in any order, cut into groups of these sizes in turn."""
    order, found = np.random.default_rng(seed).permutation(count), []
    while len(order):
        size = sizes[len(found) % len(sizes)]
        found.append(order[:size])
        order = order[size:]
    return found


@pytest.mark.parametrize("config", [CONFIG, GraphConfig(angles=4), GraphConfig(cutoff=5.0, neighbours=3)])
@pytest.mark.parametrize("sizes", [[1], [2], [4], [8], [1, 7, 3, 20]])
def test_a_crystal_has_the_same_graph_in_any_group(config: GraphConfig, sizes: list[int]) -> None:
    alone = graphs_of(CRYSTALS, config)
    merged = [reduce_graph(graph) for graph in alone]
    for group in groups(len(CRYSTALS), sizes, seed=len(sizes)):
        built = build_graphs([CRYSTALS[index] for index in group], config)
        graphs = [graph for graph in built if isinstance(graph, CrystalGraph)]
        for index, graph, small in zip(group, graphs, merge_all(graphs), strict=True):
            assert_equal(graph, alone[index])
            assert_equal(small, merged[index])


def test_refused_crystals_keep_their_places_and_disturb_no_other() -> None:
    config = GraphConfig(max_edges=200, angles=2)
    refused = {1: ALONE, 2: EMPTY, 4: LONELY, 5: UNKNOWN, 7: supercell(SODIUM, (4, 4, 4))}
    fine = iter(one_atom_cells())
    crystals = [refused[place] if place in refused else next(fine) for place in range(9)]
    for order in (range(9), range(8, -1, -1), [2, 1, 5], [7], [4, 7, 0]):
        for place, result in zip(order, build_graphs([crystals[place] for place in order], config), strict=True):
            if place not in refused:
                assert isinstance(result, CrystalGraph)
                assert_equal(result, build_graph(crystals[place], config))
                continue
            assert isinstance(result, StructureError)
            with pytest.raises(StructureError) as alone:
                build_graph(crystals[place], config)
            assert (result.code, result.detail) == (alone.value.code, alone.value.detail)
    codes = [error.code for error in build_graphs(list(refused.values()), config) if isinstance(error, StructureError)]
    assert codes == ["too_sparse", "no_structure", "too_sparse", "unknown_element", "too_many_edges"]


def test_a_crystal_whose_shells_end_beyond_the_first_search_disturbs_no_other() -> None:
    crystals = [SODIUM, COLUMNS, one_atom_cells()[0], COLUMNS, SODIUM]
    for crystal, graph in zip(crystals, build_graphs(crystals, CONFIG), strict=True):
        assert isinstance(graph, CrystalGraph)
        assert_equal(graph, build_graph(crystal, CONFIG))


def test_no_crystals_have_no_graphs() -> None:
    assert build_graphs([], CONFIG) == []
    assert merge_all([]) == []


def test_input_of_a_group_is_not_changed() -> None:
    graphs = graphs_of(CRYSTALS[:12])
    before = graphs_of(CRYSTALS[:12])
    merged = merge_all(graphs)
    again = merge_all(merged)
    for graph, same, small, smallest in zip(graphs, before, merged, again, strict=True):
        assert_equal(graph, same)
        assert_equal(small, smallest)


def test_more_atoms_than_sixteen_bits_number_are_sorted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = graphs_of(CRYSTALS[:12])
    monkeypatch.setattr(neighbours, "_RADIX", 0)
    for graph, expected in zip(build_graphs(CRYSTALS[:12], CONFIG), alone, strict=True):
        assert isinstance(graph, CrystalGraph)
        assert_equal(graph, expected)


def random_graph(n_nodes: int, degree: int, seed: int) -> CrystalGraph:
    """A graph in which no two nodes are alike."""
    rng = np.random.default_rng(seed)
    n_links = n_nodes * degree
    distances = np.sort(rng.uniform(1, 8, (n_nodes, degree)).astype(np.float32)).ravel()
    return CrystalGraph(
        atomic_numbers=np.full(n_nodes, 6),
        senders=rng.integers(0, n_nodes, n_links).astype(np.int32),
        degrees=np.full(n_nodes, degree, dtype=np.int32),
        distances=distances,
        volume=1.0,
        multiplicities=np.ones(n_nodes, dtype=np.int32),
        counts=np.ones(n_links, dtype=np.int32),
        node_of_atom=np.arange(n_nodes, dtype=np.int32),
        angular_features=np.empty((n_nodes, 0), dtype=np.float32),
    )


def test_the_largest_graphs_overflow_no_key() -> None:
    """Four crystals of 200,000 edges: with 2^32 labels the keys of their edges would need more than 63 bits."""
    graphs = [random_graph(50_000, 4, seed) for seed in range(4)]
    assert (4 * 50_000) * 50_000 * equivalence._LABELS > equivalence._LARGEST
    for graph, merged in zip(graphs, merge_all(graphs), strict=True):
        assert merged.n_nodes == graph.n_nodes
        order = np.lexsort((graph.distances, graph.senders, graph.receivers))
        np.testing.assert_array_equal(merged.senders, graph.senders[order])
        np.testing.assert_array_equal(merged.distances, graph.distances[order])
        np.testing.assert_array_equal(merged.degrees, graph.degrees)


def test_ranks_for_labels_merge_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = graphs_of(CRYSTALS)
    expected = merge_all(graphs)
    monkeypatch.setattr(equivalence, "_LARGEST", 1)
    for merged, usual in zip(merge_all(graphs), expected, strict=True):
        assert_equal(merged, usual)
