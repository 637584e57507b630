"""What the door asks of names, origins and of who reads the metrics; on applications whose broker is out of reach."""

import asyncio

import httpx
import pytest
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from deepergatgnn.model_store import ModelStore
from deepergatgnn.service.http.access import Keys
from deepergatgnn.service.http.app import create_app
from deepergatgnn.service.http.dependencies import PARTS, State
from deepergatgnn.service.http.middleware import build_middleware
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.service.prediction.catalogue import Catalogue
from deepergatgnn.service.prediction.pipeline import PredictionPipeline
from deepergatgnn.service.prediction.result_cache import ResultCache
from deepergatgnn.service.queue.client import InferenceClient
from deepergatgnn.service.queue.cluster import ClusterState
from deepergatgnn.service.scheduling.admission import Admission
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry.tracing import Tracing

NOWHERE = "unix:///nowhere"


def asked_of(settings: Settings, path: str, **headers: str) -> int:
    """Status of one request to the application of these settings, whose broker is out of reach."""

    async def ask() -> int:
        keys, dispatcher = Keys.of(settings), InferenceClient(NOWHERE)
        app = build_middleware(create_app(settings, NOWHERE), keys, settings)
        admission = Admission(settings)
        cluster = ClusterState(dispatcher, admission, settings)
        catalogue = Catalogue(ModelStore(), lambda: cluster.loaded)
        pool = ParsePool(1, 1.0, 512)
        oracle = PredictionPipeline(catalogue, pool, dispatcher, admission, ResultCache(0))
        parts = State(settings, catalogue, dispatcher, cluster, admission, pool, oracle, Tracing(None))

        async def started(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope | {"state": {PARTS: parts}}, receive, send)

        transport = httpx.ASGITransport(started)
        async with httpx.AsyncClient(transport=transport, base_url="http://crystals.example.org") as client:
            return (await client.get(path, headers=headers)).status_code

    return asyncio.run(ask())


def test_metrics_may_be_opened() -> None:
    assert asked_of(Settings(api_keys=("k",)), "/metrics") == 401
    assert asked_of(Settings(api_keys=("k",), metrics_open=True), "/metrics") == 200
    assert asked_of(Settings(api_keys=("k",), metrics_open=True), "/models") == 401


def test_names_may_be_given() -> None:
    assert asked_of(Settings(), "/metrics") == 421
    assert asked_of(Settings(allowed_hosts="other.example.org, crystals.example.org"), "/metrics") == 200
    named = Settings(api_keys=("k",), allowed_hosts="other.example.org", metrics_open=True)
    assert asked_of(named, "/metrics") == 421
    assert (
        asked_of(named, "/metrics", Host="localhost:1") == asked_of(named, "/metrics", Host="Other.Example.org") == 200
    )


@pytest.mark.parametrize(
    "origin", ["*", "https://*.example.org", "https://lab.example.org/", "lab.example.org", "null"]
)
def test_an_origin_is_no_pattern(origin: str) -> None:
    with pytest.raises(ValidationError, match="is not allowed here: write scheme, name and port"):
        Settings(cors_origins=origin)
    with pytest.raises(ValidationError, match="is not allowed here: write a name or address"):
        Settings(allowed_hosts=f"{origin}*/")
