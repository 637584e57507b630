"""Hosts, origins and open metrics, on applications whose broker is out of reach."""

import asyncio

import httpx
import pytest
from pydantic import ValidationError

from deepergatgnn.service.http.api_keys import ApiKeys
from deepergatgnn.service.http.app import create_app, create_dependencies
from deepergatgnn.service.settings import Settings


def status_of(settings: Settings, path: str, **headers: str) -> int:
    """Status of one request to the application of these settings, whose broker is out of reach."""

    async def get() -> int:
        app = create_app(create_dependencies(settings, "unix:///nowhere"), ApiKeys.of(settings))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://crystals.example.org") as client:
            return (await client.get(path, headers=headers)).status_code

    return asyncio.run(get())


def test_metrics_may_be_opened() -> None:
    assert status_of(Settings(api_keys=("k",)), "/metrics") == 401
    assert status_of(Settings(api_keys=("k",), metrics_open=True), "/metrics") == 200
    assert status_of(Settings(api_keys=("k",), metrics_open=True), "/models") == 401


def test_names_may_be_given() -> None:
    assert status_of(Settings(), "/metrics") == 421
    assert status_of(Settings(allowed_hosts="other.example.org, crystals.example.org"), "/metrics") == 200
    named = Settings(api_keys=("k",), allowed_hosts="other.example.org", metrics_open=True)
    assert status_of(named, "/metrics") == 421
    for host in ("localhost:1", "Other.Example.org"):
        assert status_of(named, "/metrics", Host=host) == 200


@pytest.mark.parametrize(
    "origin", ["*", "https://*.example.org", "https://lab.example.org/", "lab.example.org", "null"]
)
def test_an_origin_is_no_pattern(origin: str) -> None:
    with pytest.raises(ValidationError, match="is not allowed here: write scheme, name and port"):
        Settings(cors_origins=origin)
    with pytest.raises(ValidationError, match="is not allowed here: write a name or address"):
        Settings(allowed_hosts=f"{origin}*/")
