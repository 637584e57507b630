"""The crystal graph: right by brute force, and the same for every way to write the same crystal."""

from dataclasses import FrozenInstanceError, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from deepergatgnn.errors import StructureError
from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.structures import Crystal, crystal_from_pymatgen, crystal_to_pymatgen
from tests.support.fixtures import SODIUM, one_atom_cells, some_crystals, supercell

CONFIG = GraphConfig()
LEVELLED = 4 * CONFIG.distance_resolution  # how far a distance may move when those nearly equal become their mean
Floats = NDArray[np.float64]


def neighbourhoods(graph: CrystalGraph) -> list[tuple[int, Floats]]:
    """Of each atom its element and the sorted distances of its edges."""
    parts = np.split(graph.distances.astype(np.float64), np.cumsum(graph.degrees)[:-1])
    return [(int(number), np.sort(part)) for number, part in zip(graph.atomic_numbers, parts, strict=True)]


def alike(one: tuple[int, Floats], other: tuple[int, Floats], tolerance: float) -> bool:
    return one[0] == other[0] and len(one[1]) == len(other[1]) and bool(np.allclose(one[1], other[1], atol=tolerance))


def assert_same_crystal(one: CrystalGraph, other: CrystalGraph, tolerance: float = 2e-5) -> None:
    """Every neighbourhood makes up the same share of both graphs: their cells may differ in size."""
    ours, theirs = neighbourhoods(one), neighbourhoods(other)
    for kind in ours:
        share = sum(alike(kind, atom, tolerance) for atom in ours) / len(ours)
        share_there = sum(alike(kind, atom, tolerance) for atom in theirs) / len(theirs)
        assert share == pytest.approx(share_there), kind
    assert one.volume / one.n_atoms == pytest.approx(other.volume / other.n_atoms, rel=1e-6)


def assert_same_atoms(one: CrystalGraph, other: CrystalGraph, order: NDArray[np.int64] | None = None) -> None:
    """Atom order[k] of the first graph has the neighbourhood of atom k of the second."""
    ours, theirs = neighbourhoods(one), neighbourhoods(other)
    places = range(len(ours)) if order is None else order.tolist()
    for place, atom in zip(places, theirs, strict=True):
        assert alike(ours[place], atom, 2e-5)


def by_brute_force(crystal: Crystal, config: GraphConfig) -> list[list[tuple[float, int]]]:
    """(distance, sender) of each atom's edges, from all images in a block of cells that surely holds the sphere."""
    heights = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)  # between the faces of the cell
    spread = np.ptp(crystal.frac_coords, axis=0).max()
    reach = [int(np.ceil(config.cutoff / height + spread)) for height in heights]
    positions = crystal.frac_coords @ crystal.lattice
    found: list[list[tuple[float, int]]] = [[] for _ in positions]
    for shift in product(*(range(-n, n + 1) for n in reach)):
        moved = positions + np.array(shift) @ crystal.lattice
        lengths = np.linalg.norm(moved[None, :, :] - positions[:, None, :], axis=-1)
        for receiver, sender in np.argwhere((lengths <= config.cutoff) & (lengths > 1e-6)):
            found[receiver].append((float(lengths[receiver, sender]), int(sender)))
    kept = []
    for edges in map(sorted, found):
        last = edges[: config.neighbours][-1][0]
        kept.append([edge for edge in edges if edge[0] <= last + config.shell_tolerance])
    return kept


@pytest.mark.parametrize(
    "config",
    [CONFIG, GraphConfig(cutoff=5.0, neighbours=3), GraphConfig(neighbours=40, shell_tolerance=0.1)],
    ids=["default", "few", "many"],
)
def test_it_finds_what_brute_force_finds(config: GraphConfig) -> None:
    for crystal in [SODIUM, one_atom_cells()[0], *some_crystals(9)]:
        graph = build_graph(crystal, config)
        expected = by_brute_force(crystal, config)
        first = 0
        for edges, degree in zip(expected, graph.degrees, strict=True):
            own = slice(first, first + degree)
            first += degree
            assert len(edges) == degree
            np.testing.assert_allclose(graph.distances[own], [distance for distance, _ in edges], rtol=0, atol=LEVELLED)
            assert sorted(graph.senders[own].tolist()) == sorted(sender for _, sender in edges)
            # Each neighbour at its own distance, not only the same neighbours and the same distances.
            actual = sorted(zip(graph.senders[own].tolist(), graph.distances[own].tolist(), strict=True))
            wanted = sorted((sender, distance) for distance, sender in edges)
            np.testing.assert_allclose([d for _, d in actual], [d for _, d in wanted], rtol=0, atol=LEVELLED)


def test_whole_shells_are_kept() -> None:
    """Sodium: 8 at √3/2 a and 6 at a. Twelve nearest alone would have to choose four of the six."""
    graph = build_graph(SODIUM, CONFIG)
    assert graph.degrees.tolist() == [14]
    np.testing.assert_allclose(graph.distances, [4.29 * 3**0.5 / 2] * 8 + [4.29] * 6, rtol=1e-6)


def test_no_atom_is_its_own_neighbour_at_no_distance_and_none_is_alone() -> None:
    for crystal in [*one_atom_cells(), *some_crystals(100)]:
        graph = build_graph(crystal, CONFIG)
        assert graph.distances.min() > 0.5
        assert graph.distances.max() <= CONFIG.cutoff
        assert graph.degrees.min() >= 1


def test_shapes_order_and_types() -> None:
    for crystal in [SODIUM, *some_crystals(20)]:
        graph = build_graph(crystal, CONFIG)
        assert graph.n_atoms == crystal.n_atoms == len(graph.degrees)
        assert graph.n_edges == graph.degrees.sum() == len(graph.distances) == len(graph.receivers)
        assert (graph.senders.dtype, graph.degrees.dtype) == (np.int32, np.int32)
        assert (graph.distances.dtype, graph.atomic_numbers.dtype) == (np.float32, np.int64)
        assert (np.diff(graph.receivers) >= 0).all()
        same_receiver = np.diff(graph.receivers) == 0
        assert (np.diff(graph.distances)[same_receiver] >= 0).all()
        assert graph.volume == pytest.approx(crystal.volume)
        assert (graph.senders >= 0).all()
        assert (graph.senders < graph.n_atoms).all()


def test_every_one_atom_cell_has_the_graph_of_its_metal() -> None:
    assert len(one_atom_cells()) >= 20
    for crystal in one_atom_cells():
        graph = build_graph(crystal, CONFIG)
        assert graph.n_atoms == 1
        assert graph.n_edges >= CONFIG.neighbours
        assert not graph.senders.any()
        assert_same_crystal(graph, build_graph(supercell(crystal, (2, 3, 1)), CONFIG))


def rotated(crystal: Crystal, rotation: Floats) -> Crystal:
    return replace(crystal, lattice=crystal.lattice @ rotation.T)


def rotation_from(quaternion: Floats) -> Floats:
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


INVARIANCE = [*one_atom_cells(), SODIUM, *some_crystals(100)]


def test_rotation_reflection_translation_and_permutation_change_nothing() -> None:
    rng = np.random.default_rng(0)
    for crystal in INVARIANCE:
        graph = build_graph(crystal, CONFIG)
        rotation = rotation_from(rng.normal(size=4))
        assert_same_atoms(graph, build_graph(rotated(crystal, rotation), CONFIG))
        assert_same_atoms(graph, build_graph(rotated(crystal, -rotation), CONFIG))
        moved = replace(crystal, frac_coords=crystal.frac_coords + rng.normal(size=3))
        assert_same_atoms(graph, build_graph(moved, CONFIG))
        other_images = replace(
            crystal, frac_coords=crystal.frac_coords + rng.integers(-3, 4, crystal.frac_coords.shape)
        )
        assert_same_atoms(graph, build_graph(other_images, CONFIG))
        order = rng.permutation(crystal.n_atoms)
        permuted = replace(
            crystal, atomic_numbers=crystal.atomic_numbers[order], frac_coords=crystal.frac_coords[order]
        )
        assert_same_atoms(graph, build_graph(permuted, CONFIG), order)


def test_a_supercell_changes_nothing() -> None:
    for index, crystal in enumerate(INVARIANCE):
        repeats = [(2, 1, 1), (1, 3, 1), (1, 2, 2)][index % 3]
        larger = build_graph(supercell(crystal, repeats), CONFIG)
        images = np.repeat(np.arange(crystal.n_atoms), np.prod(repeats))
        assert_same_atoms(build_graph(crystal, CONFIG), larger, images)


def test_other_cell_vectors_of_the_same_lattice_change_nothing() -> None:
    """A very skewed cell of the same crystal: another basis of the same lattice."""
    other_basis = np.array([[1, 0, 0], [2, 1, 0], [-1, 3, 1]])
    for crystal in INVARIANCE:
        coords = crystal.frac_coords @ np.linalg.inv(other_basis)
        skewed = replace(crystal, lattice=other_basis @ crystal.lattice, frac_coords=coords)
        assert_same_atoms(build_graph(crystal, CONFIG), build_graph(skewed, CONFIG))


def test_conventional_primitive_and_niggli_cells_have_the_same_neighbourhoods() -> None:
    smaller = 0
    for crystal in INVARIANCE:
        analyzer = SpacegroupAnalyzer(crystal_to_pymatgen(crystal))
        # All three come from the same refined structure: the posted one may break its symmetry by 0.01 Å.
        conventional = analyzer.get_conventional_standard_structure()
        primitive = analyzer.get_primitive_standard_structure()
        niggli = primitive.get_reduced_structure("niggli")
        smaller += len(primitive) < len(conventional)
        graphs = [build_graph(crystal_from_pymatgen(cell), CONFIG) for cell in (conventional, primitive, niggli)]
        assert_same_crystal(graphs[0], graphs[1])
        assert_same_crystal(graphs[1], graphs[2])
    assert smaller > 50


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_motion_and_any_order_change_nothing(data: st.DataObject) -> None:
    crystal = data.draw(st.sampled_from(INVARIANCE), label="crystal")
    component = st.floats(-1, 1, allow_subnormal=False)
    quaternion = data.draw(st.tuples(*[component] * 4).filter(lambda q: np.linalg.norm(q) > 1e-3), label="rotation")
    shift = data.draw(st.tuples(*[st.floats(-5, 5)] * 3), label="translation")
    order = np.array(data.draw(st.permutations(range(crystal.n_atoms)), label="order"))
    moved = replace(
        rotated(crystal, rotation_from(np.array(quaternion))),
        atomic_numbers=crystal.atomic_numbers[order],
        frac_coords=crystal.frac_coords[order] + np.array(shift),
    )
    assert_same_atoms(build_graph(crystal, CONFIG), build_graph(moved, CONFIG), order)


def refusal(crystal: Crystal, config: GraphConfig = CONFIG) -> StructureError:
    with pytest.raises(StructureError) as caught:
        build_graph(crystal, config)
    return caught.value


def test_an_atom_alone_in_a_box_is_too_sparse() -> None:
    error = refusal(Crystal(20 * np.eye(3), np.array([2]), np.zeros((1, 3))))
    assert error.code == "too_sparse"
    assert "site 0" in error.detail
    assert "8 Å" in error.detail


def test_the_lonely_atom_is_named() -> None:
    box = Crystal(30 * np.eye(3), np.array([1, 1, 2]), np.array([[0, 0, 0], [0.025, 0, 0], [0.5, 0.5, 0.5]]))
    assert "site 2" in refusal(box).detail


def test_too_many_edges_names_both_numbers() -> None:
    crystal = max(some_crystals(100), key=lambda one: one.n_atoms)
    edges = build_graph(crystal, CONFIG).n_edges
    assert build_graph(crystal, GraphConfig(max_edges=edges)).n_edges == edges
    error = refusal(crystal, GraphConfig(max_edges=edges - 1))
    assert error.code == "too_many_edges"
    assert str(edges) in error.detail
    assert str(edges - 1) in error.detail


@pytest.mark.parametrize(("numbers", "named"), [([11, 12], 12), ([0, 11], 0)])
def test_an_element_beyond_the_composition_vector_is_refused_by_name(numbers: list[int], named: int) -> None:
    two = replace(supercell(SODIUM, (2, 1, 1)), atomic_numbers=np.array(numbers))
    error = refusal(two, GraphConfig(max_atomic_number=11))
    assert error.code == "unknown_element"
    assert f"atomic number {named} " in error.detail
    assert build_graph(SODIUM, GraphConfig(max_atomic_number=11)).n_atoms == 1


def test_no_atoms_are_no_structure() -> None:
    empty = Crystal(4 * np.eye(3), np.zeros(0, dtype=np.int64), np.zeros((0, 3)))
    assert refusal(empty).code == "no_structure"


def test_the_constants_are_frozen_and_no_other_is_accepted() -> None:
    with pytest.raises(FrozenInstanceError):
        CONFIG.cutoff = 6.0  # type: ignore[misc]
    schema = TypeAdapter(GraphConfig)
    with pytest.raises(ValidationError, match="radius"):
        schema.validate_python({"radius": 6.0})
    for wrong in ({"cutoff": 0}, {"cutoff": float("nan")}, {"neighbours": 0}, {"shell_tolerance": -1}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            schema.validate_python(wrong)


def test_input_is_not_changed() -> None:
    for crystal in [SODIUM, *some_crystals(10)]:
        outside = replace(crystal, frac_coords=crystal.frac_coords - 2.5)
        before = outside.lattice.copy(), outside.atomic_numbers.copy(), outside.frac_coords.copy()
        build_graph(outside, CONFIG)
        np.testing.assert_array_equal(outside.lattice, before[0])
        np.testing.assert_array_equal(outside.atomic_numbers, before[1])
        np.testing.assert_array_equal(outside.frac_coords, before[2])


def test_the_same_crystal_gives_the_same_graph_to_the_bit() -> None:
    for crystal in some_crystals(10):
        one, two = build_graph(crystal, CONFIG), build_graph(crystal, CONFIG)
        assert one.distances.tobytes() == two.distances.tobytes()
        assert one.senders.tobytes() == two.senders.tobytes()
