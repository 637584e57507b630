"""JSON by kinds: what each document is, and what is right for it; statements in one document are compared."""

import json
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import ase
import numpy as np
import pytest
from ase.io.jsonio import encode
from hypothesis import given, settings
from hypothesis import strategies as some
from pymatgen.core.structure import Molecule

from deepergatgnn.errors import StructureError, StructureErrorCode
from deepergatgnn.structures import Crystal, crystal_from_arrays, crystal_to_pymatgen, read_structure
from deepergatgnn.structures.ignored import ATTACHED_ATOMS, OXIDATION_STATES
from tests.support.fixtures import some_crystals

A = 4.12
CUBE = [[A, 0, 0], [0, A, 0], [0, 0, A]]
SIDES = {"a": A, "b": A, "c": A, "alpha": 90, "beta": 90, "gamma": 90}
HEXAGON = {"a": 3.0, "b": 3.0, "c": 5.0, "alpha": 90, "beta": 90, "gamma": 120}
PYMATGEN: dict[str, Any] = {
    "@module": "pymatgen.core.structure",
    "@class": "Structure",
    "charge": 0,
    "lattice": {"matrix": CUBE, "pbc": [True, True, True], **SIDES, "volume": 69.93},
    "sites": [
        {"species": [{"element": "Cs", "occu": 1}], "abc": [0, 0, 0], "xyz": [0.0, 0.0, 0.0], "label": "Cs"},
        {"species": [{"element": "Cl", "occu": 1}], "abc": [0.5, 0.5, 0.5], "xyz": [2.06, 2.06, 2.06], "label": "Cl"},
    ],
}
MOVED = deepcopy(PYMATGEN)
MOVED["sites"][1] |= {"abc": [0.4, 0.5, 0.5], "xyz": [1.648, 2.06, 2.06]}
PLAIN: dict[str, Any] = {"lattice": CUBE, "species": ["Cs", "Cl"], "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]]}
CART = {"lattice": CUBE, "species": ["Cs", "Cl"], "cart_coords": [[0, 0, 0], [2.06, 2.06, 2.06]]}
OPTIMADE: dict[str, Any] = {
    "lattice_vectors": CUBE,
    "cartesian_site_positions": [[0, 0, 0], [2.06, 2.06, 2.06]],
    "species_at_sites": ["Cs", "Cl"],
    "species": [
        {"name": "Cs", "chemical_symbols": ["Cs"], "concentration": [1.0]},
        {"name": "Cl", "chemical_symbols": ["Cl"], "concentration": [1.0]},
    ],
    "nperiodic_dimensions": 3,
    "dimension_types": [1, 1, 1],
    "structure_features": [],
    "nsites": 2,
    "chemical_formula_reduced": "ClCs",
}
JARVIS: dict[str, Any] = {
    "lattice_mat": CUBE,
    "coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
    "elements": ["Cs ", "Cl"],
    "abc": [A, A, A],
    "angles": [90, 90, 90],
    "cartesian": False,
    "props": ["", ""],
}
ASE: dict[str, Any] = {
    "numbers": [55, 17],
    "positions": [[0, 0, 0], [2.06, 2.06, 2.06]],
    "cell": CUBE,
    "pbc": [True, True, True],
}
ENTRY = {"@class": "ComputedStructureEntry", "energy": -1.0, "parameters": {}, "structure": PYMATGEN}
SUMMARY = {
    "nsites": 2,
    "deprecated": False,
    "symmetry": {"number": 221},
    "volume": 69.93,
    "elements": ["Cl", "Cs"],
    "nelements": 2,
    "chemsys": "Cl-Cs",
    "composition": {"Cs": 2.0, "Cl": 2.0},
    "composition_reduced": {"Cs": 1, "Cl": 1},
    "formula_pretty": "CsCl",
    "formula_anonymous": "AB",
    "structure": PYMATGEN,
}
RESOURCE = {"id": "1", "type": "structures", "attributes": OPTIMADE}


def optimade(**changes: Any) -> dict[str, Any]:
    return OPTIMADE | changes


def species(*each: dict[str, Any]) -> dict[str, Any]:
    return optimade(species=list(each))


def cesium(**changes: Any) -> dict[str, Any]:
    """CsCl, of which the species Cs is changed."""
    return species({"name": "Cs", "chemical_symbols": ["Cs"], "concentration": [1.0]} | changes, OPTIMADE["species"][1])


def site(**changes: Any) -> dict[str, Any]:
    """CsCl of pymatgen, of which the second site is changed."""
    value = deepcopy(PYMATGEN)
    value["sites"][1] |= changes
    return value


def lattice(**changes: Any) -> dict[str, Any]:
    return PYMATGEN | {"lattice": PYMATGEN["lattice"] | changes}


def ordered(groups: list[list[int]], chances: list[float]) -> dict[str, Any]:
    return {
        "structure_features": ["assemblies"],
        "assemblies": [{"sites_in_groups": groups, "group_probabilities": chances}],
    }


WATER = optimade(
    cartesian_site_positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [-0.24, -0.93, 0]],
    species_at_sites=["O", "H", "H", "H"],
    species=[{"name": name, "chemical_symbols": [name], "concentration": [1.0]} for name in "OH"],
    nsites=4,
    chemical_formula_reduced="H2O",
)

READ: dict[str, tuple[dict[str, Any], str]] = {
    "a computed entry": (ENTRY, ""),
    "a computed entry with empty data": (ENTRY | {"data": {}}, ""),
    "a computed entry with data": ({"data": {"oxide_type": "None", "sites": 2}} | ENTRY, ""),
    "a computed entry whose data has an older structure": ({"data": {"structure": MOVED}} | ENTRY, ""),
    "a summary document": (SUMMARY, ""),
    "a summary document of another number of atoms": (SUMMARY | {"nsites": 4}, "nsites beside the structure is 4"),
    "a summary document of another volume": (SUMMARY | {"volume": 139.9}, "volume beside the structure is 139.9"),
    "a summary document of more hydrogen": (
        SUMMARY
        | {"formula_pretty": "CsClH2", "formula_anonymous": "ABC2", "composition": {}, "composition_reduced": None}
        | {"elements": ["Cl", "Cs", "H"], "nelements": 3, "chemsys": "Cl-Cs-H"},
        "formula_pretty counts hydrogen",
    ),
    "a document whose formula is none": (SUMMARY | {"formula": "cesium chloride", "composition": "unknown"}, ""),
    "plain arrays and their number of atoms": (PLAIN | {"nsites": 3}, "nsites beside the structure is 3"),
    "full occupancies among properties": (site(properties={"occupancy": 1.0}), ""),
    "symbols beside the numbers of ase": (ASE | {"symbols": ["Cs", "Cl"]}, ""),
    "scaled positions beside those of ase": (ASE | {"scaled_positions": PLAIN["frac_coords"]}, ""),
    "a response of summary documents": ({"data": [SUMMARY], "meta": {"total_doc": 1}}, ""),
    "an OPTIMADE resource": (RESOURCE, ""),
    "an OPTIMADE response": ({"data": RESOURCE, "meta": {}}, ""),
    "an OPTIMADE list response of one": ({"data": [RESOURCE], "meta": {"data_returned": 1}}, ""),
    "a document with the structure and the initial one": ({"initial_structure": MOVED, "structure": PYMATGEN}, ""),
    "a document with the structure and several initial ones": ({"initial_structures": [MOVED] * 2} | SUMMARY, ""),
    "an output": ({"output": {"structure": PYMATGEN, "energy": -1}}, ""),
    "a final structure": ({"final_structure": PYMATGEN}, ""),
    "the same structure twice": (
        {"input": {"structure": PYMATGEN}, "output": {"structure": PYMATGEN}},
        "input.structure",
    ),
    "an initial structure alone": ({"initial_structure": PYMATGEN}, "taken from initial_structure"),
    "a row of JARVIS": ({"jid": "JVASP-1", "atoms": JARVIS, "formation_energy": -1}, ""),
    "a slab of pymatgen": (PYMATGEN | {"@class": "Slab", "oriented_unit_cell": MOVED, "miller_index": [1, 0, 0]}, ""),
    "NaN in a site property": (site(properties={"magmom": float("nan")}), ""),
    "null in a site property": (site(properties={"magmom": None, "forces": [None] * 3}), ""),
    "no properties": (site(properties=None), ""),
    "NaN among plain properties": (PLAIN | {"magmoms": [float("nan"), 0.0]}, ""),
    "numbers as text": (PLAIN | {"frac_coords": [["0", "0.0", "0"], ["0.5", "5e-1", ".5"]]}, ""),
    "positions in another image": (site(xyz=[2.06 - A, 2.06, 2.06 + A]), ""),
    "positions with few digits": (site(abc=[0.5, 0.5, 0.5], xyz=[2.1, 2.06, 2.06]), ""),
    "xyz alone": (site(abc=None), ""),
    "parameters of a cell": (PYMATGEN | {"lattice": SIDES}, ""),
    "rounded parameters": (lattice(volume=70, a=4.1), ""),
    "an occupancy as text": (site(species=[{"element": "Cl", "occu": "1.0"}]), ""),
    "two charges of one element": (
        site(species=[{"element": "Cl", "oxidation_state": charge, "occu": 0.5} for charge in (-1, 1)]),
        OXIDATION_STATES,
    ),
    "Cartesian plain arrays": (CART, ""),
    "positions as pymatgen's constructor has them": (
        {"lattice": CUBE, "species": ["Cs", "Cl"], "coords": CART["cart_coords"], "coords_are_cartesian": True},
        "",
    ),
    "both kinds of plain positions": (PLAIN | CART, ""),
    "an occupancy of each atom that is full": (PLAIN | {"occupancies": [1, 1.0]}, ""),
    "a flag for all directions": (PLAIN | {"pbc": True}, ""),
    "flags as letters": (PLAIN | {"pbc": "T T T"}, ""),
    "flags as numbers": (PLAIN | {"pbc": [1, 1, 1]}, ""),
    "no flags": (PLAIN | {"pbc": None}, ""),
    "JARVIS": (JARVIS, ""),
    "JARVIS, Cartesian": (JARVIS | {"cartesian": True, "coords": CART["cart_coords"]}, ""),
    "a dictionary of ase": (ASE, ""),
    "JSON of ase": (json.loads(encode(ase.Atoms("CsCl", ASE["positions"], cell=CUBE, pbc=True).todict())), ""),
    "moments of ase": (ASE | {"initial_magmoms": [1.0, 0.0]}, "initial_magmoms"),
    "full occupancies that ase keeps": (ASE | {"info": {"occupancy": {"0": {"Cs": 1}, "1": {"Cl": 1.0}}}}, ""),
    "attached atoms": (cesium(attached=["H"], nattached=[2]), ATTACHED_ATOMS),
    "attached atoms in the formula": (
        cesium(attached=["H"], nattached=[2]) | {"chemical_formula_reduced": "ClCsH2"},
        ATTACHED_ATOMS,
    ),
    "attached atoms by the feature alone": (optimade(structure_features=["site_attachments"]), ATTACHED_ATOMS),
    "implicit atoms": (
        optimade(structure_features=["implicit_atoms"], chemical_formula_reduced="ClCsH2O", nelements=4),
        "implicit_atoms",
    ),
    "hydrogen in the formula alone": (
        optimade(
            chemical_formula_reduced="ClCsH2",
            elements=["Cl", "Cs", "H"],
            nelements=3,
            chemical_formula_anonymous="A2BC",
        ),
        "counts hydrogen atoms that have no position",
    ),
    "no species": (optimade(species=None), ""),
    "a whole cell of molecules": (optimade(site_coordinate_span="molecular_unit_cell"), ""),
    "an asymmetric unit that is the cell": (
        optimade(site_coordinate_span="asymmetric_unit", space_group_symmetry_operations_xyz=["x, y, z"]),
        "",
    ),
    "fractional positions": (
        optimade(cartesian_site_positions=None, fractional_site_positions=[[0, 0, 0], [0.5, 0.5, 0.5]]),
        "",
    ),
    "both positions": (optimade(fractional_site_positions=[[0, 0, 0], [0.5, 0.5, 0.5]]), ""),
    "all statements": (
        optimade(
            elements=["Cl", "Cs"],
            nelements=2,
            elements_ratios=[0.5, 0.5],
            chemical_formula_anonymous="AB",
            chemical_formula_hill="ClCs",
        ),
        "",
    ),
    "a group that is there": (
        optimade(**ordered([[0], [1]], [1.0, 0.0]) | {"assemblies": None, "structure_features": []}),
        "",
    ),
    "disorder of a species that no site has": (
        optimade(
            structure_features=["disorder"],
            species=[*OPTIMADE["species"], {"name": "M", "chemical_symbols": ["K", "Na"], "concentration": [0.5, 0.5]}],
        ),
        "",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_read(name: str) -> None:
    value, said = READ[name]
    for source in (value, json.dumps(value)):
        crystal = read_structure(source)
        assert crystal.symbols == ("Cs", "Cl")
        np.testing.assert_allclose(crystal.lattice, CUBE, atol=0.05)
        np.testing.assert_allclose(crystal.frac_coords % 1, PLAIN["frac_coords"], atol=0.02)
        assert len(crystal.warnings) == bool(said)
        assert all(said in warning for warning in crystal.warnings)


@pytest.mark.parametrize(
    ("value", "counts", "said"),
    [
        (WATER | ordered([[2], [3]], [1.0, 0.0]), {"O": 1, "H": 2}, "left out"),
        (
            species({"name": "Cs", "chemical_symbols": ["Rb"]}, {"name": "Cl", "chemical_symbols": ["Br"]}),
            {"Rb": 1, "Br": 1},
            "names",
        ),
        (cesium(chemical_symbols=["vacancy"]) | {"chemical_formula_reduced": "Cl"}, {"Cl": 1}, "site 1 is vacant"),
        (site(species=[{"element": "Cl", "occu": 0}]), {"Cs": 1}, "site 2 is vacant"),
    ],
)
def test_other_atoms_than_it_seems(value: dict[str, Any], counts: dict[str, int], said: str) -> None:
    crystal = read_structure(value)
    assert Counter(crystal.symbols) == counts
    [warning] = crystal.warnings
    assert said in warning


REFUSED: dict[str, tuple[StructureErrorCode, Any, str]] = {
    "a list of one": ("unreadable", json.dumps([PYMATGEN]), "list of 1: post one object"),
    "a list response of two": (
        "unreadable",
        {"data": [RESOURCE, RESOURCE | {"attributes": optimade(lattice_vectors=HEXAGON)}]},
        "2 structures, data[0].attributes, data[1].attributes",
    ),
    "a list response of none": ("no_structure", {"data": [], "meta": {}}, "data is empty"),
    "two structures": (
        "unreadable",
        {"initial_structure": MOVED, "final_structure": PYMATGEN},
        "initial_structure, final_structure",
    ),
    "input and output": (
        "unreadable",
        {"input": {"structure": MOVED}, "output": {"structure": PYMATGEN}},
        "input.structure, output.structure",
    ),
    "a primitive and a conventional cell": (
        "unreadable",
        {"primitive": MOVED, "conventional": PYMATGEN},
        "post one of them",
    ),
    "a text in an object": (
        "no_structure",
        {"structure": "data_x\n_cell_length_a 4\n"},
        "The key structure holds text",
    ),
    "a computed entry without structure": (
        "no_structure",
        {"@class": "ComputedEntry", "energy": -1, "data": {}},
        "ComputedEntry",
    ),
    "a molecule": (
        "no_structure",
        {"@class": "Molecule", "charge": 0, "sites": [{"species": [{"element": "O"}], "xyz": [0, 0, 0]}]},
        "molecule",
    ),
    "a molecule of pymatgen": ("no_structure", Molecule(["O"], [[0, 0, 0]]).as_dict(), "molecule"),
    "a site": (
        "no_structure",
        PYMATGEN["sites"][0] | {"@class": "PeriodicSite", "lattice": PYMATGEN["lattice"]},
        "PeriodicSite",
    ),
    "a lattice": ("no_structure", PYMATGEN["lattice"] | {"@class": "Lattice"}, "Lattice"),
    "a trajectory": (
        "no_structure",
        {"@class": "Trajectory", "lattice": [CUBE], "species": ["Cs"], "coords": [[[0, 0, 0]]]},
        "trajectory",
    ),
    "positions that do not say which": (
        "unreadable",
        {"lattice": CUBE, "species": ["Cs"], "coords": [[0, 0, 0]]},
        "frac_coords or cart_coords",
    ),
    **{
        f"a summary document with {key} {value}": ("unreadable", SUMMARY | {key: value}, f"The {key} is ")
        for key, value in (
            ("elements", ["Cl", "K"]),
            ("nelements", 3),
            ("chemsys", "Cl-K"),
            ("composition", {"K": 1, "Cl": 1}),
            ("composition_reduced", {"Cs": 1, "Cl": 3}),
            ("formula_pretty", "Cs(ClO4)2"),
            ("pretty_formula", "Cs2Cl"),
            ("formula_anonymous", "AB2"),
        )
    },
    "a row of JARVIS of another formula": ("unreadable", {"formula": "KCl", "atoms": JARVIS}, 'The formula is "KCl"'),
    "an entry of another composition": ("unreadable", ENTRY | {"composition": {"K": 1, "Cl": 1}}, "The composition"),
    "plain arrays of another formula": (
        "unreadable",
        PLAIN | {"formula": "KCl"},
        "the atoms of the structure are CsCl",
    ),
    "a slab by the document": ("no_structure", SUMMARY | {"pbc": [True, True, False]}, "[true, true, false]"),
    "a slab by the document's dimensions": ("no_structure", {"data": RESOURCE | {"nperiodic_dimensions": 2}}, "2 dim"),
    "a slab of OPTIMADE by pbc": ("no_structure", optimade(pbc="TTF"), "TTF"),
    "a slab as plain arrays by dimensions": ("no_structure", PLAIN | {"dimension_types": [1, 1, 0]}, "[1, 1, 0]"),
    "partial among site properties": ("disordered", PLAIN | {"site_properties": {"occupancy": [0.5, 1]}}, "50 % Cs"),
    "partial by another name": ("disordered", PLAIN | {"site_occupancies": [0.5, 1]}, "50 % Cs"),
    "partial among properties": ("disordered", site(properties={"occupancy": 0.5}), "Site 2 is 50 %"),
    "symbols and numbers of ase": ("unreadable", ASE | {"symbols": ["K", "Cl"]}, "K by symbols and 55 by numbers"),
    "chemical symbols of ase": ("unreadable", ASE | {"chemical_symbols": ["K", "Cl"]}, "K by symbols"),
    "scaled positions of ase": (
        "unreadable",
        ASE | {"scaled_positions": [[0, 0, 0], [0.5, 0.5, 0.4]]},
        "atom 2 are two positions",
    ),
    "a slab of pymatgen": ("no_structure", lattice(pbc=[True, True, False]), "[true, true, false]"),
    "a slab as plain arrays": ("no_structure", PLAIN | {"pbc": [True, True, False]}, "[true, true, false]"),
    "a slab in numbers": ("no_structure", CART | {"pbc": [1, 1, 0]}, "periodic"),
    "a slab in letters": ("no_structure", PLAIN | {"pbc": "TTF"}, "periodic"),
    "a slab in words": ("no_structure", PLAIN | {"pbc": "true true false"}, "periodic"),
    "a slab of ase": ("no_structure", ASE | {"pbc": [True, True, False]}, "periodic"),
    "a molecule of ase": ("no_structure", ASE | {"pbc": False}, "false"),
    "a flag that is none": ("unreadable", PLAIN | {"pbc": "periodic"}, "periodic"),
    "two flags": ("unreadable", PLAIN | {"pbc": [True, True]}, "[true, true]"),
    "abc and xyz": ("unreadable", site(xyz=[1.0, 2.06, 2.06]), "abc and xyz of site 2 are two positions, 1.06 Å apart"),
    "matrix and length": ("bad_cell", lattice(a=4.21), "a is 4.21"),
    "matrix and angle": ("bad_cell", lattice(gamma=120), "gamma is 120"),
    "matrix and volume": ("bad_cell", lattice(volume=139.9), "volume is 139.9"),
    "a plain matrix and its volume": (
        "bad_cell",
        PLAIN | {"lattice": {"matrix": CUBE, "volume": 100}},
        "volume is 100",
    ),
    "JARVIS and its lengths": ("bad_cell", JARVIS | {"abc": [A, A, 2 * A]}, "c is 8.24"),
    "fractional and Cartesian": (
        "unreadable",
        PLAIN | {"cart_coords": [[0, 0, 0], [2.06, 2.06, 1.0]]},
        "atom 2 are two positions",
    ),
    "Cartesian in a cell without directions": ("bad_cell", CART | {"lattice": HEXAGON}, "directions"),
    "xyz in a cell without directions": ("bad_cell", site(abc=None) | {"lattice": HEXAGON}, "directions"),
    "half an atom": ("disordered", site(species=[{"element": "Cl", "occu": 0.5}]), "50 % Cl"),
    "half an atom in text": ("disordered", site(species=[{"element": "Cl", "occu": "0.5"}]), "50 % Cl"),
    "an occupancy that is no number": ("unreadable", site(species=[{"element": "Cl", "occu": "1/2"}]), '"1/2"'),
    "a true occupancy": ("unreadable", site(species=[{"element": "Cl", "occu": True}]), "true"),
    "no occupancy": ("unreadable", site(species=[{"element": "Cl", "occu": None}]), "null"),
    "an empty site": ("unknown_element", site(species=[]), "site 2 has no species"),
    "a dummy": ("unknown_element", site(species=[{"element": "X0+", "occu": 1}]), "X0+"),
    "partial plain atoms": ("disordered", PLAIN | {"occupancies": [1, 0.5]}, "50 % Cl"),
    "partial atoms of ase": (
        "disordered",
        ASE | {"info": {"occupancy": {"0": {"Cs": 0.5, "K": 0.5}}}},
        "50 % Cs, 50 % K",
    ),
    "a coordinate that is true": (
        "bad_cell",
        PLAIN | {"frac_coords": [[0, 0, 0], [True, 0, 0]]},
        "atom 2 in frac_coords is true",
    ),
    "a coordinate that is null": ("bad_cell", PLAIN | {"frac_coords": [[0, 0, 0], [None, 0, 0]]}, "null"),
    "a coordinate that is NaN": ("bad_cell", PLAIN | {"frac_coords": [[0, 0, 0], [float("nan"), 0, 0]]}, "atom 2"),
    "a coordinate with a comma": ("unreadable", PLAIN | {"frac_coords": [[0, 0, 0], ["0,5", 0, 0]]}, "0,5"),
    "a coordinate too few": ("unreadable", PLAIN | {"frac_coords": [[0, 0, 0], [0.5, 0.5]]}, "[0.5, 0.5]"),
    "a site's coordinate too many": ("unreadable", site(abc=[0, 0, 0, 0]), "abc of site 2"),
    "no position": ("unreadable", site(abc=None, xyz=None), "site 2 has neither abc nor xyz"),
    "an atom too few": ("unreadable", PLAIN | {"species": ["Cs"]}, "1 species and 2 frac_coords"),
    "a lattice vector too few": ("bad_cell", PLAIN | {"lattice": CUBE[:2]}, "2 rows"),
    "a lattice with true in it": ("bad_cell", PLAIN | {"lattice": [[True, 0, 0], [0, 4, 0], [0, 0, 4]]}, "true"),
    "an atomic number that is none": ("unknown_element", ASE | {"numbers": [55, True]}, "true"),
    "an atomic number of a fraction": ("unknown_element", ASE | {"numbers": [55, 17.5]}, "17.5"),
    "a key twice": (
        "unreadable",
        '{"frac_coords": [[0, 0, 0]], "lattice": 1, "frac_coords": [[0.5, 0, 0]]}',
        "'frac_coords' is given twice",
    ),
    "a key twice in a site": (
        "unreadable",
        json.dumps(PYMATGEN).replace('"label": "Cl"', '"label": "Cl", "label": "Br"'),
        "'label' is given twice",
    ),
    "assemblies": ("disordered", WATER | ordered([[2], [3]], [0.5, 0.5]), "0.5, 0.5"),
    "an assembly of one group": ("disordered", optimade(**ordered([[1]], [0.5])), "0.5"),
    "an assembly twice sure": ("disordered", WATER | ordered([[2], [3]], [1, 1]), "1, 1"),
    "an assembly of no site": ("unreadable", WATER | ordered([[7], [3]], [1, 0]), "7"),
    "an assembly without a chance": ("unreadable", WATER | ordered([[2], [3]], [1]), "2 groups and 1"),
    "assemblies that are not listed": ("disordered", optimade(structure_features=["assemblies"]), "none are listed"),
    "disorder that is not listed": ("disordered", optimade(structure_features=["disorder"]), "say disorder"),
    "unknown positions": ("no_structure", optimade(structure_features=["unknown_positions"]), "unknown_positions"),
    "a null position": ("no_structure", optimade(cartesian_site_positions=[[0, 0, 0], [None] * 3]), "site 2 is null"),
    "a position that is null": ("no_structure", optimade(cartesian_site_positions=[[0, 0, 0], None]), "site 2 is null"),
    "no position is known": (
        "no_structure",
        optimade(cartesian_site_positions=None),
        "cartesian_site_positions of the structure is missing",
    ),
    "fundamental domain": (
        "no_structure",
        optimade(site_coordinate_span="fundamental_domain", space_group_symmetry_operations_xyz=["x,y,z", "-x,-y,-z"]),
        "fundamental_domain",
    ),
    "asymmetric unit": ("no_structure", optimade(site_coordinate_span="asymmetric_unit"), "asymmetric_unit"),
    "molecular entities": (
        "no_structure",
        optimade(site_coordinate_span="molecular_entities", space_group_symmetry_operations_xyz=["x,y,z"]),
        "molecular_entities",
    ),
    "two dimensions": ("no_structure", optimade(nperiodic_dimensions=2), "2 dimensions"),
    "a dimension that does not repeat": ("no_structure", optimade(dimension_types=[1, 1, 0]), "[1, 1, 0]"),
    "a partial species": ("disordered", cesium(concentration=[0.9]), "90 % Cs"),
    "a species and a vacancy": (
        "disordered",
        cesium(chemical_symbols=["Cs", "vacancy"], concentration=[0.5, 0.5]),
        "50 % vacant",
    ),
    "a mixture without shares": ("disordered", cesium(chemical_symbols=["Cs", "K"], concentration=None), "Cs"),
    "a species that is not listed": ("unreadable", species(OPTIMADE["species"][0]), "'Cl', and species has Cs"),
    "two species of one name": (
        "unreadable",
        species(*OPTIMADE["species"], {"name": "Cs", "chemical_symbols": ["K"]}),
        "'Cs'",
    ),
    "no element": ("unknown_element", cesium(chemical_symbols=["X"]), "X"),
    "nsites": ("unreadable", optimade(nsites=4), "nsites 4"),
    "a site without species": ("unreadable", optimade(species_at_sites=["Cs"]), "species_at_sites 1"),
    "formula": ("unreadable", optimade(chemical_formula_reduced="Cl2Cs"), '"Cl2Cs", and the sites are CsCl'),
    "a formula of others": ("unreadable", optimade(chemical_formula_reduced="ClK"), '"ClK"'),
    "Hill's formula": ("unreadable", optimade(chemical_formula_hill="Cl3Cs"), '"Cl3Cs"'),
    "anonymous formula": ("unreadable", optimade(chemical_formula_anonymous="A2B"), '"A2B"'),
    "elements": ("unreadable", optimade(elements=["Cl", "K"]), '["Cl", "K"]'),
    "nelements": ("unreadable", optimade(nelements=3), "nelements is 3"),
    "shares of elements": ("unreadable", optimade(elements=["Cl", "Cs"], elements_ratios=[0.75, 0.25]), "[0.75, 0.25]"),
    "an implicit formula without a site's element": (
        "unreadable",
        optimade(structure_features=["implicit_atoms"], chemical_formula_reduced="ClH2"),
        '"ClH2"',
    ),
    "two positions of OPTIMADE": (
        "unreadable",
        optimade(fractional_site_positions=[[0, 0, 0], [0.5, 0.5, 0.4]]),
        "site 2 are two positions",
    ),
    "many objects": ("unreadable", '{"data": [' + "{}," * 200_000 + "{}]}", "100,000 objects"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    code, source, said = REFUSED[name]
    for each in (source,) if isinstance(source, str) else (source, json.dumps(source)):
        with pytest.raises(StructureError) as caught:
            read_structure(each)
        assert (caught.value.code, said in caught.value.detail) == (code, True), caught.value.detail


def test_an_equal_key_twice_is_no_contradiction() -> None:
    text = json.dumps(PLAIN).replace('"species"', '"lattice": ' + json.dumps(CUBE) + ', "species"')
    assert read_structure(text).symbols == ("Cs", "Cl")


def optimade_of(crystal: Crystal) -> dict[str, Any]:
    counts = Counter(crystal.symbols)
    divisor = np.gcd.reduce(list(counts.values()))
    elements = sorted(counts)
    return {
        "lattice_vectors": crystal.lattice.tolist(),
        "cartesian_site_positions": (crystal.frac_coords @ crystal.lattice).tolist(),
        "fractional_site_positions": crystal.frac_coords.tolist(),
        "species_at_sites": list(crystal.symbols),
        "species": [{"name": symbol, "chemical_symbols": [symbol], "concentration": [1.0]} for symbol in elements],
        "nsites": crystal.n_atoms,
        "elements": elements,
        "nelements": len(elements),
        "elements_ratios": [round(counts[symbol] / crystal.n_atoms, 3) for symbol in elements],
        "chemical_formula_reduced": "".join(f"{symbol}{counts[symbol] // divisor}" for symbol in elements),
        "structure_features": [],
        "dimension_types": [1, 1, 1],
    }


def ase_of(crystal: Crystal) -> Any:
    atoms = ase.Atoms(crystal.symbols, cell=crystal.lattice, scaled_positions=crystal.frac_coords, pbc=True)
    return json.loads(encode(atoms.todict()))


FORMS: dict[str, Callable[[Crystal], Any]] = {
    "pymatgen": lambda crystal: crystal_to_pymatgen(crystal).as_dict(),
    "pymatgen, short": lambda crystal: crystal_to_pymatgen(crystal).as_dict(verbosity=0),
    "OPTIMADE": optimade_of,
    "plain": lambda crystal: {
        "lattice": crystal.lattice.tolist(),
        "species": list(crystal.symbols),
        "frac_coords": crystal.frac_coords.tolist(),
    },
    "plain, Cartesian": lambda crystal: {
        "lattice": {"matrix": crystal.lattice.tolist()},
        "species": list(crystal.symbols),
        "cart_coords": (crystal.frac_coords @ crystal.lattice).tolist(),
    },
    "JARVIS": lambda crystal: {
        "lattice_mat": crystal.lattice.tolist(),
        "elements": list(crystal.symbols),
        "coords": crystal.frac_coords.tolist(),
        "abc": np.linalg.norm(crystal.lattice, axis=1).tolist(),
        "cartesian": False,
    },
    "ase": ase_of,
    "ase, arrays": lambda crystal: ase.Atoms(
        crystal.symbols, cell=crystal.lattice, scaled_positions=crystal.frac_coords, pbc=True
    ).todict(),
}
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "bare": lambda value: value,
    "entry": lambda value: {"energy": -1.0, "data": {}, "structure": value},
    "list response": lambda value: {"data": [{"id": "1", "attributes": value}], "meta": {}},
}


@settings(deadline=None)  # the first example reads the crystals
@given(
    index=some.integers(0, 39),
    form=some.sampled_from(sorted(FORMS)),
    wrapper=some.sampled_from(sorted(WRAPPERS)),
    shift=some.integers(-2, 2),
)
def test_real_crystals_come_back(index: int, form: str, wrapper: str, shift: int) -> None:
    crystal = some_crystals(40)[index]
    moved = crystal_from_arrays(crystal.lattice, crystal.symbols, crystal.frac_coords + shift)
    back = read_structure(WRAPPERS[wrapper](FORMS[form](moved)))
    assert back.symbols == crystal.symbols
    assert back.warnings == ()
    np.testing.assert_allclose(back.lattice, crystal.lattice, atol=1e-9)
    np.testing.assert_allclose(back.frac_coords, crystal.frac_coords + shift, atol=1e-8)
