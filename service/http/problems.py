"""Problem documents (RFC 9457): the one table from error codes to HTTP statuses, and the one writer of problems."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from deepergatgnn.errors import ArtifactError, DeeperGATGNNError, ModelNotFoundError, StructureError
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.telemetry import metrics

PROBLEM_JSON = "application/problem+json"
REFUSED_STRUCTURE = 422  # of every code that is not in the table
STATUSES: Mapping[str, int] = MappingProxyType(
    {
        "malformed": 400,
        "unauthorized": 401,
        "key_disabled": 403,
        "wrong_origin": 403,
        "not_found": 404,
        "unknown_model": 404,
        "method_not_allowed": 405,
        "too_slow": 408,
        "too_large": 413,
        "too_many_atoms": 413,
        "too_many_bytes": 413,
        "too_many_edges": 413,
        "too_many_structures": 413,
        "unknown_media_type": 415,
        "wrong_host": 421,
        "overloaded": 429,
        "rate_limited": 429,
        "head_too_large": 431,
        "internal": 500,
        "prediction_failed": 500,
        "broker_unavailable": 503,
        "draining": 503,
        "model_unavailable": 503,
        "no_model": 503,
        "no_worker": 503,
        "parsing_delayed": 503,
        "too_many_connections": 503,
        "deadline_passed": 504,
    }
)
LATER = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


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
    """Return the service error of a crystal's failure, after counting it by its code.

    Raise it `from None`: it may be the error itself, and an exception that is its own cause keeps the request's body
    in memory.
    """
    found = service_error(error)
    metrics.FAILURES.labels(found.code).inc()
    return found


def problem_of(request: Request, error: ServiceError, status: int | None = None) -> Response:
    """Return the problem document of an error as the response to a request; the access log gets its code.

    Args:
        request: whose state holds the request id.
        error: with its code and detail.
        status: if the framework has decided it; else that of the code.
    """
    request.state.code = error.code
    status = status_of(error.code) if status is None else status
    content = orjson.dumps(problem_document(status, error.code, error.detail, request.state.request_id))
    return Response(content, status, problem_headers(error, status), PROBLEM_JSON)


def problem_headers(error: ServiceError, status: int) -> dict[str, str]:
    """Return the headers that tell a client what to do about an error."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None or status in LATER:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s or 1)))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if status == HTTPStatus.REQUEST_TIMEOUT:
        headers["Connection"] = "close"
    return headers


def problem_document(status: int, code: str, detail: str, request_id: str) -> dict[str, Any]:
    """Return the fields of `schemas.Problem`."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
