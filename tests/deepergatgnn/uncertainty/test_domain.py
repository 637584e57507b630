"""The verdict whether a crystal is like those of the training part."""

from dataclasses import replace

import numpy as np
import pytest

from deepergatgnn.checkpoints.manifest import Domain
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.structures import Crystal
from deepergatgnn.training.data.cache import prepare
from deepergatgnn.training.data.splits import split_rows
from deepergatgnn.uncertainty.domain import DomainAssessment, assess_domain
from tests.support.fixtures import SODIUM, Published, bundled, graphs_of, some_crystals, supercell


@pytest.fixture(scope="module")
def domain(tiny: Published) -> Domain:
    return tiny.manifest.domain


def assess(graph: CrystalGraph, distance: float, domain: Domain) -> DomainAssessment:
    return assess_domain([graph], [distance], domain)[0]


def sodium(scale: float = 1.0, **changes: object) -> CrystalGraph:
    [graph] = graphs_of([replace(SODIUM, lattice=scale * SODIUM.lattice, **changes)])
    return graph


def test_a_metal_of_the_set_is_in_the_domain(domain: Domain) -> None:
    verdict = assess(sodium(), 0.5 * domain.distance_limit, domain)
    assert verdict.in_domain
    assert verdict.score == pytest.approx(0.5)
    assert verdict.reasons == ()


def test_an_element_that_training_never_saw_is_named(domain: Domain) -> None:
    verdict = assess(sodium(atomic_numbers=np.array([10])), 0.0, domain)
    assert not verdict.in_domain
    assert verdict.reasons == ("no crystal with Ne was in the training set",)


def test_several_unseen_elements_are_in_one_sentence(domain: Domain) -> None:
    two = replace(supercell(SODIUM, (2, 1, 1)), atomic_numbers=np.array([86, 10]))
    [graph] = graphs_of([two])
    assert "no crystal with Ne, Rn was" in assess(graph, 0.0, domain).reasons[0]


@pytest.mark.parametrize("scale", [0.4, 1.7])
def test_a_volume_outside_the_range_is_named_with_the_range(domain: Domain, scale: float) -> None:
    verdict = assess(sodium(scale), 0.0, domain)
    assert not verdict.in_domain
    low, high = domain.volume_per_atom
    assert f"{low:.1f} to {high:.1f}" in verdict.reasons[0]
    assert "Å³ per atom" in verdict.reasons[0]


def test_a_distant_crystal_vector_is_flagged_beyond_the_limit_only(domain: Domain) -> None:
    assert assess(sodium(), domain.distance_limit, domain).in_domain
    verdict = assess(sodium(), 1.01 * domain.distance_limit, domain)
    assert not verdict.in_domain
    assert verdict.score == pytest.approx(1.01)
    assert "crystal vector" in verdict.reasons[0]


def crystal_of_many_atoms() -> Crystal:
    """The bundled crystal with the most atoms that differ in surroundings."""
    return max((row.crystal for row in bundled().rows), key=lambda crystal: merged(crystal).n_nodes)


def merged(crystal: Crystal) -> CrystalGraph:
    return reduce_graph(graphs_of([crystal])[0])


def test_more_inequivalent_atoms_than_training_saw_are_named_with_the_range(domain: Domain) -> None:
    graph = merged(crystal_of_many_atoms())
    few = domain.model_copy(update={"inequivalent_atoms": (1, graph.n_nodes - 1)})
    verdict = assess(graph, 0.0, few)
    assert not verdict.in_domain
    assert (
        f"{graph.n_nodes} inequivalent atoms are outside the training set's 1 to {graph.n_nodes - 1}" in verdict.reasons
    )
    for wide in ((1, graph.n_nodes), None):
        assert assess(graph, 0.0, domain.model_copy(update={"inequivalent_atoms": wide})).in_domain


def test_fewer_inequivalent_atoms_than_training_saw_are_named(domain: Domain) -> None:
    many = domain.model_copy(update={"inequivalent_atoms": (2, 20)})
    assert assess(sodium(), 0.0, many).reasons == ("1 inequivalent atoms are outside the training set's 2 to 20",)


@pytest.mark.parametrize("limits", [(1, 1), (1, 5), (2, 3), (4, 100), (1, 100)])
def test_inequivalent_atoms_are_those_of_the_crystal_not_of_its_cell_or_graph(
    domain: Domain, limits: tuple[int, int]
) -> None:
    known = domain.model_copy(update={"inequivalent_atoms": limits, "elements": tuple(range(1, 109))})
    for crystal in [SODIUM, *some_crystals(8), crystal_of_many_atoms()]:
        expected = assess(merged(crystal), 1.0, known)
        [plain, large] = graphs_of([crystal, supercell(crystal, (2, 1, 2))])
        for graph in (plain, large, reduce_graph(large)):
            assert assess(graph, 1.0, known) == expected


def test_every_reason_is_given(domain: Domain) -> None:
    far = assess(sodium(1.7, atomic_numbers=np.array([10])), 2 * domain.distance_limit, domain)
    assert len(far.reasons) == 3


def test_crystals_judged_together_have_the_verdicts_they_have_alone(domain: Domain) -> None:
    graphs = [sodium(), sodium(1.7), sodium(atomic_numbers=np.array([10])), *graphs_of(some_crystals(4))]
    distances = [2.0 * index for index in range(len(graphs))]
    alone = [assess(graph, distance, domain) for graph, distance in zip(graphs, distances, strict=True)]
    assert assess_domain(graphs, distances, domain) == alone
    assert assess_domain([], [], domain) == []


def test_the_cell_does_not_matter(domain: Domain) -> None:
    [large] = graphs_of([supercell(SODIUM, (2, 2, 2))])
    assert assess(large, 1.0, domain) == assess(sodium(), 1.0, domain)


def test_the_domain_is_that_of_the_training_part(tiny: Published) -> None:
    dataset = prepare(bundled(), tiny.config.graph)
    train = [dataset.graphs[row] for row in split_rows(dataset, tiny.config.split, tiny.config.seed).train]
    domain = tiny.manifest.domain
    assert set(domain.elements) == {number for graph in train for number in graph.atomic_numbers.tolist()}
    volumes = [graph.volume / graph.n_atoms for graph in train]
    assert domain.volume_per_atom == pytest.approx((min(volumes), max(volumes)))
    counts = [graph.n_nodes for graph in train]
    assert domain.inequivalent_atoms == (min(counts), max(counts))
    assert all(assess(graph, 0.0, domain).in_domain for graph in train)
