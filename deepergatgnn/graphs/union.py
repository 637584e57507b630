"""Disjoint union of graphs, and its inverse."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from deepergatgnn.graphs.crystal_graph import GRAPH_FIELDS, CrystalGraph


def disjoint_union(graphs: Sequence[CrystalGraph]) -> CrystalGraph:
    """Join at least one graph into one; the nodes are numbered consecutively."""
    if len(graphs) == 1:
        return graphs[0]
    sizes = {
        "node": [graph.n_nodes for graph in graphs],
        "edge": [graph.n_links for graph in graphs],
        "atom": [graph.n_atoms for graph in graphs],
    }
    first_nodes = np.array([0, *accumulate(sizes["node"][:-1])], dtype=np.int32)
    arrays: dict[str, Any] = {}
    for name, field in GRAPH_FIELDS.items():
        arrays[name] = np.concatenate([getattr(graph, name) for graph in graphs])
        if field.refers_to_nodes:
            arrays[name] += first_nodes.repeat(sizes[field.axis])
    return CrystalGraph(volume=sum(graph.volume for graph in graphs), **arrays)


def split_union(
    union: CrystalGraph, nodes: Sequence[int], edges: Sequence[int], atoms: Sequence[int], volumes: Sequence[float]
) -> list[CrystalGraph]:
    """Split a union into the graphs of its crystals; their arrays are views.

    Args:
        union: graphs one after the other; node indices already count from 0 in each of them.
        nodes: number of nodes of each graph.
        edges: number of edges of each graph.
        atoms: number of atoms of each graph.
        volumes: volume of each cell in Å³; they sum to that of the union.
    """
    if len(volumes) == 1:
        return [union]
    bounds = {"node": _bounds(nodes), "edge": _bounds(edges), "atom": _bounds(atoms)}
    columns = []
    for name, field in GRAPH_FIELDS.items():
        array = getattr(union, name)
        columns.append([array[start:end] for start, end in bounds[field.axis]])
    return [
        CrystalGraph(volume=volume, **dict(zip(GRAPH_FIELDS, arrays, strict=True)))
        for volume, *arrays in zip(volumes, *columns, strict=True)
    ]


def _bounds(sizes: Iterable[int]) -> list[tuple[int, int]]:
    """Start and end of each of several consecutive runs."""
    return list(pairwise(accumulate(sizes, initial=0)))
