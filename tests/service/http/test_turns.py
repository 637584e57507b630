"""No request blocks the event loop: input is parsed a little at a time, and discarded after the last response."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from starlette.types import Receive, Scope, Send

from deepergatgnn.service.http.protocol import LINGERING, PIECES_A_TURN, SLICE, Connection, ConnectionLimits
from tests.support.in_process import Recorder, listening
from tests.support.strangers import exchange, place, statuses

MIB = 1 << 20
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
BYTES = b"1\r\nx\r\n" * (128 * 1024) + b"0\r\n\r\n"
GET = b"GET /next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Counting(Connection):
    """A connection that counts what the parser calls it for."""

    calls = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        Counting.calls += 1
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        Counting.calls += 1
        super().on_body(body)


async def refuse(_: Scope, __: Receive, send: Send) -> None:
    """Application that responds to the head alone."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b"no key"})


@contextmanager
def most_calls() -> Iterator[list[int]]:
    """The calls of each turn of the event loop."""
    turns: list[int] = []
    loop = asyncio.get_running_loop()
    Counting.calls = 0
    handle: asyncio.Handle | None = None

    def tick() -> None:
        nonlocal handle
        turns.append(Counting.calls)
        Counting.calls = 0
        handle = loop.call_soon(tick)

    tick()
    yield turns
    assert handle is not None
    handle.cancel()


@pytest.mark.parametrize("kind", ["read", "refused"])
@pytest.mark.parametrize(
    "sent",
    [
        CHUNKED + BYTES,
        CHUNKED + b"1;a=b\r\nx\r\n" * (64 * 1024) + b"0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\n" + b"A:\r\n" * 20_000 + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"a;" * 20_000 + b"\r\n\r\n",
        CHUNKED + b"1\r\nx\r\n0\r\n" + b"A:\r\n" * 20_000 + b"\r\n",
        GET.replace(b"Connection: close\r\n", b"") * 20_000,
    ],
    ids=["chunks", "extensions", "headers", "cookies", "trailers", "requests"],
)
def test_others_have_their_turn_while_a_request_is_read(kind: str, sent: bytes) -> None:
    async def run() -> list[int]:
        async with listening(Recorder() if kind == "read" else refuse, protocol=Counting) as address:
            with most_calls() as turns:
                await exchange(address, sent, seconds=2)
            return turns

    turns = asyncio.run(run())
    assert sum(turns) > 0
    assert max(turns) <= PIECES_A_TURN + SLICE // 4


def test_a_body_of_the_smallest_chunks_comes_as_it_was_sent() -> None:
    async def run() -> Recorder:
        recorder = Recorder()
        async with listening(recorder) as address:
            await exchange(address, CHUNKED + BYTES + GET, seconds=30)
        return recorder

    assert asyncio.run(run()).requests == [("POST", "/", b"x" * (128 * 1024)), ("GET", "/next", b"")]


@pytest.mark.parametrize("sent", [LONG % (8 * MIB) + bytes(8 * MIB), CHUNKED + BYTES], ids=["long", "chunked"])
def test_a_client_that_still_sends_can_read_the_response(sent: bytes) -> None:
    """The client sends everything before it reads, as most do."""

    async def run() -> bytes:
        async with listening(refuse, protocol=Counting) as address:
            Counting.calls = 0
            reader, writer = await asyncio.open_connection(*place(address))
            head, _, body = sent.partition(b"\r\n\r\n")
            writer.write(head + b"\r\n\r\n")
            await asyncio.sleep(0.1)
            before = Counting.calls
            writer.write(body + GET)
            await writer.drain()
            said = await reader.read()
            writer.close()
            assert Counting.calls == before, "the body was parsed after the answer"
            return said

    said = asyncio.run(run())
    assert statuses(said) == [401]
    assert b"connection: close\r\n" in said
    assert said.endswith(b"no key")


def test_a_short_rest_does_not_cost_the_connection() -> None:
    async def run() -> bytes:
        async with listening(refuse) as address:
            head = LONG.replace(b"POST", b"POST") % 100
            return await exchange(address, head, bytes(100), GET, pause_s=0.1, seconds=5)

    assert statuses(asyncio.run(run())) == [401, 401]


def test_a_client_that_gets_no_100_continue_may_reconnect() -> None:
    """It may send the body or not: the next bytes could be either."""
    head = (LONG % len(GET)).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")

    async def run() -> bytes:
        async with listening(refuse) as address:
            return await exchange(address, head, GET, pause_s=0.1, seconds=5)

    assert statuses(asyncio.run(run())) == [401]


def test_what_is_thrown_away_after_an_answer_is_bounded() -> None:
    async def run() -> int:
        async with listening(refuse) as address:
            _, writer = await asyncio.open_connection(*place(address))
            writer.write(LONG % (1 << 40))
            sent = 0
            try:
                while sent < 8 * LINGERING:
                    writer.write(bytes(MIB))
                    await writer.drain()
                    sent += MIB
            except OSError:
                pass
            writer.transport.abort()
            return sent

    assert asyncio.run(run()) < 4 * LINGERING


def test_a_client_silent_after_a_closing_response_is_disconnected() -> None:
    async def run() -> None:
        limits = ConnectionLimits(head_timeout_s=0.5, max_head=65536, max_connections=10)
        async with listening(refuse, limits) as address:
            reader, writer = await asyncio.open_connection(*place(address))
            writer.write(LONG % (1 << 40))
            assert statuses(await reader.read()) == [401]
            async with asyncio.timeout(20):
                while limits.open:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.05)
            writer.transport.abort()

    asyncio.run(run())
