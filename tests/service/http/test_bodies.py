"""Limits of long bodies: a paused one is evicted, and no client has the whole total."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.body_limits import PAUSE_S, BodyLimits
from deepergatgnn.service.http.problems import status_of
from deepergatgnn.service.http.progress import Progress
from deepergatgnn.service.http.protocol import ConnectionLimits
from tests.support.in_process import Recorder, listening
from tests.support.strangers import Crowd, exchange, statuses

MIB = 1 << 20
PATIENCE_S = 60.0
LONG = 8 * MIB - 1
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


def limited_app(client: Callable[[], str] | None = None, patience_s: float = PATIENCE_S) -> ASGIApp:
    """A recorder behind limits with room for four long bodies; each request may come from another client."""
    recorder = Recorder()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await recorder(scope, receive, send)
        except ServiceError as error:
            head: Message = {"type": "http.response.start", "status": status_of(error.code), "headers": []}
            await send(head)
            await send({"type": "http.response.body", "body": b""})

    limited = BodyLimits(answer, 8 * MIB, {}, max_total=32 * MIB, timeout_s=patience_s)

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        if client is not None:
            scope["client"] = (client(), 0)
        await limited(scope, receive, send)

    return named


@asynccontextmanager
async def crowd(address: str) -> AsyncIterator[Crowd]:
    gathered = Crowd(address)
    try:
        yield gathered
    finally:
        await gathered.leave()


async def post(address: str) -> list[int]:
    """Statuses for a long body sent without a pause; after a 429 it is sent again a second later, up to three times."""
    for _ in range(4):
        said = statuses(await exchange(address, HEAD % LONG + bytes(LONG), seconds=20))
        if said != [429]:
            break
        await asyncio.sleep(1)
    return said


@pytest.mark.parametrize("drip", [b"", bytes(100)], ids=["silent", "a byte now and then"])
@pytest.mark.parametrize("clients", ["one", "many"])
def test_unfinished_bodies_do_not_block_others(clients: str, drip: bytes) -> None:
    """From one address, as behind a proxy, or each from another."""
    numbers = iter(range(10_000))

    async def run() -> list[list[int]]:
        app = limited_app(None if clients == "one" else lambda: f"client {next(numbers)}")
        async with listening(app) as address, crowd(address) as gathered:
            await gathered.join(8, HEAD % LONG + bytes(LONG - 150))
            dripping = asyncio.create_task(gathered.trickle(drip, 0.05))
            await asyncio.sleep(2 * PAUSE_S)
            answers = [await post(address) for _ in range(6)]
            dripping.cancel()
            return answers

    assert asyncio.run(run()) == [[200]] * 6


def test_an_evicted_body_gets_408() -> None:
    async def run() -> list[tuple[int, ...]]:
        async with listening(limited_app()) as address, crowd(address) as gathered:
            await gathered.join(2, HEAD % LONG + bytes(LONG - 150))
            await asyncio.sleep(2 * PAUSE_S)
            assert await post(address) == [200]
            endings = await gathered.endings(1)
            return sorted(tuple(statuses(each or b"")) for each in endings)

    assert asyncio.run(run()) == [(), (408,)]


def test_bodies_of_a_client_with_many_are_evicted_for_one_with_few() -> None:
    """No client pauses: each body grows by 256 KiB every tenth of a second."""
    names = iter(["many"] * 6 + ["few"] * 10)

    async def run() -> tuple[list[int], list[bytes | None]]:
        async with listening(limited_app(lambda: next(names))) as address, crowd(address) as gathered:
            await gathered.join(6, HEAD % LONG + bytes(4 * MIB))
            sending = asyncio.create_task(gathered.trickle_pieces([bytes(256 * 1024)] * 12, 0.1))
            await asyncio.sleep(0.2)
            said = await post(address)
            sending.cancel()
            return said, await gathered.endings(0.2)

    said, endings = asyncio.run(run())
    assert said == [200]
    assert any(each and statuses(each) in ([429], [408]) for each in endings)


def test_bodies_end_when_they_are_too_slow_however_fast_they_began() -> None:
    async def run() -> list[bytes | None]:
        limits = ConnectionLimits(head_timeout_s=10, max_head=65536, max_connections=100)
        async with listening(limited_app(patience_s=1.0), limits) as address, crowd(address) as gathered:
            await gathered.join(2, HEAD % LONG + bytes(LONG - 150))
            dripping = asyncio.create_task(gathered.trickle(bytes(100), 0.1))
            endings = await gathered.endings(8)
            dripping.cancel()
            return endings

    assert [statuses(each or b"") for each in asyncio.run(run())] == [[408]] * 2


def test_progress_buys_time_at_its_rate_and_no_more_than_the_patience() -> None:
    progress = Progress(10.0, 100.0, 0.0)
    progress.earn(1_000_000, 0.0)
    assert progress.left_s(0.0) == 10.0
    assert progress.lost_s(4.0) == 4.0
    progress.earn(1, 9.0)
    assert progress.left_s(9.0) == pytest.approx(1.01)
    steady = Progress(10.0, 100.0, 0.0)
    for second in range(1, 1000):
        steady.earn(100, second)
    assert steady.left_s(999.0) == pytest.approx(10.0, abs=1.01)
