"""The API application: routes, errors, keys, limits; its process never imports torch."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from deepergatgnn import __version__
from deepergatgnn.errors import DeeperGATGNNError
from deepergatgnn.model_store import open_models
from deepergatgnn.service.errors import ServiceError, unforeseen
from deepergatgnn.service.garbage_collector import tune_garbage_collector
from deepergatgnn.service.http.dependencies import PARTS, State
from deepergatgnn.service.http.openapi import describe
from deepergatgnn.service.http.predict_batch import PREDICT_BATCH
from deepergatgnn.service.http.problems import problem_of, service_error
from deepergatgnn.service.http.routes import PREDICT, router
from deepergatgnn.service.http.security_headers import DOCUMENTS
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.service.prediction.catalogue import Catalogue
from deepergatgnn.service.prediction.pipeline import PredictionPipeline
from deepergatgnn.service.prediction.result_cache import ResultCache
from deepergatgnn.service.queue.client import InferenceClient
from deepergatgnn.service.queue.cluster import ClusterState
from deepergatgnn.service.scheduling.admission import Admission
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry.tracing import Tracing, otlp_exporter

CODES = {400: "malformed", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
DESCRIPTION = """Properties of crystals with DeeperGATGNN: post a CIF, POSCAR, extxyz or JSON structure; get the value,
a 90 % interval, whether the crystal is like the training set, the attention of every atom, and each phase's time."""
log = structlog.get_logger("api")


def create_app(settings: Settings, broker_url: str, *, keyed: bool = False) -> FastAPI:
    """The routes of one API process and their documents; what stands before them is in `front`.

    Args:
        settings: of the service.
        broker_url: of the broker, embedded or not.
        keyed: whether the documents ask for a key.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, State]]:
        cache = ResultCache(settings.cache_entries)
        pool = ParsePool(
            settings.parse_processes, settings.parse_timeout_s, settings.parse_memory_mib, named=cache.enabled
        )
        admission, dispatcher = Admission(settings), InferenceClient(broker_url)
        cluster = ClusterState(dispatcher, admission, settings)
        store = open_models(settings.model_store, settings.models)
        catalogue = Catalogue(store, lambda: cluster.loaded, lambda: cluster.failed)
        tracing = Tracing(otlp_exporter() if settings.tracing else None)
        oracle = PredictionPipeline(catalogue, pool, dispatcher, admission, cache)
        try:
            await dispatcher.start()
            await cluster.start()
            await pool.warm()
            tune_garbage_collector()
            yield {PARTS: State(settings, catalogue, dispatcher, cluster, admission, pool, oracle, tracing)}
        finally:
            dispatcher.draining = True
            await cluster.stop()
            await dispatcher.stop()
            pool.close()
            tracing.close()

    app = FastAPI(
        title="DeeperGATGNN",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.routes.extend((PREDICT, PREDICT_BATCH))
    app.include_router(router)
    app.add_route("/docs", _show_documents, include_in_schema=False)
    app.add_exception_handler(DeeperGATGNNError, _on_our_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_surprise)
    document = describe(app, keyed=keyed, root_path=settings.root_path)
    app.openapi = lambda: document  # type: ignore[method-assign]
    return app


async def _show_documents(_: Request) -> HTMLResponse:
    """The API documents, in the very text that their Content-Security-Policy was made for."""
    return HTMLResponse(DOCUMENTS)


async def _on_our_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DeeperGATGNNError)  # noqa: S101 - registered for this class only
    return problem_of(request, service_error(error))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    first = error.errors()[0]
    return problem_of(request, ServiceError("malformed", f"{'.'.join(map(str, first['loc']))}: {first['msg']}"))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    headers = dict(error.headers or {})
    if request.scope["path"] == "*":
        headers["Allow"] = "GET, POST"
    if "Allow" in headers:
        methods = {*headers["Allow"].split(", "), "OPTIONS"}
        headers["Allow"] = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    code = CODES.get(error.status_code, "http_error")
    answer = problem_of(request, ServiceError(code, str(error.detail)), error.status_code)
    answer.headers.update(headers)
    return answer


async def _on_surprise(request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected", error=repr(error), request_id=request.state.request_id)  # uvicorn writes where it was
    return problem_of(request, unforeseen())
