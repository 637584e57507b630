"""Batches hold equal work; processes share them out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepergatgnn.nn.batch import collate
from deepergatgnn.training.data.examples import ATOM_WORK, Examples
from deepergatgnn.training.fit.batches import collated, draw_batches, share_out
from tests.support.fixtures import graphs_of, some_crystals

costs = st.lists(st.floats(1, 1000), min_size=1, max_size=200).map(np.array)


def drawn(work: np.ndarray, size: int, seed: int = 0) -> list[list[int]]:
    return draw_batches(work, size, torch.Generator().manual_seed(seed))


@given(work=costs, size=st.integers(1, 50), seed=st.integers(0, 100))
def test_every_row_is_in_one_batch_and_no_batch_has_much_more_work_than_the_rest(
    work: np.ndarray, size: int, seed: int
) -> None:
    batches = drawn(work, size, seed)
    assert sorted(row for rows in batches for row in rows) == list(range(len(work)))
    fair = work.sum() / max(1, len(work) // size)
    assert all(work[rows].sum() <= fair + work.max() for rows in batches)
    assert min(map(len, batches)) > 0


def test_batches_of_real_crystals_have_equal_work_within_a_few_percent() -> None:
    """Equal counts do not: the same crystals in batches of sixteen differ twofold."""
    examples = Examples(graphs_of(some_crystals(200)), np.zeros((200, 1), dtype=np.float32))
    work = [examples.work[rows].sum() for rows in drawn(examples.work, 25)]
    assert len(work) == 8
    assert max(work) / min(work) < 1.35
    first = examples.graphs[0]
    assert examples.work[0] == ATOM_WORK * first.n_nodes + first.n_links


def test_the_order_is_the_generators() -> None:
    work = np.ones(50)
    assert drawn(work, 10, seed=1) == drawn(work, 10, seed=1) != drawn(work, 10, seed=2)


@given(work=costs, ranks=st.integers(1, 9))
def test_processes_share_a_batch_evenly(work: np.ndarray, ranks: int) -> None:
    parts = share_out(range(len(work)), work, ranks)
    assert len(parts) == ranks
    assert sorted(row for rows in parts for row in rows) == list(range(len(work)))
    loads = [work[rows].sum() for rows in parts]
    assert max(loads) - min(loads) <= work.max() * (1 + 1e-9)


def test_a_single_process_keeps_the_order() -> None:
    assert share_out([3, 1, 2], np.array([1.0, 5.0, 2.0, 9.0]), 1) == [[3, 1, 2]]


def test_a_part_without_rows_has_no_atoms() -> None:
    graphs = graphs_of(some_crystals(3))
    examples = Examples(graphs, np.arange(6, dtype=np.float32).reshape(3, 2))
    [(two, targets), (none, nothing)] = collated(examples, [[2, 0], []])
    assert torch.equal(two.distances, collate([graphs[2], graphs[0]]).distances)
    assert targets.tolist() == [[4, 5], [0, 1]]
    assert (none.n_crystals, len(none.atomic_numbers), len(none.distances)) == (0, 0, 0)
    assert nothing.shape == (0, 2)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_parts_of_the_examples_are_all_of_them(ranks: int) -> None:
    examples = Examples(graphs_of(some_crystals(5)), np.arange(5, dtype=np.float32)[:, None])
    parts = [examples.part(rank, ranks) for rank in range(ranks)]
    assert sorted(target for part in parts for target in part.targets[:, 0].tolist()) == [0, 1, 2, 3, 4]
    for part in parts:
        assert [examples.graphs[int(target)] for target in part.targets[:, 0]] == list(part.graphs)
