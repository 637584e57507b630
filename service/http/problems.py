"""Problem documents (RFC 9457): the one table from error codes to HTTP statuses, and the one writer of problems."""

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from deepergatgnn.errors import ArtifactError, DeeperGATGNNError, ModelNotFoundError, StructureError
from deepergatgnn.service.errors import ServiceError, unforeseen
from deepergatgnn.service.http.prediction_route import PredictionRoute
from deepergatgnn.service.telemetry import metrics

PROBLEM_JSON = "application/problem+json"
REFUSED_STRUCTURE = 422  # of every code that is not in the table
_CODES: Mapping[int, tuple[str, ...]] = {
    400: ("malformed",),
    401: ("unauthorized",),
    403: ("key_disabled", "wrong_origin"),
    404: ("not_found", "unknown_model"),
    405: ("method_not_allowed",),
    408: ("too_slow",),
    413: ("too_large", "too_many_atoms", "too_many_bytes", "too_many_edges", "too_many_structures"),
    415: ("unknown_media_type",),
    421: ("wrong_host",),
    429: ("overloaded", "rate_limited"),
    431: ("head_too_large",),
    500: ("internal", "prediction_failed"),
    503: (
        "broker_unavailable",
        "draining",
        "model_unavailable",
        "no_model",
        "no_worker",
        "parsing_delayed",
        "too_many_connections",
    ),
    504: ("deadline_passed",),
}
FRAMEWORK_CODES = {400: "malformed", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnected; seen in metrics only
STATUSES = {code: status for status, codes in _CODES.items() for code in codes}
LATER = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
log = structlog.get_logger("api")


def status_of(code: str) -> int:
    """Return the HTTP status of an error code."""
    return STATUSES.get(code, REFUSED_STRUCTURE)


def service_error(error: DeeperGATGNNError) -> ServiceError:
    """Return the error with its code and detail, for any error of the kernel or the store."""
    match error:
        case ServiceError():
            return error
        case StructureError():
            return ServiceError(error.code, error.detail)
        case ModelNotFoundError():
            return ServiceError("unknown_model", str(error))
        case ArtifactError():
            return ServiceError("model_unavailable", str(error), 5)
        case _:
            return ServiceError("model_unavailable", "the model cannot be used at the moment", 5)


def counted(error: DeeperGATGNNError) -> ServiceError:
    """Return the service error of a failed prediction after counting it by its code."""
    found = service_error(error)
    metrics.FAILURES.labels(found.code).inc()
    return found


def problem_of(scope: Scope, error: ServiceError, status: int | None = None) -> Response:
    """Return the problem document of an error as the response to a request; the access log gets its code.

    Args:
        scope: of the request, whose state has the request id.
        error: with its code and detail.
        status: if the framework has decided it; else that of the code.
    """
    scope["state"]["code"] = error.code
    status = status_of(error.code) if status is None else status
    headers: dict[str, str] = {}
    if error.retry_after_s is not None or status in LATER:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s or 1)))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if status == HTTPStatus.REQUEST_TIMEOUT:
        headers["Connection"] = "close"
    problem = {  # as `schemas.Problem`
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.detail,
        "code": error.code,
        "request_id": scope["state"]["request_id"],
    }
    return Response(orjson.dumps(problem), status, headers, PROBLEM_JSON)


async def _on_own_error(request: Request, error: DeeperGATGNNError) -> Response:
    is_prediction = isinstance(request.scope.get("route"), PredictionRoute)
    return problem_of(request.scope, counted(error) if is_prediction else service_error(error))


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    return problem_of(request.scope, ServiceError("malformed", f"{'.'.join(map(str, first['loc']))}: {first['msg']}"))


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    if request.scope["path"] == "*":
        headers["Allow"] = "GET, POST"
    if "Allow" in headers:
        methods = {*headers["Allow"].split(", "), "OPTIONS"}
        headers["Allow"] = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    code = FRAMEWORK_CODES.get(error.status_code, "http_error")
    response = problem_of(request.scope, ServiceError(code, str(error.detail)), error.status_code)
    response.headers.update(headers)
    return response


async def _on_client_disconnect(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises the exception again, and uvicorn logs its traceback.
    log.error("unexpected", error=repr(error), request_id=request.state.request_id)
    return problem_of(request.scope, unforeseen())


EXCEPTION_HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    DeeperGATGNNError: _on_own_error,
    RequestValidationError: _on_invalid_request,
    HTTPException: _on_http_exception,
    ClientDisconnect: _on_client_disconnect,
    Exception: _on_unexpected,
}
