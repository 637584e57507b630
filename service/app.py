"""The API application: routes, errors, keys, limits; its process never imports torch."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from deepergatgnn import __version__
from model_store import ModelStore
from service.authentication import Keys
from service.catalogue import Catalogue
from service.dispatcher import Dispatcher
from service.envelope import Envelope
from service.errors import ServiceError, problem
from service.parsing import ParsePool
from service.routes import router
from service.settings import Settings

CODES = {400: "malformed", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
DESCRIPTION = """Properties of crystals with DeeperGATGNN: post a CIF, POSCAR, extxyz or JSON structure; get the value,
a 90 % interval, whether the crystal is like the training set, the attention of every atom, and each phase's time."""
log = structlog.get_logger("api")


def create_app(settings: Settings, broker_url: str) -> FastAPI:
    """The application of one API process.

    Args:
        settings: of the service.
        broker_url: of the broker, embedded or not.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state = app.state
        state.settings = settings
        state.catalogue = Catalogue(ModelStore(settings.model_store))
        state.pool = ParsePool(settings.parse_processes, settings.parse_timeout_s, settings.parse_memory_mib)
        state.dispatcher = Dispatcher(settings, broker_url)
        try:
            await state.dispatcher.start()
            await state.pool.warm()
            yield
        finally:
            state.dispatcher.draining = True
            await state.dispatcher.stop()
            state.pool.close()

    app = FastAPI(
        title="DeeperGATGNN",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        dependencies=[Depends(Keys(settings.api_keys).check)],
    )
    app.include_router(router)
    app.add_middleware(Envelope, max_body=int(settings.max_body_mib * 1024 * 1024))
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_surprise)
    return app


async def _on_service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)  # noqa: S101 - registered for this class only
    return problem(request, error)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    first = error.errors()[0]
    return problem(request, ServiceError(400, "malformed", f"{'.'.join(map(str, first['loc']))}: {first['msg']}"))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    code = CODES.get(error.status_code, "http_error")
    return problem(request, ServiceError(error.status_code, code, str(error.detail)))


async def _on_surprise(request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected", error=repr(error), request_id=request.state.request_id)
    return problem(request, ServiceError(500, "internal", "the service failed: report the request id"))
