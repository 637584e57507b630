"""Requests that ask for another protocol, trailers and blanks are read as RFC 9110 says: no byte becomes another."""

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import running
from tests.support.in_process import Recorder, listening
from tests.support.processes import CIF, small_store
from tests.support.strangers import exchange, place, statuses

BODY = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADES = {
    "h2c of Java": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n",
    "websocket": b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "TLS": b"Upgrade: TLS/1.0, HTTP/2.0\r\nConnection: Upgrade\r\n",
    "asked for": b"Expect: 100-continue\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    "twice": b"Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n",
    "unknown": b"Connection:Upgrade\r\nUpgrade:x\r\n",
    "not named by the connection": b"Upgrade: h2c\r\n",
}
FRAMINGS = {
    "length": (b"Content-Length: %d\r\n" % len(BODY), BODY),
    "chunks": (b"Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "small chunks": (
        b"Transfer-Encoding: chunked\r\n",
        b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\nA: b\r\n\r\n",
    ),
}
NEXT = b"GET /next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def post(headers: bytes, path: bytes = b"/predict") -> bytes:
    """A head."""
    return b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("reading") / "store")


@pytest.fixture(scope="module")
def where(store: Path) -> Iterator[str]:
    with running("serve", "--port", "0", ready="^ready on ", DEEPERGATGNN_MODEL_STORE=str(store)) as (_, line):
        yield line.removeprefix("ready on ")


@pytest.fixture(scope="module")
def keyed(store: Path) -> Iterator[str]:
    """A service that asks for a key, without a worker."""
    environment = {"DEEPERGATGNN_MODEL_STORE": str(store), "DEEPERGATGNN_API_KEYS": "key"}
    with running("serve", "--port", "0", "--workers", "0", ready="^ready on ", **environment) as (_, line):
        yield line.removeprefix("ready on ")


async def in_two(address: str, sent: bytes, at: int) -> bytes:
    """What is received for bytes sent in two segments."""
    reader, writer = await asyncio.open_connection(*place(address))
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    writer.write(sent[:at])
    await asyncio.sleep(0.001)
    writer.write(sent[at:])
    async with asyncio.timeout(20):
        said = await reader.read()
    writer.close()
    return said


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("upgrade", UPGRADES)
def test_the_body_belongs_to_its_request_wherever_it_is_split(upgrade: str, framing: str) -> None:
    headers, body = FRAMINGS[framing]
    sent = post(UPGRADES[upgrade] + headers) + body + NEXT

    async def run() -> Recorder:
        recorder = Recorder()
        async with listening(recorder) as address:
            for start in range(1, len(sent), 32):
                said = await asyncio.gather(
                    *(in_two(address, sent, at) for at in range(start, min(start + 32, len(sent))))
                )
                for each in said:
                    assert [status for status in statuses(each) if status != 100] == [200, 200], each
        return recorder

    recorder = asyncio.run(run())
    assert set(recorder.requests) == {("POST", "/predict", BODY), ("GET", "/next", b"")}
    assert not any(b"upgrade" in headers for headers in recorder.headers) or upgrade.startswith("not named")


@pytest.mark.parametrize("upgrade", UPGRADES)
def test_a_crystal_is_answered_whatever_else_is_offered(where: str, upgrade: str) -> None:
    head = post(
        b"Content-Type: chemical/x-cif\r\nContent-Length: %d\r\n" % len(CIF) + UPGRADES[upgrade],
        b"/predict?attention=none",
    )
    last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    together = asyncio.run(exchange(where, head + CIF + last))
    apart = asyncio.run(exchange(where, head, CIF, last, pause_s=0.1))
    for said in (together, apart):
        assert [status for status in statuses(said) if status != 100] == [200, 200]
        assert b'"predictions"' in said


def test_http_1_0_gets_no_100_continue() -> None:
    async def run() -> bytes:
        async with listening(Recorder()) as address:
            head = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nConnection: upgrade\r\nUpgrade: x\r\n"
            return await exchange(address, head + b"Content-Length: 3\r\n\r\n", b"abc", pause_s=0.1, seconds=5)

    said = asyncio.run(run())
    assert statuses(said) == [200]
    assert said.endswith(b"abc")


@pytest.mark.parametrize("target", [b"localhost:80", b"127.0.0.1:6379", b"/predict"])
def test_no_tunnel_is_opened(target: bytes) -> None:
    async def run() -> tuple[Recorder, bytes]:
        recorder = Recorder()
        async with listening(recorder) as address:
            sent = b"CONNECT " + target + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc" + NEXT
            return recorder, await exchange(address, sent, seconds=5)

    recorder, said = asyncio.run(run())
    assert statuses(said) == [400]
    assert recorder.requests == []


@pytest.mark.parametrize(
    "trailer", [b"X-API-Key: key", b"Authorization: Bearer key", b"Connection: upgrade\r\nUpgrade: h2c", b"Host: evil"]
)
def test_a_trailer_is_no_header(trailer: bytes) -> None:
    sent = post(b"Transfer-Encoding: chunked\r\nX-Known: yes\r\n") + b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n" + NEXT

    async def run() -> tuple[Recorder, bytes]:
        recorder = Recorder()
        async with listening(recorder) as address:
            return recorder, await exchange(address, sent, seconds=5)

    recorder, said = asyncio.run(run())
    assert statuses(said) == [200, 200]
    assert recorder.requests == [("POST", "/predict", b"abc"), ("GET", "/next", b"")]
    assert recorder.headers[0] == {b"host": b"localhost", b"transfer-encoding": b"chunked", b"x-known": b"yes"}


@pytest.mark.parametrize(("trailer", "code"), [(b"X-API-Key: key", 401), (b"Authorization: Bearer key", 401)])
def test_a_key_in_a_trailer_opens_nothing(keyed: str, trailer: bytes, code: int) -> None:
    """Held back until the application looks for it: the head and the trailer come at once."""
    sent = (
        b"GET /models HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n"
    )
    assert statuses(asyncio.run(exchange(keyed, sent, seconds=5))) == [code]


@pytest.mark.parametrize(
    "header",
    [
        b"X-API-Key: key \t ",
        b"X-API-Key:\t  key",
        b"X-API-Key:key",
        b"Authorization:  Bearer key  ",
        b"Authorization: Bearer   key\t",
    ],
)
def test_blanks_around_a_key_are_not_of_it(keyed: str, header: bytes) -> None:
    sent = b"GET /models HTTP/1.1\r\nHost: localhost \r\nConnection: close\r\n" + header + b"\r\n\r\n"
    assert statuses(asyncio.run(exchange(keyed, sent, seconds=5))) == [200]


def test_blanks_around_other_values_are_not_of_them(where: str) -> None:
    head = (
        b"POST /predict?attention=none HTTP/1.1\r\nHost: localhost\t\r\nContent-Type: chemical/x-cif  \r\n"
        b"Content-Length: %d \r\nX-Request-ID:  mine \r\nX-Request-Deadline-Ms: 20000 \r\n"
        b"Expect: 100-continue \t\r\nConnection: close \r\n\r\n" % len(CIF)
    )
    said = asyncio.run(exchange(where, head, CIF, pause_s=0.2, seconds=20))
    assert statuses(said) == [100, 200]
    assert b"x-request-id: mine\r\n" in said


def answer_to(where: str, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    sent = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    said = asyncio.run(exchange(where, sent, seconds=10))
    head, _, body = said.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    return statuses(said)[0], dict(line.lower().split(": ", 1) for line in lines), body


@pytest.mark.parametrize(
    "path",
    ["/", "/healthz", "/readyz", "/docs", "/openapi.json", "/metrics", "/models", "/models/bulk-modulus", "/models/no"],
)
def test_head_is_get_without_a_body(where: str, path: str) -> None:
    status, headers, body = answer_to(where, "HEAD", path)
    expected, full, content = answer_to(where, "GET", path)
    assert (status, body) == (expected, b"")
    volatile = {"x-request-id", *({"content-length"} if path in {"/metrics", "/models/no"} else ())}
    assert {k: v for k, v in headers.items() if k not in volatile} == {
        k: v for k, v in full.items() if k not in volatile
    }
    assert content


def test_head_is_counted_under_its_route(where: str) -> None:
    def counted() -> float:
        line = re.search(
            rb'requests_total{route="/healthz",status="200"} (\S+)', answer_to(where, "GET", "/metrics")[2]
        )
        return float(line[1]) if line else 0.0

    before = counted()
    answer_to(where, "HEAD", "/healthz")
    assert counted() == before + 1


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        *((path, "GET, HEAD, OPTIONS") for path in ("/", "/healthz", "/metrics", "/docs")),
        *((path, "OPTIONS, POST") for path in ("/predict", "/predict/batch")),
        ("*", "GET, HEAD, OPTIONS, POST"),
    ],
)
def test_options_says_what_is_allowed(where: str, path: str, allowed: str) -> None:
    status, headers, body = answer_to(where, "OPTIONS", path)
    assert (status, headers["allow"].upper(), body) == (204, allowed, b"")


def test_a_method_that_is_not_allowed_gets_those_that_are(where: str) -> None:
    status, headers, body = answer_to(where, "DELETE", "/healthz")
    assert (status, headers["allow"].upper()) == (405, "GET, HEAD, OPTIONS")
    assert json.loads(body)["code"] == "method_not_allowed"
    status, headers, body = answer_to(where, "HEAD", "/predict")
    assert (status, headers["allow"].upper(), body) == (405, "OPTIONS, POST", b"")
