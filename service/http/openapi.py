"""The OpenAPI document: what every operation may answer beside its own, with which headers, and how keys are sent."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from deepergatgnn.service.http.access import OPEN_PATHS
from deepergatgnn.service.http.problems import LATER, PROBLEM_JSON
from deepergatgnn.service.http.request_body import LEAST_MS
from deepergatgnn.service.schemas import BulkItem, BulkRequest, PredictRequest, Problem

Document = dict[str, Any]
REFERENCE = "#/components/schemas/{model}"
# Of the connection, the envelope and the door, which every request passes.
EVERYWHERE = (400, 408, 421, 431, 503)
KEYED = (401, 403)
REQUEST_ID = {"description": "The request's own, or a new one.", "required": True, "schema": {"type": "string"}}
RETRY_AFTER = {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}}
CHALLENGE = {"required": True, "schema": {"const": "Bearer"}}
TIMING = {"description": "`latency_ms`, as `phase;dur=ms`.", "required": True, "schema": {"type": "string"}}
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
GIVEN_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "Comes back in the answer and stands in the logs; one with other characters is replaced.",
    "schema": {"type": "string"},
    "example": "screen-17:4",
}
DEADLINE = {
    "name": "X-Request-Deadline-Ms",
    "in": "header",
    "description": "After so many milliseconds nobody waits for the answer any more; only shortens the service's own.",
    "schema": {"type": "number", "minimum": LEAST_MS},
    "example": 30000,
}


def refer(model: type[BaseModel]) -> Document:
    """A reference to a schema of the document."""
    return {"$ref": REFERENCE.format(model=model.__name__)}


def query_parameters(model: type[BaseModel]) -> list[Document]:
    """The fields of a model as parameters of the query."""
    fields = model.model_json_schema()["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in fields.items()]


def statuses(*numbers: int) -> dict[int | str, Document]:
    """Errors of one operation, for FastAPI's `responses`; `describe` completes them."""
    return {number: {"description": HTTPStatus(number).phrase} for number in numbers}


def describe(app: FastAPI, *, keyed: bool, root_path: str = "") -> Document:
    """The document of an application.

    Args:
        app: with all its routes.
        keyed: whether requests need a key.
        root_path: beneath which a proxy serves it.
    """
    document: Document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    if root_path:
        document["servers"] = [{"url": root_path}]
    components = document["components"]
    components["securitySchemes"] = SCHEMES
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, answered as a Problem here
        components["schemas"].pop(name, None)
    for model in (PredictRequest, BulkItem, BulkRequest, Problem):
        components["schemas"][model.__name__] = model.model_json_schema(ref_template=REFERENCE)
        components["schemas"][model.__name__].pop("$defs", None)
    # What is not a BulkItem is refused, but by itself.
    components["schemas"]["BulkRequest"]["properties"]["structures"]["items"] = {"anyOf": [refer(BulkItem), {}]}
    if keyed:
        document["security"] = [{name: []} for name in SCHEMES]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in OPEN_PATHS:
                operation["security"] = []
            _complete(operation, EVERYWHERE + (() if path in OPEN_PATHS else KEYED))
    return document


def _complete(operation: Document, common: tuple[int, ...]) -> None:
    """Give an operation the errors, headers and parameters that it shares with others."""
    answers = operation["responses"]
    if "HTTPValidationError" in str(answers.get("422")):
        del answers["422"]
    answers |= {str(status): answer for status, answer in statuses(*common).items() if str(status) not in answers}
    for status, answer in answers.items():
        headers = answer.setdefault("headers", {})
        headers["X-Request-ID"] = REQUEST_ID
        if int(status) in LATER:
            headers["Retry-After"] = RETRY_AFTER
        if int(status) == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = CHALLENGE
        if int(status) >= HTTPStatus.BAD_REQUEST:
            answer["content"] = {PROBLEM_JSON: {"schema": refer(Problem)}}
    operation["responses"] = dict(sorted(answers.items()))
    operation.setdefault("parameters", []).append(GIVEN_ID)
