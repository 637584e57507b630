"""Fitting the domain score: the Mahalanobis distance of crystal vectors, and what the training part held."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.nn.batch import collate
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.evaluation.applicability_domain import distances, fit_domain
from deepergatgnn.uncertainty.domain import assess_domain
from tests.support.fixtures import Published, bundled, graphs_of, tiny

__all__ = ["tiny"]
COUNT = 600


@pytest.fixture(scope="module")
def graphs() -> list[CrystalGraph]:
    return [reduce_graph(graph) for graph in graphs_of([row.crystal for row in bundled().rows[:COUNT]])]


@pytest.fixture(scope="module")
def vectors(tiny: Published, graphs: Sequence[CrystalGraph]) -> Tensor:
    """Crystal vectors of a tiny network [600, 16]."""
    with torch.inference_mode():
        output = Predictor.load(tiny.folder).networks[0](collate(graphs))
    return output.crystal_vectors.clone()


def test_the_distance_is_mahalanobis(graphs: list[CrystalGraph], vectors: Tensor) -> None:
    """As numpy computes it, but for the shrinkage; with well-conditioned vectors, so that it hardly matters."""
    round_ = vectors + 0.3 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))
    _, arrays = fit_domain(graphs, round_, round_)
    centred = (round_ - round_.mean(dim=0)).double().numpy()
    inverse = np.linalg.inv(np.cov(centred.T))
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, inverse, centred))
    np.testing.assert_allclose(distances(round_, arrays), expected, rtol=0.02)


def test_the_mean_square_over_the_training_part_is_the_number_of_channels(
    graphs: list[CrystalGraph], vectors: Tensor
) -> None:
    _, arrays = fit_domain(graphs, vectors, vectors)
    mean_square = (distances(vectors, arrays) ** 2).mean()
    assert 0.2 * vectors.shape[1] < mean_square <= vectors.shape[1]  # less where the shrinkage counts


def test_rotating_and_shifting_the_vectors_changes_no_distance(graphs: list[CrystalGraph], vectors: Tensor) -> None:
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)).double()).Q
    moved = (vectors.double() @ rotation + 3).float()
    (one, arrays), (other, theirs) = fit_domain(graphs, vectors, vectors), fit_domain(graphs, moved, moved)
    np.testing.assert_allclose(distances(moved, theirs), distances(vectors, arrays), rtol=1e-2)
    assert other.distance_limit == pytest.approx(one.distance_limit, rel=1e-2)


def test_one_in_a_hundred_of_the_held_out_crystals_is_beyond_the_limit(
    graphs: list[CrystalGraph], vectors: Tensor
) -> None:
    held_out = vectors[300:]
    domain, arrays = fit_domain(graphs[:300], vectors[:300], held_out)
    beyond = (distances(held_out, arrays) > domain.distance_limit).sum()
    assert beyond == pytest.approx(len(held_out) / 100, abs=1)


def test_it_remembers_what_the_training_part_held(graphs: list[CrystalGraph], vectors: Tensor) -> None:
    domain, _ = fit_domain(graphs[:50], vectors[:50], vectors[50:])
    assert set(domain.elements) == {number for graph in graphs[:50] for number in graph.atomic_numbers.tolist()}
    volumes = [graph.volume / graph.n_atoms for graph in graphs[:50]]
    assert domain.volume_per_atom == (min(volumes), max(volumes))
    counts = [graph.n_nodes for graph in graphs[:50]]
    assert domain.inequivalent_atoms == (min(counts), max(counts))
    assert all(each.in_domain for each in assess_domain(graphs[:50], [0.0] * 50, domain))
    rest = graphs[50:]
    assert not all(each.in_domain for each in assess_domain(rest, [0.0] * len(rest), domain))


def test_fewer_crystals_than_channels_and_vectors_that_are_all_the_same_have_a_score(
    graphs: list[CrystalGraph], vectors: Tensor
) -> None:
    for some in (vectors[:5], vectors[:1].repeat(5, 1)):
        domain, arrays = fit_domain(graphs[:5], some, some)
        assert np.isfinite(distances(vectors, arrays)).all()
        assert domain.distance_limit > 0
        assert all(torch.isfinite(array).all() for array in arrays.values())
