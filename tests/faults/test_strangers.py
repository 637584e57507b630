"""A thousand clients that are slow, silent or gone: others are answered, and nothing is left of them afterwards."""

import asyncio
import json
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import psutil
import pytest
from pymatgen.core import Structure

from tests.conftest import running, until
from tests.support.processes import CIF, HEADERS, PREDICT, small_store
from tests.support.strangers import GET, HEAD, POST, Crowd, Footprint, exchange, place, statuses

MANY = 1000
PATIENCE_S = 2  # of the service here
TIMES = {f"DEEPERGATGNN_{each}_TIMEOUT_S": str(PATIENCE_S) for each in ("HEADER", "BODY", "ANSWER")}
BODIES = {"DEEPERGATGNN_MAX_BODIES_MIB": "32"}


@dataclass(frozen=True)
class House:
    """A service, seen from within."""

    address: str
    process: psutil.Process

    @property
    def footprint(self) -> Footprint:
        """Of the API process."""
        return Footprint.of([self.process])

    def waits_for_nothing(self) -> bool:
        """Whether every crystal that was let in has left."""
        text = httpx.get(f"{self.address}/metrics").text
        admitted = [line for line in text.splitlines() if line.startswith("deepergatgnn_admitted{")]
        assert admitted
        return all(line.endswith(" 0.0") for line in admitted)

    def talks_to(self, client: socket.socket) -> bool:
        """Whether the API holds its end of this connection."""
        return client.getsockname() in {each.raddr for each in self.process.net_connections("tcp")}

    def is_as_before(self, before: Footprint) -> bool:
        """Whether descriptors and memory are what they were, but for connections to the broker and free memory kept."""
        now = self.footprint
        return now.files <= before.files + 64 and now.mib <= before.mib + 48


@pytest.fixture(scope="module", autouse=True)
def _files() -> None:
    """As many sockets as the tests open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    store = small_store(tmp_path_factory.mktemp("strangers") / "store")
    settings = {"DEEPERGATGNN_MODEL_STORE": str(store)} | TIMES | BODIES
    with running("serve", "--port", "0", ready="^ready on ", **settings) as (process, line):
        made = House(line.removeprefix("ready on "), psutil.Process(process.pid))
        for _ in range(20):  # what it allocates once it has
            asyncio.run(answered(made))
        yield made


async def answered(house: House, times: int = 1) -> None:
    """The example crystal gets its answer."""
    async with httpx.AsyncClient(base_url=house.address, timeout=30) as client:
        for reply in await asyncio.gather(*(client.post(PREDICT, content=CIF, headers=HEADERS) for _ in range(times))):
            assert reply.status_code == httpx.codes.OK, reply.text


@asynccontextmanager
async def crowd(house: House) -> AsyncIterator[Crowd]:
    gathered = Crowd(house.address)
    try:
        yield gathered
    finally:
        await gathered.leave()


def survives(house: House, strangers: Awaitable[None]) -> None:
    """Let strangers in; when they have gone all is as before."""

    async def run() -> None:
        await strangers

    before = house.footprint
    asyncio.run(run())
    until(house.waits_for_nothing, "no crystal is admitted")
    until(lambda: house.is_as_before(before), f"{house.footprint} is as {before}")
    asyncio.run(answered(house))


def test_a_thousand_slow_clients(house: House) -> None:
    kinds = {"silent": b"", "half a head": HEAD[:60], "half a body": HEAD + CIF[:100]}

    async def slow() -> None:
        async with crowd(house) as gathered, crowd(house) as dripping:
            for sent in kinds.values():
                await gathered.join(MANY // 5, sent)
            await dripping.join(MANY // 5, b"")
            await dripping.join(MANY // 5, HEAD)
            drip = asyncio.create_task(dripping.trickle(HEAD[:80], 0.1))
            await asyncio.sleep(0.3)
            assert len(gathered.members) + len(dripping.members) == MANY
            assert house.footprint.files > MANY  # all of them are there
            await answered(house, 8)
            endings = await gathered.endings(PATIENCE_S + 20)
            endings += await dripping.endings(PATIENCE_S + 20)
            drip.cancel()
            told = [
                Counter(map(tuple, map(statuses, filter(None, endings[n : n + MANY // 5]))))
                for n in (200, 400, 600, 800)
            ]
        assert None not in endings  # each was ended
        assert set(endings[: MANY // 5]) == {b""}  # who asked nothing is told nothing
        assert told[0] == told[1] == {(408,): MANY // 5}
        assert set(told[2]) | set(told[3]) <= {(408,)}  # who still sends may not hear it

    survives(house, slow())


def test_a_thousand_that_close_at_once(house: House) -> None:
    async def fleeting() -> None:
        async with crowd(house) as gathered:
            for sent in (b"", HEAD[:60], HEAD + CIF[:100], POST):
                await gathered.join(MANY // 4, sent)
            assert len(gathered.members) == MANY
            await gathered.leave()
        await answered(house)

    survives(house, fleeting())


def test_who_does_not_take_an_answer_is_ended(house: House) -> None:
    """It would hold its bulk request, and everybody's share of the queue, for ever."""
    large = Structure.from_str(CIF.decode(), fmt="cif").make_supercell(3).to(fmt="poscar")
    body = json.dumps({"structures": [{"structure": large}] * 256}).encode()
    head = (
        b"POST /predict/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Accept: application/x-ndjson\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    before = house.footprint
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(place(house.address))
        deaf.sendall(head + body)
        until(lambda: not house.waits_for_nothing(), "it is admitted")
        until(lambda: not house.talks_to(deaf), "it is ended")
        assert house.waits_for_nothing()
        deaf.settimeout(20)
        said = b""
        while piece := deaf.recv(1 << 16):
            said += piece
    assert statuses(said) == [200]
    assert not said.endswith(b"\r\n0\r\n\r\n"), "the whole answer had room on the way: it must be longer"
    until(lambda: house.is_as_before(before), "what it held is free")
    asyncio.run(answered(house))


def test_long_bodies_that_stop_do_not_fill_the_memory(house: House) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 8000000\r\n\r\n"
    before = house.footprint

    async def greedy() -> None:
        async with crowd(house) as gathered:
            sending = asyncio.create_task(gathered.join(100, head + bytes(7_000_000)))
            await asyncio.sleep(1)
            await answered(house, 4)
            await sending
            assert house.footprint.mib < before.mib + 300
            endings = await gathered.endings(PATIENCE_S + 20)
        assert None not in endings
        assert {tuple(statuses(each)) for each in endings if each} <= {(429,), (408,)}
        assert any(each and statuses(each) == [429] and b"retry-after: 1" in each.lower() for each in endings)

    survives(house, greedy())


def test_over_the_limit_who_waits_longest_gives_way() -> None:
    with running("serve", "--port", "0", "--workers", "0", ready="^ready on ", DEEPERGATGNN_MAX_CONNECTIONS="50") as (
        process,
        line,
    ):
        house = House(line.removeprefix("ready on "), psutil.Process(process.pid))

        async def throng() -> None:
            async with crowd(house) as gathered:
                await gathered.join(300, b"")
                assert statuses(await exchange(house.address, GET, seconds=5)) == [200]
                assert await gathered.endings(5) == [b""] * 251 + [None] * 49

        asyncio.run(throng())
