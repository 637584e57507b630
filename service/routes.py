"""The HTTP routes. They never import torch."""

import time
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from deepergatgnn.errors import DeeperGATGNNError
from deepergatgnn.manifest import Manifest
from service import metrics
from service.catalogue import Catalogue
from service.dispatcher import Dispatcher
from service.errors import ServiceError, service_error
from service.page import PAGE
from service.parsing import ParsePool
from service.prediction import Posted, predict_crystal
from service.schemas import (
    Attention,
    Format,
    Health,
    ModelList,
    ModelReference,
    ModelSummary,
    ModelVersion,
    PredictRequest,
    PredictResponse,
    Problem,
    Readiness,
)
from service.settings import Settings

PLAIN = frozenset({"chemical/x-cif", "text/plain", "application/octet-stream"})
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}}
    for status in (400, 401, 404, 413, 415, 422, 429, 500, 503, 504)
}
router = APIRouter()


def _state(request: Request) -> tuple[Settings, Catalogue, ParsePool, Dispatcher]:
    state = request.app.state
    return state.settings, state.catalogue, state.pool, state.dispatcher


@router.post(
    "/predict",
    response_model=PredictResponse,
    response_model_exclude_none=True,
    responses=ERRORS,
    summary="Properties of one crystal",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": PredictRequest.model_json_schema()},
                "chemical/x-cif": {"schema": {"type": "string"}},
                "text/plain": {"schema": {"type": "string"}},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"file": {"type": "string", "format": "binary"}},
                        "required": ["file"],
                    }
                },
            },
        }
    },
)
async def predict(
    request: Request,
    file_format: Annotated[Format | None, Query(alias="format")] = None,
    models: Annotated[list[ModelReference] | None, Query(max_length=32)] = None,
    attention: Annotated[Attention | None, Query()] = None,
) -> Response:
    """Post a CIF, POSCAR, extxyz or JSON structure; get values, intervals, attention and times.

    With a plain body or a multipart form, `format`, `models` and `attention` are query parameters.
    """
    started = time.perf_counter()
    settings, catalogue, pool, dispatcher = _state(request)
    try:
        with dispatcher.admission():
            deadline = time.time() + _patience_s(request, settings)
            posted = await _read(request, file_format, models, attention)
            answer = await predict_crystal(
                posted, request.state.request_id, started, deadline, catalogue, pool, dispatcher
            )
    except DeeperGATGNNError as error:
        refused = service_error(error)
        metrics.FAILURES.labels(refused.code).inc()
        raise refused from error
    timing = ", ".join(f"{phase};dur={value:.3f}" for phase, value in answer.latency_ms.model_dump().items())
    content = answer.model_dump_json(exclude_none=True)
    return Response(content, media_type="application/json", headers={"Server-Timing": timing})


async def _read(
    request: Request, file_format: Format | None, models: list[str] | None, attention: Attention | None
) -> Posted:
    """The request in its one form, from any of the three it may be posted in.

    Raises:
        ServiceError: 400 malformed, 415 unknown media type.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        document = _json(await request.body())
        for key, value in (("format", file_format), ("models", models), ("attention", attention)):
            if value is not None:
                document.setdefault(key, value)
        try:
            body = PredictRequest.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ServiceError(400, "malformed", f"{where}: {first['msg']}") from None
        return Posted(body.structure, body.format, body.models, body.attention != "none", body.id)
    if media_type in PLAIN:
        source = await request.body()
    elif media_type == "multipart/form-data":
        source = await _uploaded(request)
    else:
        detail = (
            f"media type {media_type[:80] or 'none'!r} is not read: post application/json, chemical/x-cif, text/plain "
            "or multipart/form-data"
        )
        raise ServiceError(415, "unknown_media_type", detail)
    return Posted(
        source=source, format=file_format or "auto", models=models or [], attention=attention != "none", id=None
    )


def _json(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ServiceError(400, "malformed", f"the body is not JSON: {error}") from None
    if not isinstance(document, Mapping):
        raise ServiceError(400, "malformed", 'the body is not a JSON object: post {"structure": "..."}')
    return dict(document)


async def _uploaded(request: Request) -> bytes:
    async with request.form(max_files=1, max_fields=8) as form:
        file = form.get("file")
        if isinstance(file, UploadFile):
            return await file.read()
        if isinstance(file, str):
            return file.encode()
    raise ServiceError(400, "malformed", "the form has no field 'file'")


def _patience_s(request: Request, settings: Settings) -> float:
    """Seconds until the deadline: the service's own, or less if the client says so."""
    header = request.headers.get("x-request-deadline-ms")
    if header is None:
        return settings.deadline_s
    try:
        wanted = float(header) / 1000
    except ValueError:
        wanted = -1.0
    if not wanted > 0:
        raise ServiceError(400, "malformed", "X-Request-Deadline-Ms is not a positive number")
    return min(wanted, settings.deadline_s)


@router.get("/models", summary="Every model of the store")
async def list_models(request: Request) -> ModelList:
    """Names, properties, units, versions and test errors."""
    catalogue = _state(request)[1]
    return ModelList(models=[_summary(catalogue, name) for name in catalogue.production()])


@router.get("/models/{name}", responses={404: ERRORS[404]}, summary="One model")
async def show_model(request: Request, name: str) -> ModelSummary:
    """One model and its versions."""
    try:
        return _summary(_state(request)[1], name)
    except DeeperGATGNNError as error:
        raise service_error(error) from error


@router.get("/models/{name}/{version}", responses={404: ERRORS[404]}, summary="The manifest of a version")
async def show_version(request: Request, name: str, version: str) -> Manifest:
    """Everything about a version but its weights."""
    try:
        return _state(request)[1].resolve([f"{name}@{version}"])[0]
    except DeeperGATGNNError as error:
        raise service_error(error) from error


def _summary(catalogue: Catalogue, name: str) -> ModelSummary:
    versions = catalogue.versions(name)
    production = catalogue.production().get(name)
    manifest = catalogue.manifest(name, production or versions[-1])
    return ModelSummary(
        name=name,
        production=production,
        property=manifest.target.property,
        unit=manifest.target.unit,
        description=manifest.target.description,
        versions=[ModelVersion(version=version, production=version == production) for version in versions],
        test=manifest.metrics.get("test", {}),
    )


@router.get("/healthz", summary="Is the process alive")
async def healthz() -> Health:
    """Answers as long as the event loop runs."""
    return Health()


@router.get("/readyz", responses={503: ERRORS[503]}, summary="Can a request be answered now")
async def readyz(request: Request) -> Readiness:
    """Ready: the broker is reachable, a worker is alive, the process is not draining."""
    dispatcher = _state(request)[3]
    dispatcher.readiness()
    return Readiness(workers=dispatcher.workers)


@router.get("/metrics", include_in_schema=False)
async def show_metrics() -> Response:
    """Prometheus text."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    """The page for people."""
    return HTMLResponse(PAGE)
