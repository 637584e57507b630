"""Slow readers get the whole response as long as they keep reading, at no cost to others."""

import asyncio
import socket
from contextlib import ExitStack

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.protocol import ConnectionLimits
from deepergatgnn.service.lanes import BULK, LANES, Lane
from deepergatgnn.service.scheduling.admission import LONGEST_RETRY_S, Admission, Demand
from deepergatgnn.service.scheduling.fairness import INTERNAL, Flow
from deepergatgnn.service.settings import Settings
from tests.support.in_process import listening
from tests.support.strangers import place

MIB = 1 << 20
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
PATIENCE_S = 2.0


def answering(size: int, pieces: int) -> ASGIApp:
    """An application with a long answer, as one piece or as many."""

    async def answer(_: Scope, __: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % (size * pieces))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(pieces):
            await send({"type": "http.response.body", "body": bytes(size), "more_body": number < pieces - 1})

    return answer


def patient() -> ConnectionLimits:
    """Limits with short timeouts."""
    return ConnectionLimits(PATIENCE_S, 65536, 100, PATIENCE_S)


async def connect(address: str, buffer: int) -> socket.socket:
    """A client with a small buffer that has sent a request."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.setblocking(False)  # noqa: FBT003 - the method name explains it
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, place(address))
    await loop.sock_sendall(client, GET)
    return client


async def take(client: socket.socket, size: int, pause_s: float, times: int) -> int:
    """Bytes that were read, with pauses; then, without, to the end."""
    loop = asyncio.get_running_loop()
    read = 0
    with client:
        for _ in range(times):
            await asyncio.sleep(pause_s)
            read += len(await loop.sock_recv(client, size))
        while piece := await loop.sock_recv(client, MIB):
            read += len(piece)
    return read


@pytest.mark.parametrize("pieces", [1, 512], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("size", "pause_s"), [(512 * 1024, 0.2), (16 * 1024, 0.2)], ids=["2.5 MB/s of much", "80 kB/s"]
)
def test_a_steady_reader_gets_all_however_long_it_takes(pieces: int, size: int, pause_s: float) -> None:
    total = 32 * MIB

    async def run() -> int:
        async with listening(answering(total // pieces, pieces), patient()) as address:
            client = await connect(address, 64 * 1024)
            return await take(client, size, pause_s, int(3 * PATIENCE_S / pause_s))

    assert asyncio.run(run()) > total


@pytest.mark.parametrize("pieces", [1, 512], ids=["whole", "streamed"])
def test_a_client_that_does_not_read_is_disconnected(pieces: int) -> None:
    async def run() -> None:
        limits = patient()
        async with listening(answering(32 * MIB // pieces, pieces), limits) as address:
            with await connect(address, 4096):
                async with asyncio.timeout(20):
                    while not limits.open:  # noqa: ASYNC110 - it has no event
                        await asyncio.sleep(0.01)
                    while limits.open:  # noqa: ASYNC110 - likewise
                        await asyncio.sleep(0.05)

    asyncio.run(run())


def test_what_is_not_taken_is_bounded_and_the_slowest_pay() -> None:
    async def run() -> tuple[int, int]:
        limits = ConnectionLimits(60.0, 65536, 100, 60.0, 100 * MIB)
        async with listening(answering(32 * MIB, 1), limits) as address:
            deaf = [await connect(address, 4096) for _ in range(6)]
            await asyncio.sleep(1.5)
            left = len(limits.open)
            read = await take(await connect(address, 64 * 1024), MIB, 0.05, 10)
            for client in deaf:
                client.close()
            return left, read

    left, read = asyncio.run(run())
    assert left <= 3
    assert read > 32 * MIB


def test_crystals_that_wait_for_a_reader_say_nothing_of_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the speed that was measured nor the work that is before others."""
    now = 100.0
    monkeypatch.setattr("deepergatgnn.service.scheduling.admission.time.monotonic", lambda: now)
    admission = Admission(Settings())
    typical = admission.typical
    with admission.admit(BULK, INTERNAL, Demand(0.0, typical), 1000) as ticket:
        for _ in range(400):
            now += 1.0
            with ticket.crystal() as crystal:  # one is computed at once whenever the reader takes one
                crystal.price(typical)
                now += typical
        ticket.hold(600)
        assert admission.wait_s(BULK) < 1
        assert admission.lanes[BULK].unparsed == 0
        ticket.resume(600)
        assert admission.lanes[BULK].unparsed == 600
        assert admission.wait_s(BULK) == pytest.approx(
            600 * admission.typical, rel=0.1
        )  # the workers are as fast as ever
    assert admission.lanes[BULK].crystals == 0
    assert admission.wait_s(BULK) == pytest.approx(0, abs=1e-9)


def test_work_that_workers_have_does_tell_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("deepergatgnn.service.scheduling.admission.time.monotonic", lambda: now)
    admission = Admission(Settings())
    with admission.admit(BULK, INTERNAL, Demand(0.0, admission.typical), 1000) as ticket:
        crystals = [ExitStack() for _ in range(600)]
        for each in crystals:
            each.enter_context(ticket.crystal()).price(0.1)
        before = admission.wait_s(BULK)
        for each in crystals[:400]:
            now += 1.0  # ten times as long as predicted
            each.close()
        assert admission.wait_s(BULK) > before


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_retry_after_is_at_most_a_minute(lane: Lane) -> None:
    admission = Admission(Settings())
    with admission.admit(lane, INTERNAL, Demand(0.0, admission.typical), 10_000_000):
        assert admission.wait_s(lane) > 10 * LONGEST_RETRY_S
        with pytest.raises(ServiceError) as refused:
            admission.admit(lane, Flow("b"), Demand(0.0, 1e6))
    assert refused.value.retry_after_s == LONGEST_RETRY_S
