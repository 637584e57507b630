"""The OpenAPI document: FastAPI's own, the operations of prediction routes, and what every operation shares."""

from collections.abc import Collection
from copy import deepcopy
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, TypeAdapter

from deepergatgnn.service.http.prediction_route import PredictionRoute
from deepergatgnn.service.http.problems import LATER, PROBLEM_JSON
from deepergatgnn.service.schemas import (
    BulkItem,
    BulkRequest,
    BulkResponse,
    PredictRequest,
    PredictResponse,
    Problem,
)

Document = dict[str, Any]
REFERENCE = "#/components/schemas/{model}"
EVERYWHERE = (400, 408, 421, 431, 503)  # of the connection and the middleware, which every request passes
KEYED = (401, 403)
REQUEST_ID = {"description": "The request's own, or a new one.", "required": True, "schema": {"type": "string"}}
RETRY_AFTER = {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}}
CHALLENGE = {"required": True, "schema": {"const": "Bearer"}}
SCHEMES = {
    scheme.scheme_name: scheme.model.model_dump(mode="json", by_alias=True, exclude_none=True)
    for scheme in (HTTPBearer(scheme_name="bearer"), APIKeyHeader(name="X-API-Key", scheme_name="key"))
}
REQUEST_ID_HEADER = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "Comes back in the answer and stands in the logs; one with other characters is replaced.",
    "schema": {"type": "string"},
    "example": "screen-17:4",
}


def reference(model: type[Any]) -> Document:
    """Return a reference to a schema of the document."""
    return {"$ref": REFERENCE.format(model=model.__name__)}


def query_parameters(model: type[BaseModel]) -> list[Document]:
    """Return the fields of a model as parameters of the query."""
    fields = model.model_json_schema()["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in fields.items()]


def body(content: Document) -> Document:
    """Return a required request body with this content by media type."""
    return {"required": True, "content": content}


def statuses(*numbers: int) -> dict[int | str, Document]:
    """Return error responses, which `describe` completes, in the form of FastAPI's `responses`."""
    return {number: {"description": HTTPStatus(number).phrase} for number in numbers}


def prediction_responses(content: Document, **more: Any) -> Document:
    """Return the responses of a prediction route: with this content by media type, or an error."""
    errors = {str(number): response for number, response in statuses(404, 413, 415, 422, 429, 500, 504).items()}
    return {"200": {"description": "Successful Response", "content": content} | more} | errors


def describe(app: FastAPI, *, keyed: bool, open_paths: Collection[str], root_path: str = "") -> Document:
    """Return the document of an application.

    Args:
        app: with all its routes.
        keyed: whether requests need a key.
        open_paths: paths that need none.
        root_path: path beneath which a proxy serves it.
    """
    document: Document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    if root_path:
        document["servers"] = [{"url": root_path}]
    for route in app.routes:
        if isinstance(route, PredictionRoute):
            document["paths"][route.path] = {"post": deepcopy(route.operation)}
    components = document["components"]
    components["securitySchemes"] = SCHEMES
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, answered as a Problem here
        components["schemas"].pop(name, None)
    components["schemas"] |= _schemas()
    if keyed:
        document["security"] = [{name: []} for name in SCHEMES]
    for path, operations in document["paths"].items():
        is_open = path in open_paths
        for operation in operations.values():
            if is_open:
                operation["security"] = []
            _complete(operation, EVERYWHERE if is_open else EVERYWHERE + KEYED)
    return document


def _schemas() -> Document:
    """Return the schemas that prediction routes and errors refer to."""
    requests, responses = (PredictRequest, BulkItem, BulkRequest, Problem), (PredictResponse, BulkResponse)
    adapters: list[tuple[Any, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        *((model, "validation", TypeAdapter(model)) for model in requests),
        *((model, "serialization", TypeAdapter(model)) for model in responses),
    ]
    _, schema = TypeAdapter.json_schemas(adapters, ref_template=REFERENCE)
    schemas: Document = schema["$defs"]
    # An item that is no BulkItem fails alone.
    schemas["BulkRequest"]["properties"]["structures"]["items"] = {"anyOf": [reference(BulkItem), {}]}
    return schemas


def _complete(operation: Document, common: tuple[int, ...]) -> None:
    """Add the errors, headers and parameters that operations share."""
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    responses |= {str(status): each for status, each in statuses(*common).items() if str(status) not in responses}
    for status, response in responses.items():
        headers = response.setdefault("headers", {})
        headers["X-Request-ID"] = REQUEST_ID
        if int(status) in LATER:
            headers["Retry-After"] = RETRY_AFTER
        if int(status) == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = CHALLENGE
        if int(status) >= HTTPStatus.BAD_REQUEST:
            response["content"] = {PROBLEM_JSON: {"schema": reference(Problem)}}
    operation["responses"] = dict(sorted(responses.items()))
    operation.setdefault("parameters", []).append(REQUEST_ID_HEADER)
