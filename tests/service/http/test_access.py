"""Access to a running service: keys, rates, rotation, hosts, origins, security headers, no outgoing connections."""

import base64
import hashlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deepergatgnn.service.http.api_keys import digest_of
from tests.conftest import service, until

CIF = Path("examples/ZrO2.cif").read_text("utf-8")
PLAIN = {"Content-Type": "text/plain"}
MODEL = "/predict?models=bulk-modulus&attention=none"
ORIGIN = "https://lab.example.org"


def line(name: str, *options: str) -> str:
    """A line of the keys file; the key of a name is its name twice."""
    return " ".join([name, f"sha256:{digest_of(2 * name).hex()}", *options]) + "\n"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The keys file of the service below."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    rated = line("slow", "rate=0.01", "burst=2") + line("many", "rate=0.01", "burst=3")
    path.write_text(line("alice") + rated + line("gone", "disabled"), "utf-8")
    return path


@pytest.fixture(scope="module")
def keyed_address(keys_file: Path) -> Iterator[str]:
    """A service with keys in both places and one origin."""
    written = f"first, bob sha256:{digest_of('bobbob').hex()}"
    with service(
        DEEPERGATGNN_API_KEYS=written, DEEPERGATGNN_API_KEYS_FILE=str(keys_file), DEEPERGATGNN_CORS_ORIGINS=ORIGIN
    ) as address:
        yield address


@pytest.fixture
def keyed(keyed_address: str) -> Iterator[httpx.Client]:
    """A client without a key."""
    with httpx.Client(base_url=keyed_address, timeout=60) as opened:
        yield opened


def predict(client: httpx.Client, key: str, **headers: str) -> httpx.Response:
    return client.post(MODEL, content=CIF, headers=PLAIN | {"Authorization": f"Bearer {key}"} | headers)


@pytest.mark.parametrize("key", ["first", "bobbob", "alicealice"])
def test_a_key_of_the_environment_or_the_file_is_let_in(keyed: httpx.Client, key: str) -> None:
    assert predict(keyed, key).status_code == 200
    assert keyed.get("/models", headers={"X-API-Key": key}).status_code == 200
    assert keyed.get("/models", headers={"Authorization": f"bearer {key}"}).status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/models", "/models/bulk-modulus", "/metrics", "/nothing/here", "/docs/"])
def test_without_a_key_every_other_path_is_closed(keyed: httpx.Client, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer alice"}, {"X-API-Key": digest_of("alicealice").hex()}):
        refused = keyed.request("POST" if path == "/predict" else "GET", path, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["request_id"] == refused.headers["x-request-id"]
    assert keyed.get("/metrics", headers={"X-API-Key": "first"}).status_code == 200


def test_health_page_and_documents_need_no_key(keyed: httpx.Client) -> None:
    for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json"):
        assert keyed.get(path).status_code == 200


def test_a_disabled_key_gets_403(keyed: httpx.Client) -> None:
    refused = predict(keyed, "gonegone")
    assert (refused.status_code, refused.json()["code"]) == (403, "key_disabled")


def test_a_key_over_its_rate_gets_429_with_retry_after_and_others_do_not(keyed: httpx.Client) -> None:
    assert [predict(keyed, "slowslow").status_code for _ in range(2)] == [200, 200]
    refused = predict(keyed, "slowslow")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 100
    assert predict(keyed, "alicealice").status_code == 200
    assert keyed.get("/models", headers={"X-API-Key": "slowslow"}).status_code == 200


def test_a_bulk_body_costs_a_crystal_whatever_is_in_it(keyed: httpx.Client) -> None:
    def status(body: object) -> int:
        return keyed.post("/predict/batch", json=body, headers={"X-API-Key": "manymany"}).status_code

    assert [status([]), status({"structures": [0, 0]}), status([])] == [400, 200, 429]


def test_a_long_body_without_a_key_gets_401(keyed: httpx.Client) -> None:
    refused = keyed.post("/predict", content=bytes(20 * 1024 * 1024), headers=PLAIN)
    assert refused.status_code == 401
    assert predict(keyed, "first").status_code == 200


def test_only_the_configured_origin_gets_cors_headers(keyed: httpx.Client) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = keyed.options("/predict", headers=asked | {"Origin": ORIGIN})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in allowed.headers
    assert predict(keyed, "first", Origin=ORIGIN).headers["access-control-allow-origin"] == ORIGIN
    assert predict(keyed, "wrong", Origin=ORIGIN).headers["access-control-allow-origin"] == ORIGIN
    for origin in (ORIGIN + ".evil.example", "http://lab.example.org", "null"):
        assert (
            "access-control-allow-origin" not in keyed.options("/predict", headers=asked | {"Origin": origin}).headers
        )
        assert "access-control-allow-origin" not in predict(keyed, "first", Origin=origin).headers


def test_keys_change_without_a_restart(keyed: httpx.Client, keys_file: Path) -> None:
    before = keys_file.read_text("utf-8")

    def replace(text: str) -> None:
        keys_file.with_name("beside").write_text(text, "utf-8")
        keys_file.with_name("beside").replace(keys_file)

    def status(key: str) -> int:
        return keyed.get("/models", headers={"X-API-Key": key}).status_code

    replace(before + line("dave"))
    until(lambda: status("davedave") == 200, "the new key is let in")
    assert status("alicealice") == 200
    replace(line("dave"))
    until(lambda: status("alicealice") == 401, "the old key is not")
    replace("dave sha256:12\n")
    replace(line("dave") + line("erin"))
    until(lambda: status("erinerin") == 200, "after a broken file the next is read")
    keys_file.unlink()
    keys_file.write_text(line("dave", "disabled"), "utf-8")
    until(lambda: status("davedave") == 403, "the key is disabled")
    assert status("first") == 200
    replace(before)
    until(lambda: status("alicealice") == 200, "the old file is back")


STRANGERS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example:8000",
    "192.168.1.4",
    "evil.example#127.0.0.1",
]


@pytest.mark.parametrize("host", [*STRANGERS, "127.0.0.1@evil.example", "[::1", "0.0.0.0", "127.1"])
def test_without_keys_the_service_answers_to_loopback_names_only(client: httpx.Client, host: str) -> None:
    for path in ("/", "/models", "/metrics", "/docs"):
        refused = client.get(path, headers={"Host": host})
        assert (refused.status_code, refused.json()["code"]) == (421, "wrong_host")
    refused = client.post(MODEL, content=CIF, headers=PLAIN | {"Host": host})
    assert refused.status_code == 421
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8000"])
def test_loopback_names_are_answered(client: httpx.Client, host: str) -> None:
    assert client.get("/models", headers={"Host": host}).status_code == 200


def test_with_keys_any_name_is_answered(keyed: httpx.Client) -> None:
    assert predict(keyed, "first", Host="crystals.example.org").status_code == 200
    assert predict(keyed, "wrong", Host="crystals.example.org").status_code == 401


def test_without_keys_cross_origin_requests_are_refused(client: httpx.Client) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:3000", "http://[", str(client.base_url) + "1"):
        refused = client.post(MODEL, content=CIF, headers=PLAIN | {"Origin": origin})
        assert (refused.status_code, refused.json()["code"]) == (403, "wrong_origin")
    own = str(client.base_url).rstrip("/")
    assert client.post(MODEL, content=CIF, headers=PLAIN | {"Origin": own}).status_code == 200


def test_without_origins_no_response_has_cors_headers(client: httpx.Client) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    answers = [
        client.get(path, headers={"Origin": ORIGIN}) for path in ("/", "/models", "/healthz", "/metrics", "/none")
    ]
    answers += [client.options("/predict", headers=asked), client.post(MODEL, content=CIF, headers=PLAIN)]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_every_answer_has_the_security_headers(client: httpx.Client) -> None:
    answers = [client.get(path) for path in ("/", "/docs", "/models", "/healthz", "/nothing", "/openapi.json")]
    answers += [
        client.post("/predict", content=CIF, headers=PLAIN),
        client.post("/predict", content=b"?", headers=PLAIN),
    ]
    answers += [client.get("/models", headers={"Host": "evil.example"})]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert policy.endswith("frame-ancestors 'none'")
        assert ("script-src" in policy) == answer.headers["content-type"].startswith("text/html")
        assert "server" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_may_run_what_it_holds_and_nothing_else(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    sources = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert "'unsafe-inline'" not in sources["script-src"]
    assert "'unsafe-eval'" not in sources["script-src"]
    assert not re.search(r"\son\w+=", re.sub(r"<(script|style)>.*?</\1>", "", answer.text, flags=re.DOTALL))
    for kind, text in re.findall(r"<(script|style)>(.*?)</\1>", answer.text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in sources[f"{kind}-src"]
    for url in re.findall(r"<script[^>]* src=\"(.*?)\"", answer.text):
        assert url in sources["script-src"] or url.startswith("/")
    for url in re.findall(r"<link[^>]* href=\"(.*?\.css)\"", answer.text):
        assert url in sources["style-src"] or url.startswith("/")


def test_nothing_that_is_posted_makes_the_service_connect_anywhere(client: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(2)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.cif"
        for text in (
            url,
            url.replace("http", "file"),
            f"data_x\n_audit_conform_dict_location '{url}'\n",
            f'<a href="{url}">',
        ):
            for file_format in ("auto", "cif", "poscar", "extxyz"):
                plain = client.post(f"/predict?format={file_format}", content=text, headers=PLAIN)
                posted = client.post("/predict", json={"structure": text, "format": file_format})
                form = client.post(f"/predict?format={file_format}", files={"file": ("x.cif", text)})
                assert [answer.status_code for answer in (plain, posted, form)] == [422, 422, 422]
        for document in ({"structure": {"url": url}}, {"structure": {"$ref": url, "@module": url, "@class": url}}):
            assert client.post("/predict", json=document).status_code == 422
        for document in ({"url": url}, {"structure": CIF, "models": [url]}, {"structure": CIF, "format": url}):
            assert client.post("/predict", json=document).status_code in {400, 404}
        assert (
            client.post(
                "/predict", content=CIF, headers={"Content-Type": f"message/external-body; URL={url}"}
            ).status_code
            == 415
        )
        with pytest.raises(TimeoutError):
            listener.accept()
