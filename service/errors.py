"""Errors of the HTTP interface: RFC 9457 problem documents, and one table from kernel codes to statuses."""

from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from deepergatgnn.errors import ArtifactError, DeeperGATGNNError, ModelNotFoundError, StructureError
from service import metrics
from service.refusals import ServiceError

__all__ = [
    "PROBLEM_JSON",
    "ServiceError",
    "broker_unavailable",
    "counted",
    "draining",
    "parsing_delayed",
    "problem",
    "problem_document",
    "problem_headers",
    "service_error",
    "unforeseen",
]
PROBLEM_JSON = "application/problem+json"
LATER = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
TOO_LARGE = frozenset({"too_many_atoms", "too_many_edges", "too_many_bytes"})


def draining() -> ServiceError:
    """The process ends."""
    return ServiceError(503, "draining", "the service is shutting down: retry elsewhere", 5)


def broker_unavailable() -> ServiceError:
    """The queue is out of reach."""
    return ServiceError(503, "broker_unavailable", "the queue cannot be reached: retry soon", 2)


def parsing_delayed(why: str) -> ServiceError:
    """A file could not be read, through no fault of its own."""
    return ServiceError(503, "parsing_delayed", f"{why}: retry later", 5)


def unforeseen() -> ServiceError:
    """What an error that nobody foresaw is to the client; what it was is for the log alone."""
    return ServiceError(500, "internal", "the service failed: report the request id")


def service_error(error: DeeperGATGNNError) -> ServiceError:
    """The HTTP form of a kernel error."""
    match error:
        case ServiceError():
            return error
        case StructureError():
            return ServiceError(413 if error.code in TOO_LARGE else 422, error.code, error.detail)
        case ModelNotFoundError():
            return ServiceError(404, "unknown_model", str(error))
        case ArtifactError():
            return ServiceError(503, "model_unavailable", str(error), 5)
        case _:
            return ServiceError(503, "model_unavailable", "the model cannot be used at the moment", 5)


def counted(error: DeeperGATGNNError) -> ServiceError:
    """The HTTP form of an error that a crystal got, for whoever raises it; it is counted by its code.

    Raise it `from None`: it may be the error itself, and one that is its own cause keeps the body that it knows of.
    """
    found = service_error(error)
    metrics.FAILURES.labels(found.code).inc()
    return found


def problem(request: Request, error: ServiceError) -> JSONResponse:
    """The problem document of an error; the access log has its code."""
    request.state.code = error.code
    document = problem_document(error.status, error.code, error.detail, request.state.request_id)
    return JSONResponse(document, error.status, problem_headers(error), PROBLEM_JSON)


def problem_headers(error: ServiceError) -> dict[str, str]:
    """What a client should do about an error, as headers."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None or error.status in LATER:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s or 1)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == HTTPStatus.REQUEST_TIMEOUT:
        headers["Connection"] = "close"
    return headers


def problem_document(status: int, code: str, detail: str, request_id: str) -> dict[str, Any]:
    """The fields of `schemas.Problem`."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
