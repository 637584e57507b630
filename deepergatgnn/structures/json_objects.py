"""JSON structures: pymatgen's, OPTIMADE's, and plain arrays.

They are read field by field. `Structure.from_dict` would decode site properties by importing the classes that the
text names, and so do what the text says.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.lattice import Lattice

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.checks import check_lattice
from deepergatgnn.structures.crystal import Crystal, crystal_from_arrays, disordered, too_many_atoms
from deepergatgnn.structures.ignored import (
    ATTACHED_ATOMS,
    CHARGE,
    OXIDATION_STATES,
    properties_warning,
    telling_properties,
)
from deepergatgnn.structures.limits import StructureLimits

_CELL_PARAMETERS: Final = ("a", "b", "c", "alpha", "beta", "gamma")
_PLAIN_KEYS: Final = frozenset({"lattice", "species", "frac_coords", "cart_coords", "labels", "pbc"})
_FULL: Final = 1e-3  # how far from 1 an occupancy may be by rounding


def read_json(text: str, limits: StructureLimits) -> Crystal:
    """Read a JSON text; see `read_object`."""
    try:
        value = json.loads(text)
    except ValueError as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise StructureError("unreadable", f"The text is not valid JSON{where}: post one object.") from error
    if not isinstance(value, Mapping):
        raise StructureError(
            "unreadable", f"The JSON is a {type(value).__name__}: post one object, not a list of them."
        )
    return read_object(value, limits)


def read_object(value: Mapping[str, Any], limits: StructureLimits) -> Crystal:
    """Read an object by the keys that it has.

    Args:
        value: `Structure.as_dict()`, an OPTIMADE response, resource or its attributes, or plain arrays.
        limits: bounds that the structure must keep.

    Raises:
        StructureError: `no_structure` if it has the keys of none of them, and as `read_structure`.
    """
    if "sites" in value:
        return _read_pymatgen(value, limits)
    if "frac_coords" in value:
        return _read_plain(value, limits)
    if "cartesian_site_positions" in value or "lattice_vectors" in value:
        return _read_optimade(value, limits)
    for key in ("data", "attributes", "structure"):
        if isinstance(inner := value.get(key), Mapping) and inner is not value:
            return read_object(inner, limits)
    keys = ", ".join(str(key)[:30] for key in list(value)[:5]) or "none"
    raise StructureError(
        "no_structure",
        f"The object has the keys {keys}: post lattice, species and frac_coords, a pymatgen or an OPTIMADE structure.",
    )


def _read_plain(value: Mapping[str, Any], limits: StructureLimits) -> Crystal:
    lattice = value.get("lattice")
    if isinstance(lattice, Mapping):
        lattice = _pymatgen_lattice(lattice)
    species = _list(value.get("species"), "species")
    # What has an entry for each atom is said of the atoms.
    others = {key: each for key, each in value.items() if key not in _PLAIN_KEYS and _is_for_each(each, len(species))}
    if isinstance(properties := value.get("site_properties"), Mapping):
        others |= properties
    said = [*([CHARGE] if value.get("charge") else []), *properties_warning(telling_properties(others))]
    return crystal_from_arrays(lattice, species, value["frac_coords"], warnings=said, limits=limits)


def _read_pymatgen(value: Mapping[str, Any], limits: StructureLimits) -> Crystal:
    sites = _list(value["sites"], "sites")
    if len(sites) > limits.max_atoms:
        raise too_many_atoms(len(sites), limits)
    if not isinstance(lattice := value.get("lattice"), Mapping):
        raise StructureError("no_structure", "The structure has no lattice, so it is a molecule: post a crystal.")
    if not all(lattice.get("pbc", (True, True, True))):
        raise StructureError("no_structure", "The lattice is not periodic in all three directions: post a crystal.")
    cell = _pymatgen_lattice(lattice)
    check_lattice(cell, limits)  # before it is inverted
    said = [CHARGE] if value.get("charge") else []
    symbols, coords, properties = [], [], list[str]()
    for index, site in enumerate(sites, start=1):
        if not isinstance(site, Mapping):
            raise StructureError("unreadable", f"Site {index} is not an object: post species and abc.")
        symbols.append(_pymatgen_symbol(site, index))
        properties += _site_properties(site, said)
        if "abc" in site:
            coords.append(_vector(site["abc"], f"abc of site {index}"))
        else:
            coords.append(_vector(site.get("xyz"), f"abc of site {index}") @ np.linalg.inv(cell))
    said += properties_warning(properties)
    return crystal_from_arrays(cell, symbols, np.array(coords).reshape(-1, 3), warnings=said, limits=limits)


def _pymatgen_lattice(lattice: Mapping[str, Any]) -> NDArray[np.float64]:
    if "matrix" in lattice:
        try:
            return np.array(lattice["matrix"], dtype=np.float64).reshape(3, 3)
        except (TypeError, ValueError, OverflowError) as error:
            raise StructureError("bad_cell", "The lattice matrix is not nine numbers: give three vectors.") from error
    try:
        parameters = [float(lattice[name]) for name in _CELL_PARAMETERS]
        return np.array(Lattice.from_parameters(*parameters).matrix, dtype=np.float64)
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise StructureError(
            "bad_cell", "The lattice is neither a matrix nor six parameters that make a cell: give the matrix."
        ) from error


def _pymatgen_symbol(site: Mapping[str, Any], index: int) -> str:
    species = _list(site.get("species"), f"species of site {index}")
    shares = []
    for one in species:
        if not isinstance(one, Mapping):
            raise StructureError("unreadable", f"A species of site {index} is not an object: post element and occu.")
        shares.append((str(one.get("element"))[:20], _number(one.get("occu", 1), f"occu of site {index}")))
    return _sole(shares, f"site {index}")


def _site_properties(site: Mapping[str, Any], said: list[str]) -> list[str]:
    """The names of what a site has beside element and position; oxidation states are added to what is said."""
    names = telling_properties(site["properties"]) if isinstance(site.get("properties"), Mapping) else []
    for species in site["species"]:
        if species.get("oxidation_state") and OXIDATION_STATES not in said:
            said.append(OXIDATION_STATES)
        if species.get("spin"):
            names.append("spin")
    return names


def _is_for_each(value: Any, n_atoms: int) -> bool:
    return isinstance(value, list | tuple | np.ndarray) and len(value) == n_atoms


def _read_optimade(value: Mapping[str, Any], limits: StructureLimits) -> Crystal:
    positions = _list(value.get("cartesian_site_positions"), "cartesian_site_positions", missing="no_structure")
    if len(positions) > limits.max_atoms:
        raise too_many_atoms(len(positions), limits)
    periodic = value.get("nperiodic_dimensions", 3)
    types = value.get("dimension_types")
    if periodic not in (3, None) or (isinstance(types, Sequence) and list(types) not in ([1, 1, 1], [])):
        raise StructureError(
            "no_structure",
            f"Periodic in {str(periodic)[:20]} dimensions, types {str(types)[:20]}: post a crystal in 3.",
        )
    lattice = value.get("lattice_vectors")
    if lattice is None:
        raise StructureError("no_structure", "The structure has no lattice_vectors: post a crystal.")
    cell = np.array([_vector(row, "lattice_vectors", "bad_cell") for row in _list(lattice, "lattice_vectors")])
    if cell.shape != (3, 3):
        raise StructureError("bad_cell", f"There are {len(cell)} lattice_vectors: give three.")
    check_lattice(cell, limits)  # before it is inverted
    names = _list(value.get("species_at_sites"), "species_at_sites")
    symbols_of = _optimade_species(value.get("species"))
    symbols = []
    for index, name in enumerate(names, start=1):
        # `species` is optional where every name is a symbol, as the plain resources of small servers have it.
        shares = symbols_of.get(str(name), [(str(name), 1.0)])
        symbols.append(_sole(shares, f"site {index}"))
    rows = [_vector(row, f"position of site {index}") for index, row in enumerate(positions, start=1)]
    coords = np.array(rows).reshape(-1, 3) @ np.linalg.inv(cell)
    given = value.get("species")
    said = [ATTACHED_ATOMS] if given is not None and any(one.get("attached") for one in _list(given, "species")) else []
    return crystal_from_arrays(cell, symbols, coords, warnings=said, limits=limits)


def _optimade_species(species: Any) -> dict[str, list[tuple[str, float]]]:
    if species is None:
        return {}
    found = {}
    for one in _list(species, "species"):
        if not isinstance(one, Mapping):
            raise StructureError("unreadable", "An entry of species is not an object: post name and chemical_symbols.")
        name = str(one.get("name"))[:40]
        symbols = [str(symbol)[:20] for symbol in _list(one.get("chemical_symbols"), f"chemical_symbols of {name}")]
        shares = _list(one.get("concentration") or [1.0] * len(symbols), f"concentration of {name}")
        if len(shares) != len(symbols):
            raise StructureError("unreadable", f"The species {name} has {len(shares)} concentrations: give one each.")
        found[name] = [
            (symbol, _number(share, f"concentration of {name}")) for symbol, share in zip(symbols, shares, strict=True)
        ]
    return found


def _sole(shares: list[tuple[str, float]], place: str) -> str:
    """Give the one species of a site, or refuse the site as disordered."""
    present = [(symbol, occupancy) for symbol, occupancy in shares if occupancy != 0]
    if not present:
        raise StructureError("unknown_element", f"The {place} has no species: give it an element, or remove it.")
    if len(present) > 1 or not abs(present[0][1] - 1) <= _FULL:  # nor is nan
        names = [("vacant" if symbol == "vacancy" else symbol, occupancy) for symbol, occupancy in present]
        raise disordered(place, names)
    return present[0][0]


def _list(value: Any, name: str, missing: Any = "unreadable") -> Sequence[Any]:
    if isinstance(value, np.ndarray):
        return list(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return value
    raise StructureError(missing, f"The {name} of the structure is no list: give one.")


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise StructureError("unreadable", f"The {name} is {str(value)[:20]!r}: give a number.") from error


def _vector(value: Any, name: str, code: Any = "unreadable") -> NDArray[np.float64]:
    try:
        vector = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty(0)
    if vector.shape != (3,):
        raise StructureError(code, f"The {name} is {str(value)[:40]!r}: give three numbers.")
    return vector
