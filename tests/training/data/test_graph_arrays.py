"""Graphs of a prepared set behave as a list of them does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.batch import split_by_edges
from deepergatgnn.training.data.cache import prepare
from deepergatgnn.training.data.catalogue import Dataset
from deepergatgnn.training.data.graph_arrays import PackedGraphs, Subset, graph_sizes
from tests.support.fixtures import some_rows
from tests.support.same_graphs import assert_same_graph

PREPARED = prepare(Dataset("some", "", some_rows(12), ()), GraphConfig(angles=4))


@given(st.lists(st.lists(st.integers(0, 11), max_size=8), max_size=4), st.data())
def test_a_selection_is_the_list_of_what_it_selects(parts: list[list[int]], data: st.DataObject) -> None:
    chosen = [Subset([PREPARED.graphs], np.array(part, dtype=np.int64)) for part in parts]
    flat = [PREPARED.graphs[row] for part in parts for row in part]
    rows = data.draw(st.lists(st.integers(0, len(flat) - 1))) if flat else []
    selected = Subset(chosen, np.array(rows, dtype=np.int64))
    assert len(selected) == len(rows)
    for found, row in zip(selected, rows, strict=True):
        assert_same_graph(found, flat[row])
    nodes, links = graph_sizes(selected)
    assert nodes.tolist() == [flat[row].n_nodes for row in rows]
    assert links.tolist() == [flat[row].n_links for row in rows]
    assert [len(part) for part in split_by_edges(selected, 100)] == [
        len(part) for part in split_by_edges([flat[row] for row in rows], 100)
    ]


def test_graphs_are_indexed_as_a_list_is() -> None:
    graphs, plain = PREPARED.graphs, list(PREPARED.graphs)
    assert isinstance(graphs, PackedGraphs)
    assert_same_graph(graphs[-1], plain[11])
    assert [graph.n_links for graph in graphs[2:-1:3]] == [graph.n_links for graph in plain[2:-1:3]]
    for index in (12, -13):
        with pytest.raises(IndexError):
            graphs[index]
    sizes = graph_sizes(graphs), graph_sizes(plain)
    assert [each.tolist() for each in sizes[0]] == [each.tolist() for each in sizes[1]]
    assert graph_sizes([])[0].shape == (0,)


def test_some_rows_of_a_set_are_those_rows() -> None:
    rows = np.array([7, 0, 7])
    taken = PREPARED.take(rows)
    assert list(taken.ids) == [PREPARED.ids[row] for row in rows]
    assert list(taken.cells) == [PREPARED.cells[row] for row in rows]
    assert [graph.n_links for graph in taken.graphs] == [PREPARED.graphs[row].n_links for row in rows]
    np.testing.assert_array_equal(taken.values(["log10_K_VRH"]), PREPARED.values(["log10_K_VRH"])[rows])
