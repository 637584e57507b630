"""Graphs side by side."""

from dataclasses import fields

import numpy as np
import torch

from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.nn.batch import GraphBatch, collate
from tests.support.fixtures import SODIUM, graphs_of, one_atom_cells, some_crystals

GRAPHS = graphs_of([SODIUM, *some_crystals(6), one_atom_cells()[5]])


def taken_apart(batch: GraphBatch) -> list[tuple[list[int], list[tuple[int, int, float]]]]:
    """Atoms and edges of each crystal, atoms numbered from 0 again."""
    parts, first = [], 0
    for crystal, n_atoms in enumerate(batch.n_atoms.long().tolist()):
        own = batch.crystals[batch.receivers] == crystal
        edges = zip(
            (batch.receivers[own] - first).tolist(),
            (batch.senders[own] - first).tolist(),
            batch.distances[own].tolist(),
            strict=True,
        )
        parts.append((batch.atomic_numbers[batch.crystals == crystal].tolist(), list(edges)))
        first += n_atoms
    return parts


def as_lists(graph: CrystalGraph) -> tuple[list[int], list[tuple[int, int, float]]]:
    edges = zip(graph.receivers.tolist(), graph.senders.tolist(), graph.distances.tolist(), strict=True)
    return graph.atomic_numbers.tolist(), list(edges)


def test_a_batch_taken_apart_is_what_was_put_in() -> None:
    assert taken_apart(collate(GRAPHS)) == [as_lists(graph) for graph in GRAPHS]


def test_a_batch_of_one_is_the_graph() -> None:
    for graph in GRAPHS:
        assert taken_apart(collate([graph])) == [as_lists(graph)]


def test_shapes_and_types() -> None:
    batch = collate(GRAPHS)
    assert batch.n_crystals == len(GRAPHS)
    assert batch.n_atoms.tolist() == [graph.n_atoms for graph in GRAPHS]
    assert len(batch.senders) == sum(graph.n_edges for graph in GRAPHS)
    assert {field.name: getattr(batch, field.name).dtype for field in fields(batch)} == {
        "atomic_numbers": torch.int64,
        "senders": torch.int64,
        "receivers": torch.int64,
        "distances": torch.float32,
        "crystals": torch.int64,
        "multiplicities": torch.float32,
        "counts": torch.float32,
        "n_atoms": torch.float32,
        "angular_features": torch.float32,
    }


def test_edges_are_sorted_by_receiver() -> None:
    receivers = collate(GRAPHS).receivers
    assert (receivers[1:] >= receivers[:-1]).all()


def test_only_real_numbers_change_their_type() -> None:
    batch = collate(GRAPHS)
    moved = batch.to("cpu", dtype=torch.float64)
    assert moved.distances.dtype == torch.float64
    assert torch.equal(moved.distances.float(), batch.distances)
    assert moved.multiplicities.dtype == moved.counts.dtype == moved.n_atoms.dtype == torch.float64
    assert moved.senders.dtype == moved.atomic_numbers.dtype == torch.int64
    assert batch.distances.dtype == torch.float32


def test_the_graphs_are_not_changed_and_share_no_memory_with_the_batch() -> None:
    for graphs in (GRAPHS, GRAPHS[:1]):
        before = [(graph.senders.copy(), graph.distances.copy(), graph.atomic_numbers.copy()) for graph in graphs]
        batch = collate(graphs)
        for field in fields(batch):
            getattr(batch, field.name).add_(1)
        for graph, (senders, distances, numbers) in zip(graphs, before, strict=True):
            np.testing.assert_array_equal(graph.senders, senders)
            np.testing.assert_array_equal(graph.distances, distances)
            np.testing.assert_array_equal(graph.atomic_numbers, numbers)
