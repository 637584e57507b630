"""Applicability domain: whether a crystal is like those of the training set, in any cell."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from deepergatgnn.checkpoints.manifest import Domain
from deepergatgnn.element_features import element_symbol
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.graphs.symmetry_reduction import reduce_graph


class DomainAssessment(NamedTuple):
    """Assessment of one crystal.

    Attributes:
        in_domain: whether there is no reason against it.
        score: Mahalanobis distance of the crystal vector from the training set over its 99th percentile;
            above 1 is unusual.
        reasons: sentences, empty where `in_domain`.
    """

    in_domain: bool
    score: float
    reasons: tuple[str, ...]


def assess_domain(graphs: Sequence[CrystalGraph], distances: Iterable[float], domain: Domain) -> list[DomainAssessment]:
    """Compare crystals with the training set by elements, volume, number of inequivalent atoms and crystal vector.

    Args:
        graphs: of the crystals; equivalent atoms may be merged, the assessments are the same.
        distances: Mahalanobis distance of each crystal vector from those of the training part.
        domain: ranges of the training part.
    """
    elements = frozenset(domain.elements)
    return [_assess(graph, far, domain, elements) for graph, far in zip(graphs, distances, strict=True)]


def _assess(graph: CrystalGraph, distance: float, domain: Domain, elements: frozenset[int]) -> DomainAssessment:
    reasons = []
    numbers = graph.atomic_numbers.tolist()
    if not elements >= set(numbers):
        names = ", ".join(element_symbol(number) for number in sorted(set(numbers) - elements))
        reasons.append(f"no crystal with {names} was in the training set")
    low, high = domain.volume_per_atom
    volume = graph.volume / graph.n_atoms
    if not low <= volume <= high:
        reasons.append(f"{volume:.1f} Å³ per atom is outside the training set's {low:.1f} to {high:.1f}")
    if domain.inequivalent_atoms is not None:
        fewest, most = domain.inequivalent_atoms
        count = graph.n_nodes
        if count > most or fewest > 1:  # else merging, which takes time, could not change the result
            count = reduce_graph(graph).n_nodes
        if not fewest <= count <= most:
            reasons.append(f"{count} inequivalent atoms are outside the training set's {fewest} to {most}")
    score = distance / domain.distance_limit
    if score > 1:
        reasons.append("the crystal vector is farther from the training set than those of 99 % of known crystals")
    return DomainAssessment(in_domain=not reasons, score=score, reasons=tuple(reasons))
