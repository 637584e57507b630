"""Graphs side by side in the same arrays, and cut into those of the crystals again."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import numpy as np

from deepergatgnn.graphs.crystal_graph import CrystalGraph


def side_by_side(graphs: Sequence[CrystalGraph]) -> CrystalGraph:
    """The disjoint union of at least one graph, nodes numbered through."""
    if len(graphs) == 1:
        return graphs[0]
    sizes, links = [graph.n_nodes for graph in graphs], [graph.n_links for graph in graphs]
    atoms = [graph.n_atoms for graph in graphs]
    starts = np.array([0, *accumulate(sizes[:-1])], dtype=np.int32)
    return CrystalGraph(
        atomic_numbers=np.concatenate([graph.atomic_numbers for graph in graphs]),
        senders=np.concatenate([graph.senders for graph in graphs]) + starts.repeat(links),
        degrees=np.concatenate([graph.degrees for graph in graphs]),
        distances=np.concatenate([graph.distances for graph in graphs]),
        volume=sum(graph.volume for graph in graphs),
        multiplicities=np.concatenate([graph.multiplicities for graph in graphs]),
        counts=np.concatenate([graph.counts for graph in graphs]),
        classes=np.concatenate([graph.classes for graph in graphs]) + starts.repeat(atoms),
        surroundings=np.concatenate([graph.surroundings for graph in graphs]),
    )


def cut_whole(
    whole: CrystalGraph, nodes: Sequence[int], links: Sequence[int], atoms: Sequence[int], volumes: Sequence[float]
) -> list[CrystalGraph]:
    """Cut arrays in which crystals follow one another: slices, no copies.

    Args:
        whole: the arrays; senders and classes are numbered within each crystal already.
        nodes: of each crystal.
        links: of each crystal.
        atoms: of each crystal.
        volumes: of each crystal, Å³, which sum to that of the whole.
    """
    if len(volumes) == 1:
        return [whole]
    return [
        CrystalGraph(
            atomic_numbers=whole.atomic_numbers[node:node_end],
            senders=whole.senders[link:link_end],
            degrees=whole.degrees[node:node_end],
            distances=whole.distances[link:link_end],
            volume=volume,
            multiplicities=whole.multiplicities[node:node_end],
            counts=whole.counts[link:link_end],
            classes=whole.classes[atom:atom_end],
            surroundings=whole.surroundings[node:node_end],
        )
        for (node, node_end), (link, link_end), (atom, atom_end), volume in zip(
            _ends(nodes), _ends(links), _ends(atoms), volumes, strict=True
        )
    ]


def _ends(sizes: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Where each of several pieces begins and ends that follow one another."""
    return pairwise(accumulate(sizes, initial=0))
