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
from model_store import open_models
from service.bulk import PREDICT_BATCH
from service.cache import ResultCache
from service.catalogue import Catalogue
from service.collector import tame_collector
from service.dispatcher import Dispatcher
from service.errors import ServiceError, problem, service_error, unforeseen
from service.headers import DOCUMENTS
from service.openapi import describe
from service.parse_pool import ParsePool
from service.prediction import Oracle
from service.routes import PREDICT, router
from service.settings import Settings
from service.state import PARTS, State
from service.tracing import Tracing, otlp_exporter

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
        dispatcher = Dispatcher(settings, broker_url)
        store = open_models(settings.model_store, settings.models)
        catalogue = Catalogue(store, lambda: dispatcher.loaded, lambda: dispatcher.failed)
        tracing = Tracing(otlp_exporter() if settings.tracing else None)
        oracle = Oracle(catalogue, pool, dispatcher, cache)
        try:
            await dispatcher.start()
            await pool.warm()
            tame_collector()
            yield {PARTS: State(settings, catalogue, dispatcher, pool, oracle, tracing)}
        finally:
            dispatcher.draining = True
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
    return problem(request, service_error(error))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    first = error.errors()[0]
    return problem(request, ServiceError(400, "malformed", f"{'.'.join(map(str, first['loc']))}: {first['msg']}"))


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
    answer = problem(request, ServiceError(error.status_code, code, str(error.detail)))
    answer.headers.update(headers)
    return answer


async def _on_surprise(request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected", error=repr(error), request_id=request.state.request_id)  # uvicorn writes where it was
    return problem(request, unforeseen())
