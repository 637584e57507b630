"""JSON bodies: read in a parse process as they are read here, and the event loop goes on meanwhile."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import orjson
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from deepergatgnn.errors import StructureError
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.request_body import SHORT_JSON
from deepergatgnn.service.parsing.json_bodies import read_body, read_body_in_turns
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.service.parsing.wire import Kind, RequestBody
from deepergatgnn.service.schemas import BulkItem
from deepergatgnn.structures import crystal_to_pymatgen
from tests.support.fixtures import some_crystals

CIF = Path("examples/ZrO2.cif").read_text("utf-8")
OPTIONS: dict[Kind, dict[str, Any]] = {"single": {"attention": "none"}, "bulk": {"most": 1024}}
PIECE = 1 << 16
T = TypeVar("T")


def with_pool(scenario: Callable[[ParsePool], Awaitable[T]]) -> T:
    async def run() -> T:
        pool = ParsePool(1, 30.0, 2048)
        await pool.warm()
        try:
            return await scenario(pool)
        finally:
            pool.close()

    return uvloop.run(run())


def pieces_of(body: bytes) -> list[bytes]:
    return [body[start : start + PIECE] for start in range(0, len(body), PIECE)]


def honest(size: int) -> bytes:
    """A bulk body of about that size: coordinates in all their digits."""
    random = np.random.default_rng(7)

    def item(index: int) -> dict[str, Any]:
        coordinates = random.random((400, 3)).tolist()
        structure = {"lattice": (np.eye(3) * 15.5).tolist(), "species": ["Na"] * 400, "frac_coords": coordinates}
        return {"id": f"crystal-{index}", "structure": structure}

    count = size // len(orjson.dumps(item(0)))
    return orjson.dumps({"structures": [item(index) for index in range(count)], "models": ["bulk-modulus"]})


def nested(depth: int) -> str:
    return '{"a":' * depth + "0" + "}" * depth


BODIES = {
    "empty": b"",
    "blank": b" \n\t ",
    "a list": b"[1]",
    "truncated": b'{"structures":[{"structure":"x"}',
    "trailing comma": b'{"structures":[{"structure":"x"},]}',
    "two documents": b'{"structures":[1]}{"structures":[1]}',
    "not a number": b'{"structures":[{"structure":{"a":NaN}}]}',
    "infinite": b'{"structures":[{"structure":{"a":Infinity}}]}',
    "too large a number": b'{"structures":[{"structure":{"a":1e999}}]}',
    "long integers": b'{"structures":[{"structure":{"a":[18446744073709551616,-9223372036854775809]}}]}',
    "numbers": b'{"structures":[{"structure":{"a":[1e-7,-0.0,0.1,1E+2,123456789012345678]}}]}',
    "a leading zero": b'{"structures":[{"structure":{"a":01}}]}',
    "broken UTF-8": b'{"structures":[{"structure":"\xff"}]}',
    "half a pair": rb'{"structures":[{"structure":"\ud800"}]}',
    "a control character": b'{"structures":[{"structure":"a\x00b"}]}',
    "a mark of byte order": b'\xef\xbb\xbf{"structures":[{"structure":"x"}]}',
    "duplicate keys": b'{"structures":[1],"structures":[{"structure":"x","structure":{"a":1,"a":2}}]}',
    "escaped keys": rb'{"\u0073tructures":[{"struct\u0075re":"\"]}\\","id":"\ud83d\ude00\/\n"}]}',
    "brackets in strings": b'{"structures":[{"structure":"}]},{[\\"","id":"[{"},{"structure":{"]":"}"}}]}',
    "blanks": b' { "structures" : [ { "structure" : { "a" : [ 1 , 2 ] } , "id" : "x" } , 7 , null ] } \r\n',
    "deep": f'{{"structures":[{{"structure":{nested(400)}}},{{"structure":"x"}}]}}'.encode(),
    "too deep": f'{{"structures":[{{"structure":{nested(2000)}}}]}}'.encode(),
    "none": b'{"structures":[]}',
    "no list": b'{"structures":{"structure":"x"}}',
    "too many": b'{"structures":[' + b",".join([b"0"] * 1025) + b"]}",
    "very many": b'{"structures":[' + b",".join([b"0"] * 1_000_000) + b"]}",
    "many marks": b'{"structures":[' + b",".join([b"[]"] * 2_000_000) + b"]}",
    "a key too many": b'{"structures":[1],"colour":"red"}',
    "wrong models": b'{"structures":[1],"models":[1]}',
    "wrong items": b'{"structures":[7,null,[],{"id":"x"},{"structure":"x","id":5},{"structure":"x","colour":1},'
    b'{"structure":"x","format":"pdb"},{"structure":["x"]},{"structure":"x","id":"' + b"i" * 300 + b'"}]}',
    "a long text": b'{"structures":[{"structure":"' + b"#" * (5 << 20) + b'"},{"structure":"x"}]}',
    "a long object": b'{"structures":[{"structure":{"a":"' + b"#" * (5 << 20) + b'"}}]}',
    "options": b'{"structures":[{"structure":"x"}],"models":["a","b@1.0.0"],"attention":"none"}',
    "one text": orjson.dumps({"structure": CIF, "format": "cif", "models": ["a"], "id": "x"}),
    "one object": b'{"structure":{"lattice":[[4,0,0],[0,4,0],[0,0,4]]},"attention":"global"}',
    "one long text": b'{"structure":"' + b"#" * (5 << 20) + b'"}',
    "one deep": f'{{"structure":{nested(400)}}}'.encode(),
    "one wrong": b'{"structure":7}',
}


def outcome(result: object) -> object:
    """What was read, or why not, in a form to compare."""
    match result:
        case ServiceError():
            return result.code, result.detail
        case StructureError():
            return result.code, result.detail
        case RequestBody():
            return result
        case _:
            raise AssertionError(result)


def read_here(kind: Kind, body: bytes) -> object:
    try:
        return outcome(read_body(kind, body, OPTIONS[kind]))
    except (ServiceError, StructureError) as error:
        return outcome(error)


def test_a_process_reads_what_would_be_read_here() -> None:
    async def scenario(pool: ParsePool) -> None:
        for name, body in BODIES.items():
            for kind, options in OPTIONS.items():
                try:
                    there = outcome(await pool.read(kind, pieces_of(body), options))
                except (ServiceError, StructureError) as error:
                    there = outcome(error)
                assert there == read_here(kind, body), (name, kind)
                try:
                    in_turns = outcome(await read_body_in_turns(kind, body, options))
                except (ServiceError, StructureError) as error:
                    in_turns = outcome(error)
                assert in_turns == there, (name, kind)

    with_pool(scenario)


def refusals(name: str) -> list[str | None]:
    """Codes of the items of such a body."""
    items = read_body("bulk", BODIES[name], OPTIONS["bulk"]).items
    return [None if item.refusal is None else item.refusal[0] for item in items]


@pytest.mark.parametrize(
    "body",
    [
        '{"structure": {"lattice": [[4, 0, 0], [0, 4, 0], [0, 0, 4]], "lattice": [[5, 0, 0], [0, 5, 0], [0, 0, 5]]}}',
        '{"structure": "data_a", "structure": "data_b"}',
        '{"structure": {"sites": [{"abc": [0, 0, 0], "abc": [0, 0, 0.5]}]}}',
    ],
)
def test_a_key_given_twice_is_not_chosen_between(body: str) -> None:
    with pytest.raises(StructureError, match="is given twice with different values"):
        read_body("single", body.encode(), OPTIONS["single"])


def test_a_key_given_twice_alike_is_no_contradiction() -> None:
    body = b'{"structure": "data_a", "structure": "data_a"}'
    assert [bytes(item.content) for item in read_body("single", body, OPTIONS["single"]).items] == [b"data_a"]


def test_what_is_wrong_with_an_item_is_told_of_it_alone() -> None:
    assert refusals("deep") == ["unreadable", None]
    assert refusals("a long text") == ["too_many_bytes", None]
    assert refusals("a long object") == ["too_many_bytes"]
    assert refusals("wrong items") == ["malformed"] * 9
    assert refusals("brackets in strings") == [None, None]


JSON = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(2**63), 2**64 - 1)
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=12,
)
ITEMS = (
    some.fixed_dictionaries(
        {"structure": some.text() | some.dictionaries(some.text(), JSON)},
        optional={"id": some.none() | some.text() | some.integers(), "format": some.sampled_from(["cif", "json", "x"])},
    )
    | JSON
)


@given(some.lists(ITEMS, min_size=1, max_size=6), some.booleans(), some.sampled_from([None, 0, 3]))
def test_whatever_is_posted_is_handed_on_as_it_is(items: list[Any], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps({"structures": items}, ensure_ascii=ascii_only, indent=indent)
    for index, (item, read) in enumerate(
        zip(items, read_body("bulk", text.encode(), OPTIONS["bulk"]).items, strict=True)
    ):
        name = item.get("id") if isinstance(item, dict) else None
        assert read.id == (name if isinstance(name, str) else str(index))
        try:
            expected = BulkItem.model_validate(item)
        except ValidationError:
            assert read.refusal is not None
            assert read.refusal[0] == "malformed"
            continue
        content = bytes(read.content)
        if isinstance(expected.structure, str):
            assert (content, read.format) == (expected.structure.encode(), expected.format)
        else:
            assert (orjson.loads(content), read.format) == (orjson.loads(json.dumps(expected.structure)), "json")


async def longest_gap(work: Awaitable[object]) -> tuple[float, int]:
    """Longest time between two turns of the event loop while the work is done, and how many there were."""
    task = asyncio.ensure_future(work)
    longest, turns, last = 0.0, 0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, turns, last = max(longest, now - last), turns + 1, now
    await task
    return longest, turns


def test_the_event_loop_goes_on_while_the_longest_body_is_read() -> None:
    """Of three times the best: another process may hold up this one."""
    body = honest(16 << 20)
    assert 15 << 20 < len(body) < 17 << 20

    async def scenario(pool: ParsePool) -> list[tuple[float, int]]:
        pieces = pieces_of(body)
        return [await longest_gap(pool.read("bulk", pieces, OPTIONS["bulk"])) for _ in range(3)]

    began = time.perf_counter()
    orjson.loads(body)
    alone = time.perf_counter() - began
    held, turns = min(with_pool(scenario))
    assert held < alone / 3
    assert turns > 20


def as_object(index: int) -> dict[str, Any]:
    crystal = some_crystals(40)[index]
    return {
        "lattice": crystal.lattice.tolist(),
        "species": list(crystal.symbols),
        "frac_coords": crystal.frac_coords.tolist(),
    }


def posted(client: httpx.Client, path: str, document: object, *, long: bool) -> httpx.Response:
    """The answer to a document, which blanks make long where it is to be."""
    body = orjson.dumps(document) + b" " * SHORT_JSON * long
    assert (len(body) > SHORT_JSON) == long
    return client.post(path, content=body, headers={"Content-Type": "application/json"})


BULK: list[Any] = [
    {"structures": [{"structure": as_object(0), "id": "a"}, {"structure": CIF}, 7, {"structure": "?"}, {"id": "b"}]},
    {"structures": [{"structure": CIF, "format": "cif"}], "models": ["bulk-modulus"], "attention": "none"},
    {"structures": [{"structure": CIF}], "models": ["hardness"]},
    {"structures": []},
    {"structures": [0] * 1025},
]
SINGLE: list[Any] = [
    {"structure": CIF, "id": "x", "format": "cif", "models": ["bulk-modulus"]},
    {"structure": as_object(1), "attention": "none"},
    {"structure": CIF, "models": ["hardness"]},
    {"structure": 7},
    [],
]


@pytest.mark.parametrize(
    ("path", "document"),
    [("/predict/batch", each) for each in BULK] + [("/predict?attention=none", each) for each in SINGLE],
)
def test_a_long_body_is_answered_as_a_short_one(client: httpx.Client, path: str, document: object) -> None:
    short, long = (posted(client, path, document, long=length) for length in (False, True))
    assert short.status_code == long.status_code
    assert told(short.json()) == told(long.json())


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("name", ["NaN", "-Infinity", "Infinity"])
def test_an_unknown_property_of_a_site_is_null_and_an_unknown_coordinate_is_refused(
    client: httpx.Client, name: str, *, long: bool
) -> None:
    """Python writes NaN into JSON, and so does pymatgen; in a text it stays what it is."""
    structure = json.loads(json.dumps(crystal_to_pymatgen(some_crystals(40)[0]).as_dict()))

    def answer_to(document: dict[str, Any]) -> tuple[int, Any]:
        body = json.dumps(document).replace('"?"', name).encode() + b" " * SHORT_JSON * long
        answer = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
        return answer.status_code, answer.json()

    structure["sites"][0]["properties"] = {"magmom": "?", "note": f'"{name}"'}
    status, answer = answer_to({"structure": structure, "id": f"x{name}"})
    assert (status, answer["id"]) == (200, f"x{name}")
    assert answer["warnings"] == ["The site property note is ignored: the models know elements and positions."]
    structure["sites"][0]["abc"][0] = "?"
    status, answer = answer_to({"structure": structure})
    assert (status, answer["code"], "abc of site 1" in answer["detail"]) == (422, "bad_cell", True)


def test_a_body_that_is_no_json_is_malformed_whatever_words_it_has(client: httpx.Client) -> None:
    for body in (b'{"structure": NaNo}', b'{"structure": "NaN', b'{"structure" NaN}', b"NaN"):
        answer = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


def test_objects_of_jarvis_and_ase_are_answered_as_plain_arrays(client: httpx.Client) -> None:
    crystal = some_crystals(40)[1]
    cell, cart = crystal.lattice.tolist(), (crystal.frac_coords @ crystal.lattice).tolist()
    forms = [
        as_object(1),
        {"lattice_mat": cell, "elements": list(crystal.symbols), "coords": cart, "cartesian": True},
        {"cell": cell, "numbers": crystal.atomic_numbers.tolist(), "positions": cart, "pbc": [True] * 3},
        {"energy": -1, "data": {}, "structure": as_object(1)},
        {"data": [{"attributes": as_object(1)}]},
    ]
    answers = [client.post("/predict", json={"structure": form}).json() for form in forms]
    values = [[round(said["value"], 4) for said in answer["predictions"]] for answer in answers]
    assert values == values[:1] * len(forms)


def told(answer: Any) -> list[Any]:
    """What of an answer is the same each time."""
    results = answer.get("results", [answer])
    varying = {"latency_ms", "request_id", "predictions"} | (set() if "results" in answer else {"id"})
    values = [
        [(said["model"], round(said["value"], 4), "attention" in said) for said in result.get("predictions", ())]
        for result in results
    ]
    return [values, [{key: value for key, value in result.items() if key not in varying} for result in results]]
