"""A loaded checkpoint, from crystals to answers."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from deepergatgnn.errors import ArtifactError, StructureError
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.nn.batch import collate, split_by_edges
from deepergatgnn.predictor import Prediction, Predictor
from deepergatgnn.structures import Crystal, crystal_from_arrays
from tests.support.fixtures import SODIUM, Published, graphs_of, one_atom_cells, some_crystals, supercell

CRYSTALS = [SODIUM, *some_crystals(20), *one_atom_cells()[:3]]


@pytest.fixture(scope="module")
def predictor(tiny: Published) -> Predictor:
    return Predictor.load(tiny.folder)


def assert_same(one: Prediction, other: Prediction, tolerance: float = 1e-5) -> None:
    assert one.value == pytest.approx(other.value, rel=tolerance, abs=tolerance)
    assert one.low == pytest.approx(other.low, rel=tolerance, abs=tolerance)
    assert one.high == pytest.approx(other.high, rel=tolerance, abs=tolerance)
    assert one.domain.score == pytest.approx(other.domain.score, rel=1e-3)
    np.testing.assert_allclose(one.attention, other.attention, rtol=0, atol=tolerance)


def test_answers_come_in_the_order_of_the_crystals(predictor: Predictor) -> None:
    forward = predictor.predict_structures(CRYSTALS)
    backward = predictor.predict_structures(CRYSTALS[::-1])[::-1]
    assert len(forward) == len(CRYSTALS)
    for one, other, crystal in zip(forward, backward, CRYSTALS, strict=True):
        assert_same(one, other)
        assert len(one.attention) == crystal.n_atoms
    assert len({answer.value for answer in forward}) > len(CRYSTALS) // 2


def test_a_batch_gives_what_single_crystals_give(predictor: Predictor) -> None:
    for together, crystal in zip(predictor.predict_structures(CRYSTALS), CRYSTALS, strict=True):
        assert_same(together, predictor.predict_structure(crystal))


@pytest.mark.parametrize("max_edges", [1, 300, 1000, 100_000])
def test_the_size_of_a_pass_does_not_matter(predictor: Predictor, max_edges: int) -> None:
    graphs = graphs_of(CRYSTALS)
    whole = predictor.predict_graphs(graphs)
    for one, other in zip(predictor.predict_graphs(graphs, max_edges=max_edges), whole, strict=True):
        assert_same(one, other)


def test_a_batch_made_elsewhere_gives_the_same(predictor: Predictor) -> None:
    graphs = graphs_of(CRYSTALS)
    for one, other in zip(
        predictor.predict_collated(graphs, collate(graphs)), predictor.predict_graphs(graphs), strict=True
    ):
        assert_same(one, other)


@pytest.mark.parametrize("some", ["none", "every other", "all"])
def test_attention_is_empty_where_it_is_not_wanted_and_nothing_else_changes(predictor: Predictor, some: str) -> None:
    graphs = [reduce_graph(graph) for graph in graphs_of(CRYSTALS)]
    wanted = [some == "all" or (some == "every other" and index % 2 == 0) for index in range(len(graphs))]
    batch = collate(graphs, filled=True)
    for one, other, asked in zip(
        predictor.predict_collated(graphs, batch, attention=wanted),
        predictor.predict_collated(graphs, batch),
        wanted,
        strict=True,
    ):
        assert one.attention.dtype == np.float32
        assert one.attention.tolist() == (other.attention.tolist() if asked else [])
        assert len(other.attention) > 0
        assert replace(one, attention=other.attention, embedding=other.embedding).__dict__ == other.__dict__
        assert one.embedding.tolist() == other.embedding.tolist()


def test_attention_is_asked_of_each_graph(predictor: Predictor) -> None:
    graphs = graphs_of(CRYSTALS[:3])
    with pytest.raises(ValueError, match="shorter"):
        predictor.predict_collated(graphs, collate(graphs), attention=[True, False])


def test_loading_twice_gives_the_same_to_the_bit(tiny: Published, predictor: Predictor) -> None:
    again = Predictor.load(str(tiny.folder)).predict_structures(CRYSTALS)
    for one, other in zip(predictor.predict_structures(CRYSTALS), again, strict=True):
        assert one.value == other.value
        assert one.attention.tobytes() == other.attention.tobytes()


def test_attention_is_a_share_of_the_atoms(predictor: Predictor) -> None:
    for answer in predictor.predict_structures(CRYSTALS):
        assert answer.attention.dtype == np.float32
        assert (answer.attention >= 0).all()
        assert answer.attention.sum() == pytest.approx(1, abs=1e-5)


def test_the_interval_is_the_calibrated_one(tiny: Published, predictor: Predictor) -> None:
    calibration, std = tiny.manifest.calibration, tiny.manifest.scaler.std
    for answer in predictor.predict_structures(CRYSTALS):
        assert (answer.low, answer.high) == answer.intervals["0.9"]
        assert type(answer.value) is type(answer.low) is type(answer.predicted_scale) is float
        for level, (low, high) in answer.intervals.items():
            [factor] = calibration.factors[level]  # too few calibration crystals for classes
            assert answer.value - low == pytest.approx(factor * answer.predicted_scale * std)
            assert high - answer.value == pytest.approx(factor * answer.predicted_scale * std)


def test_the_golden_crystals_have_their_values(tiny: Published, predictor: Predictor) -> None:
    assert tiny.manifest.golden
    for golden in tiny.manifest.golden:
        crystal = crystal_from_arrays(golden.lattice, golden.species, golden.frac_coords)
        assert predictor.predict_structure(crystal).value == pytest.approx(golden.value, rel=1e-5, abs=1e-5)


def test_a_supercell_has_the_same_answer(predictor: Predictor) -> None:
    for crystal in CRYSTALS[:8]:
        small, large = predictor.predict_structures([crystal, supercell(crystal, (2, 2, 2))])
        assert large.value == pytest.approx(small.value, rel=1e-5, abs=1e-5)
        assert large.domain.score == pytest.approx(small.domain.score, rel=1e-3)
        np.testing.assert_allclose(large.attention.reshape(-1, 8).sum(axis=1), small.attention, rtol=0, atol=1e-5)


def test_no_crystals_have_no_answers(predictor: Predictor) -> None:
    assert predictor.predict_structures([]) == []
    assert list(split_by_edges([], 100)) == []


def test_a_crystal_without_a_graph_is_refused(predictor: Predictor) -> None:
    alone = Crystal(20 * np.eye(3), np.array([2]), np.zeros((1, 3)))
    with pytest.raises(StructureError) as caught:
        predictor.predict_structures([SODIUM, alone])
    assert caught.value.code == "too_sparse"


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a checkpoint"):
        Predictor.load(tmp_path)


@pytest.mark.parametrize("limit", [1, 14, 200, 1000, 10**9])
def test_a_sequence_is_cut_into_runs_within_the_limit(limit: int) -> None:
    graphs = graphs_of(CRYSTALS)
    runs = list(split_by_edges(graphs, limit))
    assert [graph for run in runs for graph in run] == graphs
    assert all(len(run) == 1 or sum(graph.n_edges for graph in run) <= limit for run in runs)
    # No run could have taken the first graph of the next.
    for run, following in pairwise(runs):
        assert sum(graph.n_edges for graph in run) + following[0].n_edges > limit


def test_input_is_not_changed(predictor: Predictor) -> None:
    crystals = [replace(crystal, frac_coords=crystal.frac_coords + 0.5) for crystal in CRYSTALS]
    before = [(c.lattice.copy(), c.atomic_numbers.copy(), c.frac_coords.copy()) for c in crystals]
    predictor.predict_structures(crystals)
    for crystal, (lattice, numbers, coords) in zip(crystals, before, strict=True):
        np.testing.assert_array_equal(crystal.lattice, lattice)
        np.testing.assert_array_equal(crystal.atomic_numbers, numbers)
        np.testing.assert_array_equal(crystal.frac_coords, coords)
