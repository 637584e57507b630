"""A disconnection is noticed whatever was sent before it, and cancels the work of its requests."""

import asyncio
import json
import re
import socket
import struct
from collections.abc import Iterator

import httpx
import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from deepergatgnn.service.http.disconnect import cancel_on_disconnect
from tests.conftest import running, until
from tests.support.in_process import listening
from tests.support.processes import CIF, small_store
from tests.support.strangers import place

KIB = 1 << 10
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODIES = {
    "none": GET,
    "short": HEAD + b"Content-Length: 1000\r\n\r\n" + bytes(1000),
    "long": HEAD + b"Content-Length: %d\r\n\r\n" % (300 * KIB) + bytes(300 * KIB),
    "longer": HEAD + b"Content-Length: %d\r\n\r\n" % (5000 * KIB) + bytes(5000 * KIB),
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n%b\r\n" % bytes(64 * KIB) * 8 + b"0\r\n\r\n",
}
BEHIND = {
    "nothing": b"",
    "half a request": b"GET / HT",
    "requests": GET * 4,
    "a long one": HEAD + b"Content-Length: %d\r\n\r\n" % (900 * KIB) + bytes(900 * KIB),
}


class Working:
    """Application that works until its client disconnects."""

    def __init__(self) -> None:
        self.working, self.left = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, _: Send) -> None:
        """Serve one request."""
        while (await receive()).get("more_body", False):
            pass
        self.working.set()
        try:
            await cancel_on_disconnect(Request(scope), asyncio.sleep(600))
        except ClientDisconnect:
            self.left.set()


@pytest.mark.parametrize("way", ["closed", "reset"])
@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("sent", BODIES)
def test_it_is_noticed(sent: str, behind: str, way: str) -> None:
    async def run() -> None:
        app = Working()
        async with listening(app) as address:
            _, writer = await asyncio.open_connection(*place(address))
            writer.write(BODIES[sent] + BEHIND[behind])
            async with asyncio.timeout(20):
                await app.working.wait()
                await asyncio.sleep(0.05)  # what is behind arrives
                if way == "reset":
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                else:
                    writer.transport.abort()
                await app.left.wait()

    asyncio.run(run())


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = small_store(tmp_path_factory.mktemp("leaving") / "store")
    with running("serve", "--port", "0", ready="^ready on ", DEEPERGATGNN_MODEL_STORE=str(store)) as (_, line):
        yield line.removeprefix("ready on ")


def figure(where: str, name: str) -> float:
    """Value of a metric."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{where}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_what_a_long_bulk_request_had_under_way_is_dropped_and_counted(where: str, accept: str) -> None:
    count = 1000
    body = json.dumps({"structures": [{"structure": CIF.decode()}] * count, "attention": "none"}).encode()
    assert len(body) > 256 * KIB
    names = ("deepergatgnn_structures_total", 'deepergatgnn_abandoned_total{cause="gone"}')
    before = [figure(where, name) for name in names]
    with socket.create_connection(place(where)) as client:
        head = (
            f"POST /predict/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: {accept}\r\n"
        )
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        # While it is read, the body is admitted as one crystal.
        until(lambda: figure(where, 'deepergatgnn_admitted{lane="bulk"}') > 1, "its crystals are admitted")
    until(lambda: figure(where, 'deepergatgnn_admitted{lane="bulk"}') == 0, "it is dropped")
    answered, abandoned = (figure(where, name) - old for name, old in zip(names, before, strict=True))
    assert answered < count / 2
    assert answered + abandoned == count
