"""An OPTIMADE structure: what it states of its atoms besides listing them is compared with the list.

The specification (1.2, and the properties that 1.3 adds) is at https://github.com/Materials-Consortia/OPTIMADE.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.checks import check_lattice
from deepergatgnn.structures.crystal import Crystal, crystal_from_arrays, disordered, too_many_atoms
from deepergatgnn.structures.ignored import ATTACHED_ATOMS
from deepergatgnn.structures.json_statements import check_statements
from deepergatgnn.structures.json_values import (
    Array,
    cell_of,
    check_same_positions,
    fractional,
    list_of,
    number,
    rows_of_three,
    shown,
    sole_species,
)
from deepergatgnn.structures.limits import StructureLimits

_WHOLE_CELL: Final = frozenset({"unit_cell", "molecular_unit_cell"})
_SURE: Final = 1e-3  # how far from 0 or 1 the probability of a group may be by rounding
_POSITIONS: Final = ("cartesian_site_positions", "fractional_site_positions")
IMPLICIT_ATOMS: Final = "The file says that it has atoms without a position (implicit_atoms); they are missing here."


@dataclass
class _Species:
    """Occupant of a site.

    Attributes:
        shares: symbol and concentration of each occupant.
        attached: atoms that belong to it and have no position, by symbol.
    """

    shares: list[tuple[str, float]]
    attached: Counter[str] = field(default_factory=Counter)


def read_optimade(value: Mapping[str, Any], limits: StructureLimits) -> Crystal:
    """Read the attributes of a structure.

    Raises:
        StructureError: `no_structure` for what is not periodic in three directions or does not list the whole cell,
            `disordered` for species or assemblies that share a place, `unreadable` for statements that contradict
            each other, and as `read_structure`.
    """
    names = _names(value, limits)
    check_whole_crystal(value)
    features = _features(value)
    if value.get("lattice_vectors") is None:
        raise StructureError("no_structure", "The structure has no lattice_vectors: post a crystal.")
    cell, _ = cell_of(value["lattice_vectors"], "lattice_vectors")
    check_lattice(cell, limits)  # before it is inverted
    coords = _coords(cell, value)
    species = _species(value.get("species"), names)
    _check_declared_disorder(features, species)
    said: list[str] = []
    absent = _absent(value.get("assemblies"), len(names), features, said)
    symbols = [
        None if index in absent else sole_species(_of_site(species, name, index).shares, f"site {index + 1}", said)
        for index, name in enumerate(names)
    ]
    kept = [index for index, symbol in enumerate(symbols) if symbol is not None]
    attached = sum((species[names[index]].attached for index in kept), Counter[str]())
    if attached or "site_attachments" in features:
        said.append(ATTACHED_ATOMS)
    if "implicit_atoms" in features:
        said.append(IMPLICIT_ATOMS)
    occupied = [symbol for symbol in symbols if symbol is not None]
    crystal = crystal_from_arrays(cell, occupied, coords[kept], warnings=said, limits=limits)
    found = check_statements(value, crystal, attached, names, implicit="implicit_atoms" in features)
    return replace(crystal, warnings=(*crystal.warnings, *found)) if found else crystal


def _names(value: Mapping[str, Any], limits: StructureLimits) -> list[str]:
    """Return the species at the sites, as many as positions."""
    key = next((key for key in _POSITIONS if value.get(key) is not None), _POSITIONS[0])
    positions = list_of(value.get(key), key, "no_structure")
    sites = list_of(value.get("species_at_sites"), "species_at_sites")
    if max(len(positions), len(sites)) > limits.max_atoms:
        raise too_many_atoms(max(len(positions), len(sites)), limits)
    for stated, what in ((len(sites), "species_at_sites"), (value.get("nsites"), "nsites")):
        if stated is not None and stated != len(positions):
            raise StructureError(
                "unreadable",
                f"The {key} are {len(positions)}, and the {what} {shown(stated)}: correct the one that is wrong.",
            )
    return [str(name)[:40] for name in sites]


def check_whole_crystal(value: Mapping[str, Any]) -> None:
    """Refuse structures that are periodic in fewer directions, or list only a part of the cell.

    Args:
        value: the attributes, or an object around them or around another structure.

    Raises:
        StructureError: `no_structure`.
    """
    periodic, types = value.get("nperiodic_dimensions"), value.get("dimension_types")
    if periodic not in (3, None) or (isinstance(types, Sequence) and list(types) not in ([1, 1, 1], [])):
        raise StructureError(
            "no_structure",
            f"Periodic in {str(3 if periodic is None else periodic)[:20]} dimensions, types {str(types)[:20]}: "
            "post a crystal in 3.",
        )
    span = value.get("site_coordinate_span")
    operators = value.get("space_group_symmetry_operations_xyz")
    is_p1 = isinstance(operators, list) and [re.sub(r"[\s+]", "", str(each)) for each in operators] == ["x,y,z"]
    if span is not None and span not in _WHOLE_CELL and not (is_p1 and "molecular" not in str(span)):
        raise StructureError(
            "no_structure",
            f"The site_coordinate_span is {shown(span)}, so a part of the cell is listed: post all atoms of the unit "
            "cell, and unit_cell there.",
        )


def _features(value: Mapping[str, Any]) -> frozenset[str]:
    given = value.get("structure_features")
    features = frozenset(map(str, list_of(given, "structure_features"))) if given is not None else frozenset[str]()
    if "unknown_positions" in features:
        raise StructureError(
            "no_structure", "The structure_features say unknown_positions: post the position of every atom."
        )
    return features


def _coords(cell: Array, value: Mapping[str, Any]) -> Array:
    """Return the fractional positions; if both keys are given they must agree."""
    given = []
    for key in _POSITIONS:
        if value.get(key) is None:
            continue
        rows = list_of(value[key], key)
        for index, row in enumerate(rows, start=1):
            if row is None or (isinstance(row, list | tuple) and None in row):
                raise StructureError(
                    "no_structure", f"The position of site {index} is null in {key}: post the position of every atom."
                )
        read = rows_of_three(rows, key, lambda index: f"position of site {index + 1}")
        given.append(fractional(cell, read, key, oriented=True) if key == _POSITIONS[0] else read)
    if len(given) > 1:
        check_same_positions(cell, given[0], given[1], _POSITIONS, lambda index: f"site {index + 1}")
    return given[0]


def _check_declared_disorder(features: frozenset[str], species: Mapping[str, _Species]) -> None:
    if "disorder" in features and all(len(one.shares) == 1 for one in species.values()):
        raise StructureError(
            "disordered",
            "The structure_features say disorder, and no species has a second occupant: post an ordered cell, or "
            "remove the feature.",
        )


def _of_site(species: Mapping[str, _Species], name: str, index: int) -> _Species:
    if name in species:
        return species[name]
    raise StructureError(
        "unreadable",
        f"The site {index + 1} is of the species {name!r}, and species has {', '.join(list(species)[:5])}: add it "
        "there.",
    )


def _species(entries: Any, names: Sequence[str]) -> dict[str, _Species]:
    """Return the occupants of the sites by name of the species; without `species` each name is a symbol."""
    if entries is None or len(list_of(entries, "species")) == 0:
        return {name: _Species([(name, 1.0)]) for name in names}
    found: dict[str, _Species] = {}
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise StructureError(
                "unreadable",
                f"An entry of species is {shown(entry)}, which is no object: post name and chemical_symbols.",
            )
        name = str(entry.get("name"))[:40]
        read = _one_species(entry, name)
        if found.setdefault(name, read) != read:
            raise StructureError("unreadable", f"Two species have the name {name!r}: name one of them differently.")
    return found


def _one_species(entry: Mapping[str, Any], name: str) -> _Species:
    symbols = [str(symbol)[:20] for symbol in list_of(entry.get("chemical_symbols"), f"chemical_symbols of {name}")]
    given = entry.get("concentration")
    if given is None and len(symbols) > 1:
        raise disordered(f"species {name}", [(symbol, math.nan) for symbol in symbols])
    shares = [1.0] * len(symbols) if given is None else list_of(given, f"concentration of {name}")
    if len(shares) != len(symbols):
        raise StructureError(
            "unreadable",
            f"The species {name} has {len(symbols)} chemical_symbols and {len(shares)} concentrations: give one each.",
        )
    occupants = [(s, number(share, f"concentration of {name}")) for s, share in zip(symbols, shares, strict=True)]
    attached = Counter[str]()
    if entry.get("attached"):
        atoms = list_of(entry["attached"], f"attached of {name}")
        counts = list_of(entry["nattached"], f"nattached of {name}") if entry.get("nattached") else [1] * len(atoms)
        for atom, count in zip(atoms, counts, strict=False):
            attached[str(atom)] += int(number(count, f"nattached of {name}"))
    return _Species(occupants, attached)


def _absent(assemblies: Any, n_sites: int, features: frozenset[str], said: list[str]) -> frozenset[int]:
    """Return the sites of groups with probability 0; groups of other probabilities are disorder."""
    if not assemblies:
        if "assemblies" in features:
            raise StructureError(
                "disordered",
                "The structure_features say assemblies, and none are listed: post an ordered cell, or list them.",
            )
        return frozenset()
    absent, present = set[int](), set[int]()
    for place, assembly in enumerate(list_of(assemblies, "assemblies"), start=1):
        if not isinstance(assembly, Mapping):
            raise StructureError("unreadable", f"The assembly {place} is {shown(assembly)}: give an object.")
        groups = list_of(assembly.get("sites_in_groups"), f"sites_in_groups of assembly {place}")
        chances = list_of(assembly.get("group_probabilities"), f"group_probabilities of assembly {place}")
        if len(groups) != len(chances):
            raise StructureError(
                "unreadable",
                f"The assembly {place} has {len(groups)} groups and {len(chances)} group_probabilities: give one each.",
            )
        read = [number(chance, f"group_probabilities of assembly {place}") for chance in chances]
        if not all(min(abs(chance), abs(chance - 1)) <= _SURE for chance in read) or sum(read) > 1 + _SURE:
            raise StructureError(
                "disordered",
                f"The groups of assembly {place} are there with the probabilities "
                f"{', '.join(f'{chance:.4g}' for chance in read[:5])}: post an ordered cell, with one group.",
            )
        for group, chance in zip(groups, read, strict=True):
            sites = _indices(group, n_sites, place)
            (present if chance > 1 - _SURE else absent).update(sites)
    if both := sorted(absent & present):
        raise StructureError(
            "disordered", f"The site {both[0] + 1} is in a group that is there and in one that is not: correct them."
        )
    if absent:
        said.append(f"Sites of groups with the probability 0 are left out: {len(absent)} of {n_sites}.")
    return frozenset(absent)


def _indices(group: Any, n_sites: int, place: int) -> list[int]:
    indices = list(list_of(group, f"sites_in_groups of assembly {place}"))
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < n_sites:
            raise StructureError(
                "unreadable", f"The assembly {place} has the site {shown(index)}: give 0 to {n_sites - 1}."
            )
    return indices
