"""The HTTP routes, but for bulk. They never import torch."""

import time
from contextlib import suppress
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect

from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.errors import DeeperGATGNNError
from deepergatgnn.model_store import split_reference
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.dependencies import State, flow_of_request, state_of
from deepergatgnn.service.http.direct_route import DirectRoute
from deepergatgnn.service.http.disconnect import ClientGoneError, unless_gone
from deepergatgnn.service.http.openapi import DEADLINE, TIMING, query_parameters, refer, statuses
from deepergatgnn.service.http.page import page_beneath
from deepergatgnn.service.http.problems import counted, service_error
from deepergatgnn.service.http.request_body import patience_s, read_posted
from deepergatgnn.service.prediction.catalogue import Catalogue
from deepergatgnn.service.schemas import (
    Health,
    ModelList,
    ModelSummary,
    ModelVersion,
    PredictOptions,
    PredictRequest,
    PredictResponse,
    Readiness,
    ReadyModels,
)
from deepergatgnn.service.telemetry.tracing import PHASES
from deepergatgnn.service.telemetry.worker_metrics import merge_reports

CLIENT_GONE = 499  # as nginx says it; nobody reads it but the metrics
SERVER_TIMING = ", ".join(f"{phase};dur={{{phase}:.3f}}" for phase in (*PHASES, "total"))
ERRORS = statuses(404, 413, 415, 422, 429, 500, 504)
router = APIRouter()


async def predict(request: Request) -> Response:
    """Post a CIF, POSCAR, extxyz or JSON structure; get values, intervals, attention and times.

    With a plain body or a multipart form, `format`, `models` and `attention` are query parameters.
    """
    started = time.perf_counter()
    state = state_of(request)
    try:
        answer = await _predict(request, state, started)
    except (ClientGoneError, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    except DeeperGATGNNError as error:
        raise counted(error) from None
    latency_ms = answer["latency_ms"]
    if state.tracing.enabled:
        state.tracing.record(request.state.request_id, answer["formula"], latency_ms, request.headers)
    timing = SERVER_TIMING.format_map(latency_ms)
    return Response(orjson.dumps(answer), media_type="application/json", headers={"Server-Timing": timing})


PREDICT = DirectRoute(
    "/predict",
    predict,
    response_model=PredictResponse,
    response_model_exclude_none=True,
    responses=ERRORS | {200: {"headers": {"Server-Timing": TIMING}}},
    summary="Properties of one crystal",
    parameters=[*query_parameters(PredictOptions), DEADLINE],
    body={
        "application/json": {"schema": refer(PredictRequest)},
        "chemical/x-cif": {"schema": {"type": "string"}},
        "text/plain": {"schema": {"type": "string"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "string", "format": "binary"}},
                "required": ["file"],
                "additionalProperties": False,
            }
        },
    },
)


async def _predict(request: Request, state: State, started: float) -> dict[str, Any]:
    request.state.caller.spend(1)
    deadline = time.monotonic() + patience_s(request, state.settings.deadline_s)
    posted = await read_posted(request)  # who is slow to send it takes nobody's place
    demand = state.oracle.demand(posted.models, posted.size)
    with state.dispatcher.admission.admit("interactive", flow_of_request(request), demand) as ticket:
        work = state.oracle.answer(
            posted,
            request_id=request.state.request_id,
            started=started,
            deadline=deadline,
            lane="interactive",
            ticket=ticket,
        )
        return await unless_gone(request, work)


@router.get("/models", summary="Every model of the store")
async def list_models(request: Request) -> ModelList:
    """Names, properties, units, versions and test errors."""
    catalogue = state_of(request).catalogue
    summaries = []
    for name in catalogue.production():
        with suppress(DeeperGATGNNError):  # it was taken away this very moment
            summaries.append(_summary(catalogue, name))
    return ModelList(models=summaries)


@router.get("/models/{name}", responses=statuses(404), summary="One model")
async def show_model(request: Request, name: str) -> ModelSummary:
    """One model and its versions."""
    try:
        return _summary(state_of(request).catalogue, name)
    except DeeperGATGNNError as error:
        raise service_error(error) from None


@router.get("/models/{name}/{version}", responses=statuses(404), summary="The manifest of a version")
async def show_version(request: Request, name: str, version: str) -> Manifest:
    """Everything about a version but its weights."""
    try:
        return state_of(request).catalogue.version(*split_reference(f"{name}@{version}")).manifest
    except DeeperGATGNNError as error:
        raise service_error(error) from None


def _summary(catalogue: Catalogue, name: str) -> ModelSummary:
    versions = catalogue.versions(name)
    production = catalogue.production().get(name)
    manifest = catalogue.version(name, production or versions[-1]).manifest
    return ModelSummary(
        name=name,
        production=production,
        live=catalogue.live(name) if production else None,
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


@router.get("/readyz", summary="Can a request be answered now")
async def readyz(request: Request) -> Readiness:
    """Ready: the broker is reachable, a worker is alive and has a model, the process is not draining.

    `models` says which versions answer, and why others that are in production do not.
    """
    state = state_of(request)
    state.dispatcher.readiness()
    offer = state.catalogue.offer()
    keyed = state.settings.api_keys or state.settings.api_keys_file  # the probe is open without a key
    failed = dict.fromkeys(offer.failed, "see the log") if keyed else dict(offer.failed)
    if not offer.ready:
        reasons = "; ".join(f"{which}: {reason}" for which, reason in failed.items()) or "none is in production"
        raise ServiceError("no_model", f"no model can answer: {reasons}", 5)
    models = ReadyModels(ready=[*offer.ready], failed=failed)
    return Readiness(workers=state.dispatcher.workers, models=models)


@router.get("/metrics", response_class=PlainTextResponse, summary="What Prometheus reads")
async def show_metrics(request: Request) -> Response:
    """Prometheus text: of this API process, and of the workers by name."""
    reports = await state_of(request).dispatcher.worker_metrics()
    return Response(merge_reports(reports), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page(request: Request) -> HTMLResponse:
    """The page for people."""
    return HTMLResponse(page_beneath(state_of(request).settings.root_path))
