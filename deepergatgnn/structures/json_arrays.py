"""Plain arrays, and the arrays of JARVIS and ASE."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.checks import check_lattice
from deepergatgnn.structures.crystal import (
    Crystal,
    crystal_from_arrays,
    crystal_from_numbers,
    disordered,
    too_many_atoms,
)
from deepergatgnn.structures.elements import ATOMIC_NUMBERS
from deepergatgnn.structures.ignored import CHARGE, properties_warning, telling_properties
from deepergatgnn.structures.json_values import (
    CELL_PARAMETERS,
    OCCUPANCY,
    Array,
    cell_of,
    check_parameters,
    check_periodic,
    check_same_positions,
    fractional,
    list_of,
    number,
    rows_of_three,
    shown,
)
from deepergatgnn.structures.limits import StructureLimits

_PLAIN_KEYS: Final = frozenset(
    {"lattice", "species", "frac_coords", "cart_coords", "coords", "coords_are_cartesian", "labels", "pbc"}
)
_JARVIS_KEYS: Final = frozenset({"lattice_mat", "coords", "elements", "abc", "angles", "cartesian"})
_ASE_KEYS: Final = frozenset(
    {"numbers", "symbols", "chemical_symbols", "positions", "scaled_positions"}
    | {"cell", "pbc", "celldisp", "info", "constraints"}
)


def read_plain(value: Mapping[str, Any], limits: StructureLimits) -> Crystal:
    """Read `lattice`, `species` and `frac_coords`, or `cart_coords`; as pymatgen's constructor, `coords` too.

    Raises:
        StructureError: `unreadable` for positions given twice that differ, and as `read_structure`.
    """
    if isinstance(lattice := value.get("lattice"), Mapping):
        check_periodic(lattice.get("pbc"), "pbc of the lattice")
    frac, cart = value.get("frac_coords"), value.get("cart_coords")
    if frac is None and cart is None:
        is_cartesian = value.get("coords_are_cartesian")
        if not isinstance(is_cartesian, bool):
            raise StructureError(
                "unreadable",
                "The key coords does not say whether it is fractional: name it frac_coords or cart_coords.",
            )
        frac, cart = (None, value.get("coords")) if is_cartesian else (value.get("coords"), None)
    properties = value.get("site_properties")
    return _read_arrays(
        value,
        lattice=("lattice", lattice),
        species=("species", value.get("species")),
        frac=("frac_coords", frac),
        cart=("cart_coords", cart),
        known=_PLAIN_KEYS,
        more=properties if isinstance(properties, Mapping) else {},
        limits=limits,
    )


def read_jarvis(value: Mapping[str, Any], limits: StructureLimits) -> Crystal:
    """Read JARVIS atoms: `lattice_mat`, `coords`, `elements`, `cartesian`.

    Raises:
        StructureError: as `read_structure`.
    """
    elements = list_of(value.get("elements"), "elements")
    stated = [*_three(value.get("abc")), *_three(value.get("angles"))]
    cell, _ = cell_of(value["lattice_mat"], "lattice_mat")
    check_parameters(cell, dict(zip(CELL_PARAMETERS, stated, strict=True)), "lattice_mat")
    is_cartesian = value.get("cartesian", False)
    if not isinstance(is_cartesian, bool | int):
        raise StructureError("unreadable", f"The key cartesian is {shown(is_cartesian)}: give true or false.")
    coords = ("coords", value.get("coords"))
    return _read_arrays(
        value,
        lattice=("lattice_mat", cell),
        species=("elements", [str(element).strip() for element in elements]),
        frac=("coords", None) if is_cartesian else coords,
        cart=coords if is_cartesian else ("coords", None),
        known=_JARVIS_KEYS,
        more={},
        limits=limits,
    )


def read_ase(value: Mapping[str, Any], limits: StructureLimits) -> Crystal:
    """Read `ase.Atoms.todict()`: `numbers`, `positions`, `cell`, `pbc`.

    Raises:
        StructureError: `disordered` for the occupancies that ase keeps of a CIF, and as `read_structure`.
    """
    value = {key: _array(each) for key, each in value.items()}
    if isinstance(info := value.get("info"), Mapping) and isinstance(shares := info.get("occupancy"), Mapping):
        for kind, each in shares.items():
            if isinstance(each, Mapping) and list(each.values()) != [1]:
                raise disordered(
                    f"kind {str(kind)[:20]} of the sites",
                    [(str(symbol)[:20], number(share, "occupancy")) for symbol, share in each.items()],
                )
    numbers, symbols = value.get("numbers"), value.get("symbols", value.get("chemical_symbols"))
    if numbers is not None and symbols is not None:
        _check_same_elements(list_of(numbers, "numbers"), list_of(symbols, "symbols"))
    return _read_arrays(
        value,
        lattice=("cell", value.get("cell")),
        species=("symbols", symbols) if numbers is None else ("numbers", numbers),
        frac=("scaled_positions", value.get("scaled_positions")),
        cart=("positions", value.get("positions")),
        known=_ASE_KEYS,
        more={},
        limits=limits,
    )


def _read_arrays(
    value: Mapping[str, Any],
    *,
    lattice: tuple[str, Any],
    species: tuple[str, Any],
    frac: tuple[str, Any],
    cart: tuple[str, Any],
    known: frozenset[str],
    more: Mapping[str, Any],
    limits: StructureLimits,
) -> Crystal:
    """Read arrays, each with the name of its key; what else has an entry for each atom is said of the atoms."""
    check_periodic(value.get("pbc"))
    names = list_of(species[1], species[0])
    if len(names) > limits.max_atoms:
        raise too_many_atoms(len(names), limits)
    cell, oriented = cell_of(lattice[1], lattice[0])
    check_lattice(cell, limits)  # before it is inverted
    coords = _positions(cell, frac, cart, oriented=oriented)
    if len(coords) != len(names):
        key = cart[0] if frac[1] is None else frac[0]
        raise StructureError(
            "unreadable", f"There are {len(names)} {species[0]} and {len(coords)} {key}: give one for each atom."
        )
    _check_occupancies({**value, **more}, names)
    others = {key: each for key, each in value.items() if key not in known and _is_for_each(each, len(names))}
    telling = telling_properties(
        {key: each for key, each in {**others, **more}.items() if not OCCUPANCY.fullmatch(str(key))}
    )
    said = [*([CHARGE] if value.get("charge") else []), *properties_warning(telling)]
    if species[0] == "numbers":
        return crystal_from_numbers(cell, _numbers(names), coords, warnings=said, limits=limits)
    return crystal_from_arrays(cell, names, coords, warnings=said, limits=limits)


def _positions(cell: Array, frac: tuple[str, Any], cart: tuple[str, Any], *, oriented: bool) -> Array:
    """Return the fractional positions; Cartesian positions beside them must agree."""
    fractions = None if frac[1] is None else _rows(*frac)
    if cart[1] is None:
        if fractions is None:
            raise StructureError("no_structure", f"The structure has no {cart[0]}: give the positions of the atoms.")
        return fractions
    if fractions is not None and not oriented:
        return fractions  # the axes of the others are unknown, and they are not needed
    from_cart = fractional(cell, _rows(*cart), cart[0], oriented=oriented)
    if fractions is None:
        return from_cart
    check_same_positions(cell, fractions, from_cart, (frac[0], cart[0]), lambda index: f"atom {index + 1}")
    return fractions


def _rows(name: str, rows: Any) -> Array:
    return rows_of_three(rows, name, lambda index: f"entry of atom {index + 1} in {name}")


def _check_occupancies(value: Mapping[str, Any], names: Sequence[Any]) -> None:
    for key, shares in value.items():
        if OCCUPANCY.fullmatch(str(key)) and _is_for_each(shares, len(names)):
            for index, (name, share) in enumerate(zip(names, shares, strict=True), start=1):
                if share is not None and number(share, f"{key} of atom {index}") != 1:
                    raise disordered(f"atom {index}", [(str(name)[:20], number(share, key))])


def _check_same_elements(numbers: Sequence[Any], symbols: Sequence[Any]) -> None:
    """Refuse atomic numbers and symbols that differ; unknown elements are refused where they are read."""
    for index, (number_, symbol) in enumerate(zip(numbers, symbols, strict=False), start=1):
        if isinstance(symbol, str) and ATOMIC_NUMBERS.get(symbol, number_) != number_:
            raise StructureError(
                "unreadable",
                f"The atom {index} is {symbol} by symbols and {shown(number_)} by numbers: correct one of them.",
            )


def _numbers(values: Sequence[Any]) -> list[int]:
    for index, value in enumerate(values, start=1):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 < value <= 118:  # noqa: PLR2004
            raise StructureError(
                "unknown_element", f"The atomic number of atom {index} is {shown(value)}: give 1 to 118."
            )
    return [int(value) for value in values]


def _is_for_each(value: Any, n_atoms: int) -> bool:
    return isinstance(value, list | tuple | np.ndarray) and len(value) == n_atoms


def _three(value: Any) -> Sequence[Any]:
    return list(value) if isinstance(value, list | tuple | np.ndarray) and len(value) == 3 else [None] * 3  # noqa: PLR2004


def _array(value: Any) -> Any:
    """An array as ase writes it into JSON: a cell is an object with its array, an array one of shape, type, values."""
    if isinstance(value, Mapping) and isinstance(inner := value.get("array"), Mapping):
        return _array(inner)
    parts = value.get("__ndarray__") if isinstance(value, Mapping) else None
    if isinstance(parts, list) and len(parts) == 3 and isinstance(parts[2], list):  # noqa: PLR2004
        shape = parts[0] if isinstance(parts[0], list) else [parts[0]]
        if len(shape) == 2 and shape[1] == 3:  # noqa: PLR2004 - rows of three
            return [parts[2][start : start + 3] for start in range(0, len(parts[2]), 3)]
        return parts[2]
    return value
