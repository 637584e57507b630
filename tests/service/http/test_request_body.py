"""JSON bodies: real structures may fill a body, and what would become millions of objects is refused unparsed."""

from pathlib import Path

import orjson
import pytest
from pymatgen.core import Structure

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.parsing.json_bodies import JsonLimit, read_json
from deepergatgnn.service.settings import Settings

MIB = 1 << 20
SINGLE, BULK = (int(Settings.model_fields[name].default * MIB) for name in ("max_body_mib", "max_bulk_body_mib"))
ZRO2 = Structure.from_file("examples/ZrO2.cif")
TEXT = Path("examples/ZrO2.cif").read_text("utf-8")


def filled(unit: bytes, size: int) -> bytes:
    """A body of that size that repeats the unit."""
    begin, end = b'{"structures":[', b"]}"
    return begin + b",".join([unit] * ((size - len(begin + end)) // (len(unit) + 1))) + end


def keys(count: int) -> bytes:
    """An object of so many keys."""
    return b"{" + b",".join(b'"%x":0' % number for number in range(count)) + b"}"


def plain(crystal: Structure) -> dict[str, object]:
    """A structure as plain arrays, in as few digits as is usual."""
    return {
        "lattice": crystal.lattice.matrix.tolist(),
        "species": [site.specie.symbol for site in crystal],
        "frac_coords": crystal.frac_coords.round(5).tolist(),
    }


@pytest.mark.parametrize("form", [Structure.as_dict, plain, lambda _: TEXT])
def test_a_bulk_body_may_be_full_of_real_structures(form: object) -> None:
    assert callable(form)
    body = filled(orjson.dumps({"structure": form(ZRO2), "id": "ZrO2"}), BULK)
    assert len(body) > 0.99 * BULK
    assert read_json(body, JsonLimit.BULK)["structures"][-1]["id"] == "ZrO2"


@pytest.mark.parametrize("form", [Structure.as_dict, plain])
def test_the_largest_cell_may_be_posted_several_times_over(form: object) -> None:
    """So that a cell somewhat too large gets its own error."""
    assert callable(form)
    crystal = ZRO2.make_supercell((6, 6, 5), in_place=False)
    crystal.add_site_property("selective_dynamics", [[True, True, False]] * len(crystal))
    body = orjson.dumps({"structure": form(crystal)})
    assert len(crystal) > 2000
    assert len(crystal) < 2200
    assert "structure" in read_json(body, JsonLimit.SINGLE)
    assert 3 * sum(body.count(mark) for mark in b"[{:") < JsonLimit.SINGLE


@pytest.mark.parametrize("unit", [b"[]", b"{}", b'{"a":0}', b"[0.1]", b"[" * 20 + b"]" * 20, keys(8), keys(100_000)])
@pytest.mark.parametrize(("limit", "size"), [(JsonLimit.SINGLE, SINGLE), (JsonLimit.BULK, BULK)])
def test_what_would_become_millions_of_objects_is_refused(unit: bytes, limit: JsonLimit, size: int) -> None:
    with pytest.raises(ServiceError, match=rf"the limit is {limit:,}: ") as refused:
        read_json(filled(unit, size), limit)
    assert refused.value.code == "too_many_bytes"
