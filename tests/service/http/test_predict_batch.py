"""`POST /predict/batch`: order, ids, errors of single structures, streaming, limits; through the whole service."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import service, until
from tests.support.fixtures import some_crystals

CIF = Path("examples/ZrO2.cif").read_text("utf-8")
POSCAR = Path("examples/ZnO.POSCAR").read_text("utf-8")
FLAT = POSCAR.replace("5.3035569999999996", "0.0")
NDJSON = {"Accept": "application/x-ndjson"}


def as_object(index: int) -> dict[str, Any]:
    crystal = some_crystals(40)[index]
    return {
        "lattice": crystal.lattice.tolist(),
        "species": list(crystal.symbols),
        "frac_coords": crystal.frac_coords.tolist(),
    }


def strained(index: int) -> dict[str, Any]:
    """One of the crystals with axes that no other index gives it."""
    crystal = as_object(index % 40)
    stretch = 1 + 1e-3 * (index // 40)
    return crystal | {"lattice": [[stretch * each for each in vector] for vector in crystal["lattice"]]}


def mixed(count: int) -> list[Any]:
    """Crystals with a bad structure at every fifth place."""
    good = [{"id": f"crystal-{index}", "structure": as_object(index)} for index in range(count)]
    return [{"id": f"bad-{index}", "structure": FLAT} if index % 5 == 2 else each for index, each in enumerate(good)]


def test_results_keep_order_and_ids_and_a_bad_structure_fails_alone(client: httpx.Client) -> None:
    structures = mixed(40)
    body = {"structures": structures, "models": ["bulk-modulus"], "attention": "none"}
    reply = client.post("/predict/batch", json=body)
    assert reply.status_code == 200, reply.text
    results = reply.json()["results"]
    assert [result["id"] for result in results] == [item["id"] for item in structures]
    assert [result["error"]["code"] for result in results if "error" in result] == ["bad_cell"] * 8
    for item, result in zip(structures, results, strict=True):
        if "error" not in result:
            alone = client.post("/predict", json={"structure": item["structure"], "models": ["bulk-modulus"]}).json()
            assert result["predictions"][0]["value"] == pytest.approx(alone["predictions"][0]["value"], abs=1e-5)
            assert "attention" not in result["predictions"][0]


def test_results_stream_as_lines(client: httpx.Client) -> None:
    structures = mixed(15)
    with client.stream("POST", "/predict/batch", json={"structures": structures}, headers=NDJSON) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "application/x-ndjson"
        results = [json.loads(line) for line in reply.iter_lines()]
    assert sorted(result["id"] for result in results) == sorted(item["id"] for item in structures)
    assert sum("error" in result for result in results) == 3


def test_a_malformed_item_fails_alone_and_gets_its_index(client: httpx.Client) -> None:
    structures = [{"structure": CIF}, {"id": "x"}, 7, {"structure": CIF, "colour": "red"}, {"id": 5, "structure": CIF}]
    results = client.post("/predict/batch", json={"structures": structures}).json()["results"]
    assert [result["id"] for result in results] == ["0", "x", "2", "3", "4"]
    assert [result.get("error", {}).get("code") for result in results] == [None, *["malformed"] * 4]
    assert set(results[0]["predictions"][0]) >= {"value", "interval", "domain", "attention"}


def test_a_deep_structure_fails_alone(client: httpx.Client) -> None:
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"structure": deep}
    structures = [{"structure": CIF}, {"structure": deep}, {"structure": POSCAR}]
    reply = client.post("/predict/batch", json={"structures": structures})
    assert reply.status_code == 200, reply.text
    assert [result.get("error", {}).get("code") for result in reply.json()["results"]] == [None, "unreadable", None]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"structures": []}, 400, "malformed"),
        ({"structures": CIF}, 400, "malformed"),
        ({}, 400, "malformed"),
        ({"structures": [{"structure": CIF}], "models": ["hardness"]}, 404, "unknown_model"),
        ({"structures": [{"structure": CIF}] * 1025}, 413, "too_many_structures"),
        ({"structures": [{"structure": "#" * (1 << 20)}] * 17}, 413, "too_many_bytes"),
        ({"structures": [[]] * 2_000_000}, 413, "too_many_bytes"),
        ({"structures": [{"a": 0}] * 700_000}, 413, "too_many_bytes"),
    ],
)
def test_a_wrong_request_is_refused_whole(client: httpx.Client, body: Any, status: int, code: str) -> None:
    for headers in ({}, NDJSON):
        reply = client.post("/predict/batch", json=body, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (status, code)
        assert reply.headers["content-type"] == "application/problem+json"


def test_a_passed_deadline_is_an_error_of_each(client: httpx.Client) -> None:
    body = {"structures": [{"structure": CIF}] * 3}
    reply = client.post("/predict/batch", json=body, headers={"X-Request-Deadline-Ms": "0.01"})
    assert [result["error"]["code"] for result in reply.json()["results"]] == ["deadline_passed"] * 3


def test_a_client_that_leaves_takes_its_work_along_and_bulk_is_refused_when_much_waits() -> None:
    """Work beyond the limit is admitted once and refused while it is queued; single crystals are still admitted.

    No two crystals are the same, so that the cache answers none, and the answers are short, so that they fit into the
    socket while the client does not read.
    """
    structures = [{"structure": strained(index)} for index in range(1000)]
    body = {"structures": structures, "attention": "none"}
    with (
        service(DEEPERGATGNN_MAX_BULK_WAIT_S="0.001", DEEPERGATGNN_DRAIN_GRACE_S="0") as address,
        httpx.Client(base_url=address, timeout=60) as client,
        ThreadPoolExecutor(1) as pool,
    ):

        def leave() -> None:
            with (
                httpx.Client(base_url=address, timeout=60) as other,
                other.stream("POST", "/predict/batch", json=body, headers=NDJSON) as reply,
            ):
                next(reply.iter_lines())
                refused = client.post("/predict/batch", json={"structures": [{"structure": CIF}]})
                assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
                assert int(refused.headers["retry-after"]) >= 1
                assert client.post("/predict", json={"structure": CIF}).status_code == 200

        known = client.post("/predict/batch", json={"structures": structures[:100]})  # what a crystal costs here
        assert known.status_code == 200
        pool.submit(leave).result()
        until(lambda: 'deepergatgnn_admitted{lane="bulk"} 0.0' in client.get("/metrics").text, "bulk work is dropped")
        assert client.post("/predict/batch", json={"structures": [{"structure": CIF}]}).status_code == 200


def test_answers_are_the_same_when_the_next_batch_is_prepared_while_one_computes(client: httpx.Client) -> None:
    models = ["bulk-modulus@1.0.0", "shear-modulus@1.0.0"]
    body = {"structures": mixed(40), "models": models, "attention": "none"}
    with (
        service(
            DEEPERGATGNN_PREFETCH="on", DEEPERGATGNN_BATCH_S="0.02", DEEPERGATGNN_MODELS=",".join(models)
        ) as address,
        httpx.Client(base_url=address, timeout=60) as ahead,
    ):
        found, expected = (each.post("/predict/batch", json=body).json()["results"] for each in (ahead, client))
    for one, other in zip(found, expected, strict=True):
        assert one["id"] == other["id"]
        values = [[p["value"] for p in result.get("predictions", [])] for result in (one, other)]
        assert values[0] == pytest.approx(values[1], abs=1e-5)
