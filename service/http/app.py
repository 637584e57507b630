"""The ASGI application of one API process, composed of its parts; the process never imports torch."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

from deepergatgnn import __version__
from deepergatgnn.model_store import open_models
from deepergatgnn.service.garbage_collector import tune_garbage_collector
from deepergatgnn.service.http import models, status
from deepergatgnn.service.http.access import OPEN_PATHS, AccessControl
from deepergatgnn.service.http.api_keys import ApiKeys
from deepergatgnn.service.http.body_limits import BodyLimits
from deepergatgnn.service.http.dependencies import Dependencies
from deepergatgnn.service.http.openapi import describe
from deepergatgnn.service.http.predict import PREDICT
from deepergatgnn.service.http.predict_batch import PREDICT_BATCH
from deepergatgnn.service.http.prediction_route import MIB
from deepergatgnn.service.http.problems import EXCEPTION_HANDLERS
from deepergatgnn.service.http.request_context import RequestContext
from deepergatgnn.service.http.root_path import RootPath
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.service.prediction.catalogue import Catalogue
from deepergatgnn.service.prediction.pipeline import PredictionPipeline
from deepergatgnn.service.prediction.result_cache import ResultCache
from deepergatgnn.service.queue.client import InferenceClient
from deepergatgnn.service.queue.cluster import ClusterState
from deepergatgnn.service.scheduling.admission import Admission
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry.tracing import Tracing, otlp_exporter

PREDICTION_ROUTES = (PREDICT, PREDICT_BATCH)
DESCRIPTION = """Properties of crystals with DeeperGATGNN: post a CIF, POSCAR, extxyz or JSON structure; get the value,
a 90 % interval, whether the crystal is like the training set, the attention of every atom, and each phase's time."""


def create_dependencies(settings: Settings, broker_url: str) -> Dependencies:
    """Return the parts of one API process, not started.

    Args:
        settings: of the service.
        broker_url: of the broker, embedded or not.
    """
    cache = ResultCache(settings.cache_entries)
    pool = ParsePool(settings.parse_processes, settings.parse_timeout_s, settings.parse_memory_mib, named=cache.enabled)
    admission, inference = Admission(settings), InferenceClient(broker_url)
    cluster = ClusterState(inference, admission, settings)
    store = open_models(settings.model_store, settings.models)
    catalogue = Catalogue(store, lambda: cluster.loaded, lambda: cluster.failed)
    pipeline = PredictionPipeline(catalogue, pool, inference, admission, cache)
    tracing = Tracing(otlp_exporter() if settings.tracing else None)
    return Dependencies(settings, catalogue, inference, cluster, admission, pool, pipeline, tracing)


def create_app(dependencies: Dependencies, keys: ApiKeys) -> ASGIApp:
    """Return the API behind its middleware, which precedes FastAPI's own as every request passes it.

    Args:
        dependencies: started and stopped by the lifespan of the application.
        keys: that are accepted.
    """
    settings = dependencies.settings
    app: ASGIApp = BodyLimits(
        create_api(dependencies, keyed=bool(keys)),
        int(settings.max_body_mib * MIB),
        {route.path: route.max_body_bytes(settings) for route in PREDICTION_ROUTES},
        int(settings.max_bodies_mib * MIB),
        settings.body_timeout_s,
    )
    app = AccessControl(app, keys, settings)
    app = RequestContext(app, PREDICTION_ROUTES, dependencies.check_early, settings.cors_origins)
    return RootPath(app, settings.root_path) if settings.root_path else app


def create_api(dependencies: Dependencies, *, keyed: bool = False) -> FastAPI:
    """Return the routes, error handlers and documents.

    Args:
        dependencies: of the endpoints.
        keyed: whether the OpenAPI document requires a key.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await dependencies.start()
            tune_garbage_collector()
            yield
        finally:
            await dependencies.stop()

    api = FastAPI(
        title="DeeperGATGNN",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        exception_handlers=EXCEPTION_HANDLERS,
    )
    api.state.dependencies = dependencies
    api.routes[:0] = PREDICTION_ROUTES
    api.include_router(models.router)
    api.include_router(status.router)
    document = describe(api, keyed=keyed, open_paths=OPEN_PATHS, root_path=dependencies.settings.root_path)
    api.openapi = lambda: document  # type: ignore[method-assign]
    return api
