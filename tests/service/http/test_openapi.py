"""The OpenAPI document is true: every answer is one that it names, in the form that it gives; schemathesis tries."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from deepergatgnn.service.http.access import OPEN_PATHS
from deepergatgnn.service.http.app import create_app
from deepergatgnn.service.settings import Settings
from tests.conftest import service

KEY = "a-key-for-the-tests-of-the-document"
EXAMPLES = int(os.environ.get("DEEPERGATGNN_TEST_EXAMPLES", "30"))  # of each operation and phase
CONFIG = Path(__file__).with_name("schemathesis.toml")
CIF = Path("examples/ZrO2.cif").read_text("utf-8")
POSCAR = Path("examples/ZnO.POSCAR").read_text("utf-8")
METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH", "TRACE")
Document = dict[str, Any]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A service that asks for a key."""
    with service(DEEPERGATGNN_API_KEYS=KEY) as where:
        yield where


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60, headers={"X-API-Key": KEY}) as opened:
        yield opened


@pytest.fixture(scope="module")
def document(address: str) -> Document:
    found: Document = httpx.get(f"{address}/openapi.json").json()
    return found


def check(document: Document, reply: httpx.Response) -> None:
    """A reply is one of those that the document names, with their headers, and its body fits their schema."""
    method, path = reply.request.method.lower(), reply.request.url.path
    named = document["paths"][path if path in document["paths"] else "/models/{name}"]
    answer = named[method]["responses"][str(reply.status_code)]
    assert {name.lower() for name, header in answer["headers"].items() if header["required"]} <= set(reply.headers)
    media_type = reply.headers["content-type"].partition(";")[0]
    schema = answer["content"][media_type]["schema"]
    if media_type != "application/x-ndjson":
        jsonschema_rs.validate({**schema, "components": document["components"]}, reply.json())


def test_schemathesis_finds_nothing(address: str, tmp_path: Path) -> None:
    """Its examples, the edges of every schema, random requests and chains of them, valid and not, with all checks."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(CONFIG), "run"]
    options = ["--checks", "all", "--max-examples", str(EXAMPLES), "--continue-on-failure", "--no-color"]
    environment = os.environ | {"DEEPERGATGNN_TESTED_KEY": KEY}
    done = subprocess.run(
        [*command, f"{address}/openapi.json", *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    assert re.search(r"\b(\d+) generated, \1 passed", done.stdout), done.stdout[-3000:]  # it may warn of its own data
    assert "8 selected / 8 total" in done.stdout


def test_real_answers_have_the_form_that_is_documented(client: httpx.Client, document: Document) -> None:
    plain = client.post("/predict", content=CIF, headers={"Content-Type": "chemical/x-cif"})
    bare = client.post("/predict?attention=none", content=POSCAR, headers={"Content-Type": "text/plain"})
    form = client.post("/predict", files={"file": ("ZnO.POSCAR", POSCAR.encode())})
    bulk = client.post("/predict/batch", json={"structures": [{"structure": CIF}, {"structure": "?"}, 7]})
    for reply in (plain, bare, form, bulk, client.get("/models"), client.get("/models/bulk-modulus")):
        assert reply.status_code == httpx.codes.OK, reply.text
        check(document, reply)
    assert [set(result) == {"id", "error"} for result in bulk.json()["results"]] == [False, True, True]


def test_lines_are_results(client: httpx.Client, document: Document) -> None:
    body = {"structures": [{"structure": CIF, "id": "a"}, {"structure": "?", "id": "b"}]}
    reply = client.post("/predict/batch", json=body, headers={"Accept": "application/x-ndjson"})
    check(document, reply)
    results = [json.loads(line) for line in reply.text.splitlines()]
    whole = {"$ref": "#/components/schemas/BulkResponse", "components": document["components"]}
    jsonschema_rs.validate(whole, {"results": results})
    assert {result["id"] for result in results} == {"a", "b"}


def test_a_wrong_form_would_be_seen(client: httpx.Client, document: Document) -> None:
    """Or else the tests above show nothing."""
    reply = client.post("/predict", content=CIF, headers={"Content-Type": "chemical/x-cif"})
    answer = reply.json()
    del answer["cell"]["volume"]
    schema = {"$ref": "#/components/schemas/PredictResponse", "components": document["components"]}
    with pytest.raises(jsonschema_rs.ValidationError, match="volume"):
        jsonschema_rs.validate(schema, answer)


def test_the_document_is_valid(document: Document) -> None:
    assert document["openapi"].startswith("3.1")
    for name in document["components"]["schemas"]:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema_rs.meta.validate({**document["components"]["schemas"][name]})
        jsonschema_rs.Draft202012Validator(schema)  # each reference leads somewhere
    assert "HTTPValidationError" not in json.dumps(document)


def test_what_is_posted_and_how_keys_are_sent_is_documented(document: Document) -> None:
    predict, bulk = (document["paths"][path]["post"] for path in ("/predict", "/predict/batch"))
    types = {"application/json", "chemical/x-cif", "text/plain", "multipart/form-data"}
    assert set(predict["requestBody"]["content"]) == types
    assert set(bulk["responses"]["200"]["content"]) == {"application/json", "application/x-ndjson"}
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            asked = operation.get("security", document["security"])
            assert bool(asked) == (path not in OPEN_PATHS)
            assert ("401" in operation["responses"]) == (path not in OPEN_PATHS)


def test_without_keys_none_is_documented() -> None:
    document = create_app(Settings(), "redis://127.0.0.1:1").openapi()
    assert not any(document.get("security", []))
    assert not any(
        operation.get("security") for operations in document["paths"].values() for operation in operations.values()
    )


@pytest.mark.parametrize("method", METHODS)
def test_other_methods_are_told_which_are_allowed(client: httpx.Client, document: Document, method: str) -> None:
    for path, operations in document["paths"].items():
        if method.lower() in operations:
            continue
        reply = client.request(method, path.replace("{name}", "bulk-modulus").replace("{version}", "1.0.0"))
        assert reply.status_code == httpx.codes.METHOD_NOT_ALLOWED, path
        assert reply.headers["content-type"] == "application/problem+json"
        also = {"options", *({"head"} if "get" in operations else ())}  # of every route, as HTTP says
        assert {allowed.lower() for allowed in reply.headers["allow"].split(", ")} == also | set(operations)


def test_the_examples_are_of_the_form_that_they_show(document: Document) -> None:
    shown = {name: schema.get("examples", []) for name, schema in document["components"]["schemas"].items()}
    for name, examples in shown.items():
        for example in examples:
            jsonschema_rs.validate(
                {"$ref": f"#/components/schemas/{name}", "components": document["components"]}, example
            )
    fields = {field for name in ("PredictRequest", "BulkRequest") for example in shown[name] for field in example}
    assert fields == {"structure", "structures", "format", "models", "attention", "embedding", "id"}
    [answer] = shown["PredictResponse"]
    assert set(answer) == set(document["components"]["schemas"]["PredictResponse"]["properties"])
    prediction = document["components"]["schemas"]["PropertyPrediction"]["properties"]
    # Models with classes, and networks without attention, have a null that the generator of the document leaves out.
    assert set(answer["predictions"][0]) == set(prediction) - {"probabilities", "attention_reason"}
