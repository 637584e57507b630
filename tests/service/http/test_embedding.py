"""Crystal vectors on request, with the result cache and in batches."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from msgspec.structs import replace

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.predictor import Predictor
from deepergatgnn.service.lanes import INTERACTIVE
from deepergatgnn.service.messages import InferenceReply, InferenceRequest, ModelOutput
from deepergatgnn.service.prediction.result_cache import ResultCache
from deepergatgnn.structures import crystal_to_pymatgen, read_structure
from tests.conftest import service
from tests.support.hand_worker import packed
from tests.support.parsing import parse
from tests.support.processes import MODEL, OLD, small_store

CIF = Path("examples/ZrO2.cif").read_text("utf-8")
POSCAR = Path("examples/ZnO.POSCAR").read_text("utf-8")
SHORT = ModelOutput("m@1.0.0", 1.0, 0.5, 1.5, in_domain=True, score=0.1, reasons=(), attention=(0.5, 0.5))
LONG = replace(SHORT, embedding=(1.0, 2.0))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def cached(store: Path) -> Iterator[httpx.Client]:
    """A service with one model that keeps its results."""
    where = service(DEEPERGATGNN_MODEL_STORE=str(store), DEEPERGATGNN_CACHE_ENTRIES="64")
    with where as address, httpx.Client(base_url=address, timeout=60) as opened:
        yield opened


def vectors(reply: httpx.Response) -> list[list[float] | None]:
    assert reply.status_code == 200, reply.text
    return [prediction.get("embedding") for prediction in reply.json()["predictions"]]


def test_a_vector_is_returned_where_requested(cached: httpx.Client, store: Path) -> None:
    expected = Predictor.load(store / MODEL / OLD).embed_structures([POSCAR])
    plain: dict[str, Any] = {"content": POSCAR, "headers": {"Content-Type": "text/plain"}}
    asked: dict[str, dict[str, Any]] = {
        "none": {"json": {"structure": POSCAR}},  # kept without the vector
        "json": {"json": {"structure": POSCAR, "embedding": True}},
        "again": {"json": {"structure": POSCAR, "embedding": True, "attention": "none"}},
        "false": {"json": {"structure": POSCAR, "embedding": False}},
        "query of json": {"json": {"structure": POSCAR}, "params": {"embedding": "true"}},
        "query": {**plain, "params": {"embedding": "true"}},
        "query says no": {**plain, "params": {"embedding": "false"}},
        "form": {"files": {"file": ("POSCAR", POSCAR.encode())}, "params": {"embedding": "true"}},
    }
    for name, request in asked.items():
        reply = cached.post("/predict", **request)
        if name in ("none", "false", "query says no"):
            assert vectors(reply) == [None], name
        else:
            np.testing.assert_allclose(vectors(reply), expected, rtol=1e-4, atol=1e-5, err_msg=name)
        assert ("attention" in reply.json()["predictions"][0]) == (name != "again")


def test_the_vector_is_that_of_the_crystal_not_of_its_cell(cached: httpx.Client) -> None:
    larger = crystal_to_pymatgen(read_structure(POSCAR)) * (1, 2, 1)
    [small] = vectors(cached.post("/predict", json={"structure": POSCAR, "embedding": True}))
    [large] = vectors(cached.post("/predict", json={"structure": larger.as_dict(), "embedding": True}))
    np.testing.assert_allclose(large, small, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("wanted", [True, False])
def test_in_bulk_every_structure_has_it(cached: httpx.Client, accept: str, wanted: bool) -> None:
    body = {"structures": [{"structure": POSCAR}, {"structure": "?"}, {"structure": CIF}], "embedding": wanted}
    reply = cached.post("/predict/batch", json=body, headers={"Accept": accept})
    lines = reply.json()["results"] if accept.endswith("/json") else map(json.loads, reply.text.splitlines())
    by_id = {result["id"]: result for result in lines}
    assert set(by_id) == {"0", "1", "2"}
    assert "error" in by_id["1"]
    for row in ("0", "2"):
        [prediction] = by_id[row]["predictions"]
        assert len(prediction.get("embedding", ())) == (64 if wanted else 0)


@pytest.mark.parametrize("value", ["yes", "", "1", "TRUE"])
def test_what_is_no_boolean_is_malformed(cached: httpx.Client, value: str) -> None:
    for request in (
        {"content": POSCAR, "headers": {"Content-Type": "text/plain"}, "params": {"embedding": value}},
        {"json": {"structure": POSCAR, "embedding": value}},
    ):
        reply = cached.post("/predict", **request)  # type: ignore[arg-type]
        assert (reply.status_code, reply.json()["code"]) == (400, "malformed")
        assert "embedding" in reply.json()["detail"]


def test_the_documents_say_so(cached: httpx.Client) -> None:
    document = cached.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for name in ("PredictRequest", "BulkRequest"):
        assert schemas[name]["properties"]["embedding"]["type"] == "boolean"
        assert schemas[name]["properties"]["embedding"]["default"] is False
    assert "crystal" in schemas["PropertyPrediction"]["properties"]["embedding"]["description"].lower()
    parameters = document["paths"]["/predict"]["post"]["parameters"]
    assert any(parameter["name"] == "embedding" for parameter in parameters)


def test_a_cached_result_without_the_vector_is_a_miss_for_a_request_of_one() -> None:
    [graph] = parse(POSCAR.encode(), "poscar", [GraphConfig()], rounds=3).graphs
    even = tuple(1 / len(graph.colours) for _ in graph.colours)
    short, long = (replace(answer, attention=even) for answer in (SHORT, LONG))
    cache = ResultCache(8)
    cache.put(graph, short)
    assert cache.get(graph, "m@1.0.0") is not None
    assert cache.get(graph, "m@1.0.0", embedding=True) is None
    cache.put(graph, long)
    cache.put(graph, short)  # does not overwrite the longer one
    found = cache.get(graph, "m@1.0.0", embedding=True)
    assert found is not None
    assert found.embedding == (1.0, 2.0)


def test_a_request_of_a_vector_does_not_follow_one_without() -> None:
    [graph] = packed(1)
    cache, parts = ResultCache(8), [(graph, ["m@1.0.0"])]
    with cache.lead(parts, INTERACTIVE, 1e12):
        assert cache.in_flight(graph, "m@1.0.0", INTERACTIVE, 1e12) is not None
        assert cache.in_flight(graph, "m@1.0.0", INTERACTIVE, 1e12, embedding=True) is None
        with cache.lead(parts, INTERACTIVE, 1e12, embedding=True):
            for embedding in (False, True):
                assert cache.in_flight(graph, "m@1.0.0", INTERACTIVE, 1e12, embedding=embedding) is not None


def test_it_travels_through_the_broker() -> None:
    [graph] = packed(1)
    for embedding in (False, True):
        entry = InferenceRequest(
            id="1", reply_to="r", models=("m@1.0.0",), deadline=1e12, embedding=embedding, packed=graph.content
        )
        assert InferenceRequest.unpack(entry.pack()).embedding is embedding
    answer = InferenceReply("1", (SHORT, LONG))
    assert InferenceReply.unpack(answer.pack()) == answer
