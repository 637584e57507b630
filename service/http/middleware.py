"""What stands before the application, since every request passes it, and FastAPI's own layers would come first."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from deepergatgnn.service.http.access import AccessControl, Keys
from deepergatgnn.service.http.direct_route import HeadAsGet, Shortcut
from deepergatgnn.service.http.load_shedding import LoadShedding
from deepergatgnn.service.http.predict_batch import PREDICT_BATCH
from deepergatgnn.service.http.request_context import RequestContext
from deepergatgnn.service.http.root_path import RootPath
from deepergatgnn.service.http.routes import PREDICT
from deepergatgnn.service.settings import Settings

MIB = 1024 * 1024


def build_middleware(app: FastAPI, keys: Keys, settings: Settings) -> ASGIApp:
    """The application behind its gate, envelope, CORS, door, HEAD and shortcut, in the order of a request.

    Args:
        app: of `create_app`.
        keys: that are let in.
        settings: of the service.
    """
    inner: ASGIApp = AccessControl(HeadAsGet(Shortcut(app, (PREDICT, PREDICT_BATCH))), keys, settings)
    if settings.cors_origins:
        inner = CORSMiddleware(
            inner,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-Deadline-Ms", "X-Request-ID"],
            expose_headers=["Retry-After", "Server-Timing", "X-Request-ID"],
        )
    limits = {"/predict/batch": settings.max_bulk_body_mib}
    envelope = RequestContext(
        inner,
        max_body=int(settings.max_body_mib * MIB),
        others={path: int(limit * MIB) for path, limit in limits.items()},
        max_bodies=int(settings.max_bodies_mib * MIB),
        body_timeout_s=settings.body_timeout_s,
    )
    gate = LoadShedding(envelope)
    return RootPath(gate, settings.root_path) if settings.root_path else gate
