"""Selected models beneath a root path, behind a proxy that keeps the prefix and one that removes it."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from deepergatgnn.service.http.page import page_beneath
from deepergatgnn.service.http.security_headers import headers_for, policy_of
from deepergatgnn.service.settings import Settings
from tests.conftest import COMMAND, ROOT, running
from tests.support.processes import MODEL, NEW, OLD, small_store

POSCAR = Path("examples/ZnO.POSCAR").read_text("utf-8")
BENEATH = "/lab/crystals"
KEY = "a-key-for-a-proxy"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1.0.0 is in production."""
    return small_store(tmp_path_factory.mktemp("store"), OLD, NEW)


@pytest.fixture(scope="module")
def address(store: Path) -> Iterator[str]:
    command = ["serve", "--port", "0", "--models", f"{MODEL}@{NEW}", "--root-path", BENEATH, "--store", str(store)]
    environment = {"DEEPERGATGNN_API_KEYS": KEY, "DEEPERGATGNN_MODEL_STORE": str(store)}
    with running(*command, ready="^ready on ", **environment) as (_, line):
        yield line.removeprefix("ready on ")


@pytest.fixture(params=[BENEATH, ""])
def proxied(address: str, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """By a proxy that leaves the path as it is, and by one that takes the prefix off."""
    with httpx.Client(base_url=address + request.param, timeout=60, headers={"X-API-Key": KEY}) as opened:
        yield opened


def test_every_route_answers(proxied: httpx.Client) -> None:
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/models", f"/models/{MODEL}"):
        assert proxied.get(path).status_code == 200, path
    assert proxied.post("/predict", json={"structure": POSCAR}).status_code == 200
    assert proxied.post("/predict/batch", json={"structures": [{"structure": POSCAR}]}).status_code == 200
    missing = proxied.get("/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


def test_access_and_headers_are_those_of_the_route(address: str) -> None:
    for path in ("/models", "/predict", "/metrics"):
        assert httpx.get(f"{address}{BENEATH}{path}").status_code == 401
    for path in ("/", "/docs"):
        reply = httpx.get(f"{address}{BENEATH}{path}")
        assert reply.status_code == 200
        assert reply.headers["content-security-policy"] == headers_for(path)["Content-Security-Policy"]
    assert httpx.get(f"{address}{BENEATH}s/").status_code == 401  # another path altogether


def test_the_page_and_the_documents_ask_beneath_it(proxied: httpx.Client, address: str) -> None:
    bare = httpx.get(f"{address}{BENEATH}").text  # without the slash at its end
    page = proxied.get("/").text
    assert page == bare
    assert f'data-root="{BENEATH}"' in page
    assert f'href="{BENEATH}/docs"' in page
    assert "${root}/predict" in page
    assert not re.search(r"""(?:fetch\(|href=|src=)["'`]/(?!lab/)""", page)
    assert "url: 'openapi.json'" in proxied.get("/docs").text
    assert proxied.get("/openapi.json").json()["servers"] == [{"url": BENEATH}]


def test_a_redirection_stays_beneath_it(proxied: httpx.Client) -> None:
    moved = proxied.get("/models/?a=b", follow_redirects=False)
    assert moved.status_code == 307
    assert moved.headers["location"] == f"{BENEATH}/models?a=b"


def test_only_the_chosen_version_is_served(proxied: httpx.Client) -> None:
    [model] = proxied.get("/models").json()["models"]
    assert (model["name"], model["live"], [each["version"] for each in model["versions"]]) == (MODEL, NEW, [NEW])
    for wanted in ([], [MODEL], [f"{MODEL}@{NEW}"]):
        [prediction] = proxied.post("/predict", json={"structure": POSCAR, "models": wanted}).json()["predictions"]
        assert prediction["version"] == NEW
    for wanted in (f"{MODEL}@{OLD}", "band-gap"):
        refused = proxied.post("/predict", json={"structure": POSCAR, "models": [wanted]})
        assert (refused.status_code, refused.json()["code"]) == (404, "unknown_model")
    assert proxied.get(f"/models/{MODEL}/{OLD}").status_code == 404


def test_without_a_root_path_nothing_changes() -> None:
    page = page_beneath("")
    assert 'href="/docs"' in page
    assert policy_of(page) == policy_of(page_beneath(BENEATH))
    assert Settings(root_path="/").root_path == ""
    assert Settings(root_path="/crystals/").root_path == "/crystals"


@pytest.mark.parametrize("path", ["crystals", "/a b", '/a"', "/a//b", "/predict", "/models/x", "/..", "http://x/y"])
def test_an_invalid_root_path_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="root_path"):
        Settings(root_path=path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--models", "no-such-model"], "no-such-model"),
        (["serve", "--models", f"{MODEL},{MODEL}@9.0.0"], "9.0.0"),
        (["worker", "--models", "../x"], "is not a model"),
        (["serve", "--root-path", "crystals"], "'crystals' is not a path"),
    ],
)
def test_a_wrong_choice_ends_at_once_with_a_sentence(arguments: list[str], said: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
