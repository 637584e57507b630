"""One name for a crystal in all its cells, and answers that carry over to them."""

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.service.messages import ModelOutput, PackedGraph
from deepergatgnn.service.prediction.result_cache import ResultCache
from deepergatgnn.structures import Crystal, crystal_from_pymatgen, crystal_to_pymatgen
from tests.conftest import service
from tests.support.fixtures import some_crystals
from tests.support.parsing import parse

CONFIG = GraphConfig(angles=8)
LAYERS = 5
ANSWER = ModelOutput("m@1.0.0", 1.0, 0.5, 1.5, in_domain=True, score=0.1, reasons=(), attention=())


def packed(crystal: Crystal) -> PackedGraph:
    structure = crystal_to_pymatgen(crystal)
    return parse(structure.to(fmt="poscar").encode(), "poscar", [CONFIG], rounds=LAYERS).graphs[0]


@pytest.mark.parametrize("crystal", some_crystals(12), ids=lambda crystal: crystal.reduced_formula)
def test_cells_of_one_crystal_have_one_name(crystal: Crystal) -> None:
    structure = crystal_to_pymatgen(crystal)
    analyzer = SpacegroupAnalyzer(structure)
    shuffled = structure.copy()
    shuffled.translate_sites(range(len(structure)), [0.1, 0.2, 0.3])
    cells = [
        structure,
        structure * (2, 1, 1),
        shuffled,
        type(structure).from_sites(structure[::-1]),
    ]
    names = {packed(crystal_from_pymatgen(cell)).digest for cell in cells}
    assert len(names) == 1
    standard = packed(crystal_from_pymatgen(analyzer.get_primitive_standard_structure()))
    assert set(standard.colours) == set(packed(crystal).colours) or standard.digest not in names


def test_different_crystals_have_different_names() -> None:
    crystals = some_crystals(200)
    names = {packed(crystal).digest for crystal in crystals}
    assert len(names) == len(crystals)


def test_a_small_strain_is_another_crystal() -> None:
    crystal = crystal_to_pymatgen(some_crystals(3)[1])
    strained = crystal.copy()
    strained.apply_strain(1e-3)
    assert packed(crystal_from_pymatgen(crystal)).digest != packed(crystal_from_pymatgen(strained)).digest


def test_a_name_sees_as_far_as_the_network() -> None:
    """In a long cell with one foreign atom a layer more tells more atoms apart."""
    structure = crystal_to_pymatgen(some_crystals(12)[0]) * (1, 1, 24)
    structure.replace(0, "Lr")
    kinds = [
        len(set(parse(structure.to(fmt="poscar").encode(), "poscar", [CONFIG], rounds=layers).graphs[0].colours))
        for layers in range(1, 8)
    ]
    assert kinds == sorted(set(kinds)), kinds


def test_an_answer_carries_over_to_a_supercell() -> None:
    crystal = crystal_to_pymatgen(some_crystals(5)[2])
    small, large = packed(crystal_from_pymatgen(crystal)), packed(crystal_from_pymatgen(crystal * (1, 2, 1)))
    kinds = sorted(set(small.colours))
    weights = np.array([1.0 + kinds.index(colour) for colour in small.colours])
    weights /= weights.sum()
    cache = ResultCache(8)
    cache.put(small, replace(ANSWER, attention=tuple(weights.tolist())))
    found = cache.get(large, "m@1.0.0")
    assert found is not None
    assert sum(found.attention) == pytest.approx(1)
    by_kind = dict(zip(small.colours, weights.tolist(), strict=True))
    assert found.attention == pytest.approx([by_kind[colour] / 2 for colour in large.colours])
    assert cache.get(large, "m@1.0.1") is None


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 4))
def test_never_more_than_its_size_and_the_last_ones(asked: list[int], size: int) -> None:
    cache = ResultCache(size)
    for number in asked:
        graph = PackedGraph(b"", 1, 1, 1, digest=str(number), colours=("c",))
        cache.put(graph, replace(ANSWER, attention=(1.0,)))
    last = list(dict.fromkeys(reversed(asked)))
    for number in range(10):
        graph = PackedGraph(b"", 1, 1, 1, digest=str(number), colours=("c",))
        assert (cache.get(graph, "m@1.0.0") is not None) == (number in last[:size])


def test_through_the_service_a_duplicate_costs_nothing_and_says_the_same() -> None:
    structure = crystal_to_pymatgen(some_crystals(5)[3])
    with (
        service(DEEPERGATGNN_CACHE_ENTRIES="100", DEEPERGATGNN_DRAIN_GRACE_S="0") as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        first, again, large = (
            client.post("/predict", json={"structure": cell.to(fmt="poscar"), "models": ["bulk-modulus"]}).json()
            for cell in (structure, structure, structure * (2, 1, 1))
        )
        metrics = client.get("/metrics").text
    assert first["latency_ms"]["inference"] > 0
    assert again["latency_ms"]["inference"] == 0
    assert large["latency_ms"]["inference"] == 0
    assert again["predictions"] == first["predictions"]
    assert large["predictions"][0]["value"] == first["predictions"][0]["value"]
    assert large["n_atoms"] == 2 * first["n_atoms"]
    total = sum(atom["weight"] for atom in large["predictions"][0]["attention"])
    assert total == pytest.approx(1)
    assert 'deepergatgnn_cache_total{result="hit"} 2.0' in metrics
    assert 'deepergatgnn_cache_total{result="miss"} 1.0' in metrics
