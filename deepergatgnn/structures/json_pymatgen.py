"""pymatgen's `Structure.as_dict()`, read field by field.

`Structure.from_dict` would decode site properties by importing the classes that the text names.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.checks import check_lattice
from deepergatgnn.structures.crystal import Crystal, crystal_from_arrays, disordered, too_many_atoms
from deepergatgnn.structures.ignored import CHARGE, OXIDATION_STATES, properties_warning, telling_properties
from deepergatgnn.structures.json_values import (
    OCCUPANCY,
    Array,
    cell_of,
    check_periodic,
    check_same_positions,
    fractional,
    list_of,
    number,
    rows_of_three,
    shown,
    sole_species,
)
from deepergatgnn.structures.limits import StructureLimits


def read_pymatgen(value: Mapping[str, Any], limits: StructureLimits) -> Crystal:
    """Read `lattice` and `sites`.

    Raises:
        StructureError: `no_structure` for a molecule or a slab that is not periodic in all three directions,
            `disordered`, `unreadable` for positions given twice that differ, and as `read_structure`.
    """
    sites = list_of(value["sites"], "sites")
    if len(sites) > limits.max_atoms:
        raise too_many_atoms(len(sites), limits)
    lattice = value.get("lattice")
    if lattice is None:
        raise StructureError("no_structure", "The structure has no lattice, so it is a molecule: post a crystal.")
    if isinstance(lattice, Mapping):
        check_periodic(lattice.get("pbc"), "pbc of the lattice")
    check_periodic(value.get("pbc"))
    cell, oriented = cell_of(lattice, "lattice")
    check_lattice(cell, limits)  # before it is inverted
    said = [CHARGE] if value.get("charge") else []
    symbols, kept, properties = [], [], list[str]()
    for index, site in enumerate(sites):
        if not isinstance(site, Mapping):
            raise StructureError(
                "unreadable", f"The site {index + 1} is {shown(site)}, which is no object: post species and abc."
            )
        symbol = _symbol(site, index + 1, said)
        _check_occupancy(site, index + 1)
        if symbol is not None:
            symbols.append(symbol)
            kept.append(index)
        properties += _properties(site, said)
    said += properties_warning(properties)
    coords = _positions(sites, cell, oriented=oriented)[kept]
    return crystal_from_arrays(cell, symbols, coords, warnings=said, limits=limits)


def _symbol(site: Mapping[str, Any], index: int, said: list[str]) -> str | None:
    shares = []
    for one in list_of(site.get("species"), f"species of site {index}"):
        if not isinstance(one, Mapping):
            raise StructureError(
                "unreadable", f"A species of site {index} is {shown(one)}, which is no object: post element and occu."
            )
        occu = number(one["occu"], f"occu of site {index}") if "occu" in one else 1.0
        shares.append((str(one.get("element"))[:20], occu))
    return sole_species(shares, f"site {index}", said)


def _check_occupancy(site: Mapping[str, Any], index: int) -> None:
    """Refuse an occupancy among the properties."""
    properties = site.get("properties")
    for key, share in properties.items() if isinstance(properties, Mapping) else ():
        if OCCUPANCY.fullmatch(str(key)) and share is not None and number(share, f"{key} of site {index}") != 1:
            raise disordered(f"site {index}", [("its element", number(share, str(key)))])


def _properties(site: Mapping[str, Any], said: list[str]) -> list[str]:
    """Return the names of other information of a site; oxidation states are added to the warnings."""
    names = telling_properties(site["properties"]) if isinstance(site.get("properties"), Mapping) else []
    names = [name for name in names if not OCCUPANCY.fullmatch(name)]
    for species in site["species"]:
        if species.get("oxidation_state") and OXIDATION_STATES not in said:
            said.append(OXIDATION_STATES)
        if species.get("spin"):
            names.append("spin")
    return names


def _positions(sites: Any, cell: Array, *, oriented: bool) -> Array:
    """Return the fractional positions of the sites, from abc or xyz; if both are given they must agree."""
    by_abc = [index for index, site in enumerate(sites) if site.get("abc") is not None]
    by_xyz = [index for index, site in enumerate(sites) if site.get("xyz") is not None]
    if lacking := sorted(set(range(len(sites))).difference(by_abc, by_xyz)):
        raise StructureError("unreadable", f"The site {lacking[0] + 1} has neither abc nor xyz: give its position.")
    abc = _rows(sites, by_abc, "abc")
    if len(by_abc) == len(sites) and not (by_xyz and oriented):
        return abc  # the axes of xyz are unknown, and it is not needed
    xyz = fractional(cell, _rows(sites, by_xyz, "xyz"), "xyz of the sites", oriented=oriented)
    coords = np.empty((len(sites), 3))
    coords[by_xyz] = xyz
    both = sorted(set(by_abc).intersection(by_xyz)) if len(by_abc) < len(sites) else by_xyz
    twice = abc if len(both) == len(by_abc) else abc[[by_abc.index(index) for index in both]]
    check_same_positions(cell, twice, coords[both], ("abc", "xyz"), lambda row: f"site {both[row] + 1}")
    coords[by_abc] = abc
    return coords


def _rows(sites: Any, indices: list[int], key: str) -> Array:
    return rows_of_three([sites[index][key] for index in indices], key, lambda row: f"{key} of site {indices[row] + 1}")
