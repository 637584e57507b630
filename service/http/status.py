"""Health, readiness, metrics, the page at `/` and the API documents at `/docs`."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.dependencies import dependencies_of
from deepergatgnn.service.http.page import page_beneath
from deepergatgnn.service.http.security_headers import DOCUMENTS
from deepergatgnn.service.schemas import Health, Readiness, ReadyModels
from deepergatgnn.service.telemetry.worker_metrics import merge_reports

router = APIRouter()


@router.get("/healthz", summary="Is the process alive")
async def healthz() -> Health:
    """Answers as long as the event loop runs."""
    return Health()


@router.get("/readyz", summary="Can a request be answered now")
async def readyz(request: Request) -> Readiness:
    """Ready: the broker is reachable, a worker is alive and has a model, the process is not draining.

    `models` says which versions answer, and why others that are in production do not.
    """
    dependencies = dependencies_of(request)
    settings, cluster = dependencies.settings, dependencies.cluster
    cluster.ensure_ready()
    offer = dependencies.catalogue.availability()
    keyed = settings.api_keys or settings.api_keys_file  # the probe needs no key, so it must not show reasons
    failed = dict.fromkeys(offer.failed, "see the log") if keyed else dict(offer.failed)
    if not offer.ready:
        reasons = "; ".join(f"{which}: {reason}" for which, reason in failed.items()) or "none is in production"
        raise ServiceError("no_model", f"no model can answer: {reasons}", 5)
    return Readiness(workers=cluster.workers, models=ReadyModels(ready=[*offer.ready], failed=failed))


@router.get("/metrics", response_class=PlainTextResponse, summary="What Prometheus reads")
async def show_metrics(request: Request) -> Response:
    """Prometheus text: of this API process, and of the workers by name."""
    reports = await dependencies_of(request).cluster.worker_metrics()
    return Response(merge_reports(reports), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page(request: Request) -> HTMLResponse:
    """Return the page for people."""
    return HTMLResponse(page_beneath(dependencies_of(request).settings.root_path))


@router.get("/docs", include_in_schema=False)
async def documents() -> HTMLResponse:
    """Return the API documents, in the very text that their Content-Security-Policy allows."""
    return HTMLResponse(DOCUMENTS)
