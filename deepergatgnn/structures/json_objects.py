"""JSON structures: detection of the form, and search for the structure in a document."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Final, NamedTuple

from deepergatgnn.errors import StructureError
from deepergatgnn.structures.crystal import Crystal
from deepergatgnn.structures.json_arrays import read_ase, read_jarvis, read_plain
from deepergatgnn.structures.json_optimade import check_whole_crystal, read_optimade
from deepergatgnn.structures.json_pymatgen import read_pymatgen
from deepergatgnn.structures.json_statements import check_document
from deepergatgnn.structures.json_values import check_periodic, shown
from deepergatgnn.structures.limits import StructureLimits

Reader = Callable[[Mapping[str, Any], StructureLimits], Crystal]
_DEEPEST: Final = 6  # objects within objects, as `data[0].attributes` or `output.structure`
_MOST_OBJECTS: Final = 100_000
_MOST_CHECKED: Final = 200_000  # colons; a site of pymatgen's has about ten
_NAMES_SHOWN: Final = 3
# Where documents keep their structure; taken from elsewhere, a warning names the place.
_USUAL: Final = frozenset(
    {"structure", "final_structure", "data", "attributes", "output", "atoms", "entry", "response"}
)
_OF_OPTIMADE: Final = frozenset({"cartesian_site_positions", "fractional_site_positions", "lattice_vectors"})
_TELLING: Final = _OF_OPTIMADE | {"sites", "frac_coords", "cart_coords", "coords", "lattice_mat", "positions"}
_TEXTS: Final = ("structure", "cif", "poscar", "text", "content")
_EXPECTED: Final = "post lattice, species and frac_coords, a pymatgen or an OPTIMADE structure"


class _Found(NamedTuple):
    """A structure in a document.

    Attributes:
        path: of keys.
        value: the object.
        reader: of its form.
        around: the objects that hold it, from the outermost.
    """

    path: tuple[str, ...]
    value: Mapping[str, Any]
    reader: Reader
    around: tuple[Mapping[str, Any], ...]


def read_json(text: str, limits: StructureLimits) -> Crystal:
    """Read a JSON text; see `read_object`.

    Raises:
        StructureError: `unreadable` also for a key that an object gives twice with different values.
    """
    try:
        # Of a text with more values than any structure has, the check would take longer than the reading.
        hook = _without_repeats if text.count(":") <= _MOST_CHECKED else None
        value = json.loads(text, object_pairs_hook=hook)
    except StructureError:
        raise
    except ValueError as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise StructureError("unreadable", f"The text is not valid JSON{where}: post one object.") from error
    if isinstance(value, list):
        raise StructureError(
            "unreadable", f"The JSON is a list of {len(value)}: post one object of it, not a list of them."
        )
    if not isinstance(value, Mapping):
        raise StructureError("unreadable", f"The JSON is {shown(value)}: post one object.")
    return read_object(value, limits)


def check_no_repeats(text: str | bytes) -> None:
    """Refuse a repeated key with different values.

    Args:
        text: JSON.

    Raises:
        StructureError: `unreadable`.
    """
    try:
        json.loads(text, object_pairs_hook=_without_repeats)
    except StructureError:
        raise
    except (ValueError, RecursionError):
        return  # the reader of that form gives the error


def read_object(value: Mapping[str, Any], limits: StructureLimits) -> Crystal:
    """Read an object by the keys that it has.

    Args:
        value: `Structure.as_dict()`, the attributes of an OPTIMADE structure, plain arrays, JARVIS `atoms`,
            `ase.Atoms.todict()`; or a document that holds one of them, such as a computed entry or a response.
        limits: bounds that the structure must keep.

    Raises:
        StructureError: `no_structure` if it has the keys of none of them, `unreadable` if it holds several
            structures, and as `read_structure`.
    """
    found = _distinct(_structures_in(value))
    if not found:
        raise StructureError("no_structure", _nothing_in(value))
    if len(found) > 1:
        names = ", ".join(".".join(each.path)[:60] for each in found[:_NAMES_SHOWN])
        more = f" and {len(found) - _NAMES_SHOWN} more" if len(found) > _NAMES_SHOWN else ""
        raise StructureError(
            "unreadable", f"The object holds {len(found)} structures, {names}{more}: post one of them alone."
        )
    [(path, inner, reader, around)] = found
    for each in (*around, inner):
        check_whole_crystal(each)
        if each is not inner or reader is read_optimade:  # the other forms have their own flags
            check_periodic(each.get("pbc"))
    crystal = reader(inner, limits)
    stated = check_document(around, {} if reader is read_optimade else inner, crystal)
    crystal = replace(crystal, warnings=(*crystal.warnings, *stated)) if stated else crystal
    unusual = [key for key in path if key.split("[")[0] not in _USUAL]
    if unusual:
        said = f"The structure is taken from {'.'.join(path)[:80]}."
        return replace(crystal, warnings=(*crystal.warnings, said))
    return crystal


def _reader_of(value: Mapping[str, Any]) -> Reader | None:
    """Return the reader of the form of an object; None if it is not a structure."""
    if _TELLING.isdisjoint(value):
        return None
    keys = value.keys()
    if "sites" in keys and not isinstance(value["sites"], int):  # which a document has for their number
        return read_pymatgen
    if "lattice_mat" in keys:
        return read_jarvis
    if keys >= {"positions", "cell"} and not keys.isdisjoint({"numbers", "symbols"}):
        return read_ase
    is_plain = not keys.isdisjoint({"frac_coords", "cart_coords"}) or keys >= {"lattice", "species", "coords"}
    if (is_plain or not keys.isdisjoint(_OF_OPTIMADE)) and not _is_trajectory(value):
        return read_plain if is_plain else read_optimade
    return None


def _structures_in(document: Mapping[str, Any]) -> list[_Found]:
    """Return the structures of a document; of an object with `structure` only that one.

    Raises:
        StructureError: `unreadable`, if the document has more objects than are looked through.
    """
    found: list[_Found] = []
    waiting: list[tuple[tuple[str, ...], Mapping[str, Any], tuple[Mapping[str, Any], ...]]] = [((), document, ())]
    looked_at = 0
    while waiting:
        path, value, around = waiting.pop()
        if reader := _reader_of(value):
            found.append(_Found(path, value, reader, around))
        elif len(path) < _DEEPEST:
            holders = (*around, value)
            inner = [((*path, name), each, holders) for name, each in islice(_objects_in(value), _MOST_OBJECTS)]
            looked_at += len(inner)
            if looked_at >= _MOST_OBJECTS:
                detail = f"The JSON has over {_MOST_OBJECTS:,} objects: post the structure alone."
                raise StructureError("unreadable", detail)
            waiting += reversed(inner)
    return _preferred(found)


def _objects_in(value: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return the objects under the keys of an object, also in lists."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield str(key)[:40], inner
        elif isinstance(inner, list):
            for index, each in enumerate(inner):
                if isinstance(each, Mapping):
                    yield f"{str(key)[:40]}[{index}]", each


def _preferred(found: list[_Found]) -> list[_Found]:
    """Drop all others beside a `structure`."""
    holders = {each.path[:at] for each in found for at, key in enumerate(each.path) if key == "structure"}
    return [
        each
        for each in found
        if not any(key != "structure" and each.path[:at] in holders for at, key in enumerate(each.path))
    ]


def _distinct(found: list[_Found]) -> list[_Found]:
    """Drop duplicates, since a document may repeat its structure."""
    return list({_written(each.value): each for each in reversed(found)}.values())[::-1] if len(found) > 1 else found


def _written(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _is_trajectory(value: Mapping[str, Any]) -> bool:
    return "coords_are_displacement" in value or "nframes" in value or value.get("@class") == "Trajectory"


def _nothing_in(value: Mapping[str, Any]) -> str:
    """Describe an object without a structure, as far as it is known."""
    if _is_trajectory(value):
        return "The object is a trajectory of many structures: post one of them."
    for key in _TEXTS:
        if isinstance(text := value.get(key), str) and text.strip():
            return f"The key {key} holds text, not an object: post that text itself."
    if isinstance(items := value.get("data"), list) and not items:
        return f"The list data is empty: {_EXPECTED}."
    if isinstance(name := value.get("@class"), str):
        return f"The object is a {name[:40]}, which is no crystal with its atoms: {_EXPECTED}."
    keys = ", ".join(str(key)[:30] for key in list(value)[:5]) or "none"
    return f"The object has the keys {keys}: {_EXPECTED}."


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object without repeated keys, which other readers resolve differently."""
    value = dict(pairs)
    if len(value) != len(pairs):
        for key, each in pairs:
            if each != value[key]:
                raise StructureError(
                    "unreadable", f"The key {key[:40]!r} is given twice with different values: keep the right one."
                )
    return value
