"""Requests that are wrong below HTTP's meaning: each ends with a documented status or a closed connection."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import running
from tests.support.processes import CIF, small_store
from tests.support.strangers import GET, POST, exchange, place, statuses

HOST = b"Host: localhost\r\n"
CHUNKED = b"POST /predict HTTP/1.1\r\n" + HOST + b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"
LAST = POST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
MIB = 1 << 20
DOCUMENTED = {200, 204, 400, 404, 405, 408, 413, 415, 421, 422, 431}


def posted(body: bytes, headers: bytes = b"Content-Type: chemical/x-cif\r\n", length: bytes | None = None) -> bytes:
    """A POST to /predict."""
    told = b"Content-Length: " + (length if length is not None else b"%d" % len(body))
    return b"POST /predict?attention=none HTTP/1.1\r\n" + HOST + headers + told + b"\r\n\r\n" + body


def asked(line: bytes, headers: bytes = HOST) -> bytes:
    """A request without body."""
    return line + b"\r\n" + headers + b"\r\n"


def chunks(*pieces: bytes) -> bytes:
    """A body of chunks, without its end."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def part(content: bytes, headers: bytes = b'Content-Disposition: form-data; name="file"; filename="a"\r\n') -> bytes:
    """A part of a form."""
    return b"--x\r\n" + headers + b"\r\n" + content + b"\r\n"


def charset(name: bytes) -> bytes:
    """The Content-Type of a form with a charset."""
    return FORM.replace(b"=x", b"=x; charset=" + name)


def nested(depth: int) -> bytes:
    """Forms within forms."""
    content = CIF
    for _ in range(depth):
        content = b"--y\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n" + content + b"\r\n--y--\r\n"
    return content


# What is sent, and the statuses that may come back, in order; the connection may also end before the last of them.
CASES: dict[str, tuple[bytes, list[int]]] = {
    "good": (POST, [200]),
    "chunked": (CHUNKED + chunks(CIF[:100], CIF[100:]) + b"0\r\n\r\n", [200]),
    "chunks of a byte": (CHUNKED + chunks(*(CIF[n : n + 1] for n in range(len(CIF)))) + b"0\r\n\r\n", [200]),
    "chunked, too much": (CHUNKED + chunks(*[bytes(MIB)] * 9) + b"0\r\n\r\n", [413]),
    "chunk that lies": (CHUNKED + b"ffffffffffffffffff\r\nabc", [400]),
    "chunk extensions": (CHUNKED + b"3;" + b"x" * MIB + b"\r\nabc\r\n0\r\n\r\n", [431]),
    "trailers": (CHUNKED + chunks(b"abc") + b"0\r\n" + b"A: b\r\n" * 200_000 + b"\r\n", [431]),
    "a trailer": (CHUNKED + chunks(b"abc") + b"0\r\nA: " + b"x" * MIB, [431]),
    "trailers after much": (CHUNKED + chunks(bytes(MIB)) + b"0\r\n" + b"A: b\r\n" * 200_000 + b"\r\n", [431]),
    "a trailer after much": (CHUNKED + chunks(bytes(MIB)) + b"0\r\nA: " + b"x" * MIB, [431]),
    "length too small": (posted(CIF, length=b"10"), [422, 400]),
    "length too large": (posted(CIF, length=b"%d" % (len(CIF) + 10)), [408]),
    "length beyond the limit": (posted(b"", length=b"99999999999"), [413]),
    "length of no number": (posted(CIF, length=b"0x10"), [400]),
    "length below zero": (posted(CIF, length=b"-1"), [400]),
    "length of many digits": (posted(CIF, length=b"9" * 100), [400]),
    "two lengths": (posted(CIF, b"Content-Length: 5\r\n"), [400]),
    "length and chunks": (posted(b"0\r\n\r\nGET /x HTTP/1.1\r\n", b"Transfer-Encoding: chunked\r\n"), [400]),
    "chunks not last": (CHUNKED.replace(b"chunked", b"chunked, identity") + chunks(CIF), [400]),
    "chunks misspelt": (CHUNKED.replace(b"chunked", b"xchunked") + chunks(CIF), [400]),
    "chunks by a space": (CHUNKED.replace(b"Encoding:", b"Encoding :") + chunks(CIF), [400]),
    "many headers": (asked(b"GET /healthz HTTP/1.1", HOST + b"A: b\r\n" * 100_000), [431]),
    "long header": (asked(b"GET /healthz HTTP/1.1", HOST + b"A: " + b"x" * MIB + b"\r\n"), [431]),
    "header without end": (b"GET /healthz HTTP/1.1\r\nA: " + b"x" * MIB, [431]),
    "many parameters": (asked(b"GET /models?" + b"&".join([b"models=a"] * 100_000) + b" HTTP/1.1"), [431]),
    "parameters that fit": (asked(b"GET /models?" + b"&".join([b"a=b"] * 10_000) + b" HTTP/1.1"), [200]),
    "long path": (asked(b"GET /" + b"%41" * 10_000 + b" HTTP/1.1"), [404]),
    "form of forms": (posted(part(nested(2000)) + b"--x--\r\n", FORM), [422]),
    "form without end": (posted(part(CIF), FORM), [400]),
    "form of many parts": (posted(part(b"a") * 20_000 + b"--x--\r\n", FORM), [400]),
    "form of many headers": (posted(part(CIF, b"A: b\r\n" * 100_000) + b"--x--\r\n", FORM), [400]),
    "form with a long header": (posted(part(CIF, b"A: " + b"x" * MIB + b"\r\n") + b"--x--\r\n", FORM), [400]),
    "form without boundary": (posted(part(CIF), FORM.replace(b"; boundary=x", b"")), [400]),
    "form with a long boundary": (posted(part(CIF), FORM.replace(b"=x", b"=" + b"x" * 10_000)), [400]),
    "form of another field": (posted(part(CIF).replace(b"file", b"models") + b"--x--\r\n", FORM), [400]),
    "form": (posted(part(CIF) + b"--x--\r\n", FORM), [200]),
    "form of latin-1": (posted(part(CIF) + b"--x--\r\n", charset(b'"ISO-8859-1"')), [200]),
    "form of no charset": (posted(part(CIF) + b"--x--\r\n", charset(b"undefined")), [400]),
    "form of punycode": (posted(part(CIF).replace(b"file", b"xn--\\x") + b"--x--\r\n", charset(b"punycode")), [400]),
    "form of an unknown charset": (posted(part(CIF) + b"--x--\r\n", charset(b"x" * 1000)), [400]),
    "deep JSON": (posted(b"[" * 50_000, b"Content-Type: application/json\r\n"), [400]),
    "deeper JSON": (posted(b"[" * MIB, b"Content-Type: application/json\r\n"), [413]),
    "JSON of latin-1": (posted(b'{"structure": "\xe9"}', b"Content-Type: application/json\r\n"), [400]),
    "JSON of half a pair": (posted(b'{"structure": "\\ud800"}', b"Content-Type: application/json\r\n"), [400]),
    "HTTP/1.0": (asked(b"GET /healthz HTTP/1.0"), [200]),
    "HTTP/0.9": (b"GET /healthz\r\n", [408]),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    "HTTP/9.9": (asked(b"GET /healthz HTTP/9.9"), [400]),
    "TLS": (bytes.fromhex("1603010200010001fc0303") + bytes(500), [400]),
    "noise": (bytes(range(256)) * 100, [400]),
    "empty lines": (b"\r\n" * 1000 + GET, [200]),
    "method unknown": (asked(b"FROB /predict HTTP/1.1"), [400]),
    "method in small letters": (asked(b"get /healthz HTTP/1.1"), [400]),
    "method of others": (asked(b"PROPFIND /models HTTP/1.1"), [405]),
    "CONNECT": (asked(b"CONNECT localhost:80 HTTP/1.1"), [400]),
    "everything": (asked(b"OPTIONS * HTTP/1.1"), [204]),
    "absolute": (asked(b"GET http://localhost/healthz HTTP/1.1"), [200]),
    "no host": (asked(b"GET /models HTTP/1.1", b""), [421]),
    "another host": (asked(b"GET /models HTTP/1.1", b"Host: evil.example\r\n"), [421]),
    "NUL in a header": (asked(b"GET /healthz HTTP/1.1", HOST + b"A: \0\r\n"), [400]),
    "NUL in the path": (asked(b"GET /models/a%00b HTTP/1.1"), [404]),
    "not UTF-8 in the path": (asked(b"GET /models/%ff%fe HTTP/1.1"), [404]),
    "dots in the path": (asked(b"GET /models/../../etc/passwd HTTP/1.1"), [404]),
    "to a socket": (asked(b"GET /healthz HTTP/1.1", HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n"), [200]),
    "three at once": (GET * 3, [200] * 3),
    "good, then noise": (GET + b"\0" * 100, [200, 400]),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("wire") / "store")


@pytest.fixture(scope="module")
def where(store: Path) -> Iterator[str]:
    times = {"DEEPERGATGNN_HEADER_TIMEOUT_S": "1", "DEEPERGATGNN_BODY_TIMEOUT_S": "1"}
    with running("serve", "--port", "0", ready="^ready on ", DEEPERGATGNN_MODEL_STORE=str(store), **times) as (_, line):
        yield line.removeprefix("ready on ")


def problems(said: bytes) -> list[dict[str, object]]:
    """The problem documents in what was received."""
    return [json.loads(line) for line in said.splitlines() if line.startswith(b'{"type":"about:blank"')]


async def said_to(where: str, sent: bytes) -> tuple[bytes, bytes]:
    """What is received for a request, and for a valid one after it."""
    return await exchange(where, sent, seconds=20), await exchange(where, LAST, seconds=20)


@pytest.fixture(scope="module")
def said_to_all(where: str) -> dict[str, tuple[bytes, bytes]]:
    """All at once: no response may depend on another request."""

    async def ask() -> list[tuple[bytes, bytes]]:
        return await asyncio.gather(*(said_to(where, sent) for sent, _ in CASES.values()))

    return dict(zip(CASES, asyncio.run(ask()), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_it_ends_as_documented_and_the_next_is_answered(said_to_all: dict[str, tuple[bytes, bytes]], case: str) -> None:
    expected, (said, after) = CASES[case][1], said_to_all[case]
    found = statuses(said)
    assert set(found) <= DOCUMENTED
    assert found == expected or (len(expected) > 1 and found == expected[: len(found)]), said[:300]
    assert [problem["status"] for problem in problems(said)] == [status for status in found if status >= 400]
    assert statuses(after) == [200]


def test_an_answer_comes_in_one_piece(where: str) -> None:
    """Head and body: each by itself would cost both sides a system call."""

    async def first_piece() -> bytes:
        reader, writer = await asyncio.open_connection(*place(where))
        writer.write(POST)
        piece = await reader.read(1 << 20)
        writer.close()
        return piece

    head, _, body = asyncio.run(first_piece()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"content-length: %d" % len(body) in head.lower()
    assert json.loads(body)["n_atoms"] > 0


@pytest.mark.parametrize("query", ["format=word", "attention=some", "models=" + "x" * 161, "&".join(["models=a"] * 33)])
def test_a_query_that_does_not_fit_is_malformed(where: str, query: str) -> None:
    sent = LAST.replace(b"attention=none", query.encode(), 1)
    answered = asyncio.run(exchange(where, sent))
    assert statuses(answered) == [400]
    assert b'"malformed"' in answered


def test_requests_behind_requests_are_bounded(where: str) -> None:
    said = asyncio.run(exchange(where, GET * 50_000, seconds=4))
    assert len(statuses(said)) < 50_000
    assert set(statuses(said)) <= {200, 431}


def test_expect_gets_100_continue(where: str) -> None:
    head, _, body = POST.partition(b"\r\n\r\n")
    said = asyncio.run(exchange(where, head + b"\r\nExpect: 100-continue\r\n\r\n", body, pause_s=0.5, seconds=3))
    assert statuses(said) == [100, 200]
    said = asyncio.run(exchange(where, head + b"\r\nExpect: 100-continue\r\n\r\n", seconds=4))
    assert statuses(said) == [100, 408]  # the body never arrives
