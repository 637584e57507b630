"""The queue on real servers: the embedded Valkey, and Redis where one is installed."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

from deepergatgnn.crystal_graph import GraphConfig
from deepergatgnn.graph import build_graph
from service.broker import embedded_broker
from service.entries import Answer, Entry, ModelAnswer
from service.queue import DEAD, GROUP, REQUESTS, RequestQueue, WorkQueue, connect
from tests.conftest import until
from training.datasets import Row

REDIS_SERVER = shutil.which("redis-server")
BROKERS = ["valkey", *(["redis"] if REDIS_SERVER else [])]


@pytest.fixture(scope="module", params=BROKERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "valkey":
        with embedded_broker() as url:
            yield url
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    process = subprocess.Popen(
        [str(REDIS_SERVER), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}/0"

    def answers() -> bool:
        with redis.Redis.from_url(url) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    try:
        until(answers, "the server answers")
        yield url
    finally:
        process.terminate()
        process.wait(10)


Work = Callable[[RequestQueue, Callable[[str], WorkQueue], "redis.asyncio.Redis"], Awaitable[None]]


@pytest.fixture
def on_broker(server: str) -> Callable[[Work], None]:
    """Runs a scenario with an empty broker: (API side, worker side by name, client)."""

    def run(scenario: Work, lease_s: float = 0.2) -> None:
        async def connected() -> None:
            client = connect(server)
            await client.flushall()
            try:
                await scenario(RequestQueue(client, "api"), lambda name: WorkQueue(client, name, lease_s), client)
            finally:
                await client.aclose()

        asyncio.run(connected())

    return run


@pytest.fixture(scope="module")
def entries(rows: tuple[Row, ...]) -> list[Entry]:
    return [
        Entry(row.id, "api", ("bulk-modulus@1.0.0",), build_graph(row.crystal, GraphConfig()), time.time() + 60)
        for row in rows[:12]
    ]


def answer_for(entry: Entry) -> Answer:
    said = ModelAnswer("bulk-modulus@1.0.0", 2.0, 1.9, 2.1, True, 0.5, (), (0.25, 0.75))  # noqa: FBT003
    return Answer(entry.id, (said,), 1.5, "w")


def test_entries_and_answers_survive_packing(entries: list[Entry]) -> None:
    for entry in entries:
        fields = {k.encode(): v if isinstance(v, bytes) else str(v).encode() for k, v in entry.pack().items()}
        back = Entry.unpack(fields)
        assert (back.id, back.replica, back.models, back.deadline, back.attention) == (
            entry.id,
            entry.replica,
            entry.models,
            entry.deadline,
            entry.attention,
        )
        assert back.graph.volume == entry.graph.volume
        for name in ("atomic_numbers", "senders", "degrees", "distances", "receivers"):
            np.testing.assert_array_equal(getattr(back.graph, name), getattr(entry.graph, name))
        assert Answer.unpack(answer_for(entry).pack()) == answer_for(entry)
    error = Answer("x", error=(500, "prediction_failed", "no"))
    assert Answer.unpack(error.pack()) == error


def test_entries_sent_before_the_first_worker_are_read(on_broker: Callable[[Work], None], entries: list[Entry]) -> None:
    async def scenario(api: RequestQueue, worker: Callable[[str], WorkQueue], client: "redis.asyncio.Redis") -> None:
        await api.submit(entries)
        one = worker("one")
        await one.create_group()
        await one.create_group()  # harmless
        held = await one.read(100, block_s=1)
        assert [delivery.entry.id for delivery in held] == [entry.id for entry in entries]
        assert await one.read(100, block_s=None) == []
        await one.answer([(delivery, answer_for(delivery.entry)) for delivery in held])
        assert {answer.id for answer in await api.answers(1)} == {entry.id for entry in entries}
        assert await api.length() == 0
        assert (await client.xpending(REQUESTS, GROUP))["pending"] == 0

    on_broker(scenario)


def test_entries_of_a_dead_worker_are_taken_over_and_renewed_ones_are_not(
    on_broker: Callable[[Work], None], entries: list[Entry]
) -> None:
    async def scenario(api: RequestQueue, worker: Callable[[str], WorkQueue], _client: "redis.asyncio.Redis") -> None:
        dead, slow, other = worker("dead"), worker("slow"), worker("other")
        await dead.create_group()
        await api.submit(entries[:6])
        lost, kept = await dead.read(3, 1), await slow.read(3, 1)
        for _ in range(5):
            await asyncio.sleep(0.1)
            await slow.renew([delivery.stream_id for delivery in kept])
        taken = await other.take_over(100)
        assert [delivery.entry.id for delivery, _ in taken] == [delivery.entry.id for delivery in lost]
        assert {times for _, times in taken} == {2}

    on_broker(scenario)


def test_poison_is_buried_and_its_client_told(on_broker: Callable[[Work], None], entries: list[Entry]) -> None:
    async def scenario(api: RequestQueue, worker: Callable[[str], WorkQueue], client: "redis.asyncio.Redis") -> None:
        first = worker("w0")
        await first.create_group()
        await api.submit(entries[:1])
        await first.read(1, 1)
        for number in range(1, 4):
            await asyncio.sleep(0.3)
            ((delivery, times),) = await worker(f"w{number}").take_over(10)
            assert times == number + 1
        await worker("w3").bury(delivery, Answer(delivery.entry.id, error=(500, "prediction_failed", "no")))
        (answer,) = await api.answers(1)
        assert answer.error == (500, "prediction_failed", "no")
        assert await client.xlen(DEAD) == 1
        assert await api.length() == 0

    on_broker(scenario)


def test_foreign_entries_are_dropped_and_a_flushed_broker_is_survived(
    on_broker: Callable[[Work], None], entries: list[Entry]
) -> None:
    async def scenario(api: RequestQueue, worker: Callable[[str], WorkQueue], client: "redis.asyncio.Redis") -> None:
        one = worker("one")
        await one.create_group()
        await client.xadd(REQUESTS, {"hello": "world"})
        await api.submit(entries[:1])
        assert [delivery.entry.id for delivery in await one.read(10, 1)] == [entries[0].id]
        assert await api.length() == 1
        await client.flushall()
        assert await one.read(10, block_s=None) == []
        assert await one.take_over(10) == []
        await api.submit(entries[1:2])
        assert [delivery.entry.id for delivery in await one.read(10, 1)] == [entries[1].id]

    on_broker(scenario)


def test_heartbeats_fade(on_broker: Callable[[Work], None]) -> None:
    async def scenario(api: RequestQueue, worker: Callable[[str], WorkQueue], _client: "redis.asyncio.Redis") -> None:
        await worker("one").beat({"worker": "one"}, 0.2)
        await worker("two").beat({"worker": "two"}, 60)
        assert {str(beat["worker"]) for beat in await api.workers()} == {"one", "two"}
        await asyncio.sleep(0.4)
        assert [beat["worker"] for beat in await api.workers()] == ["two"]
        await worker("two").leave()
        assert await api.workers() == []

    on_broker(scenario)


def test_the_embedded_broker_leaves_nothing(tmp_path: Path) -> None:
    with embedded_broker() as url:
        path = Path(url.removeprefix("unix://"))
        assert path.is_socket()
    assert not path.parent.exists()
    assert list(tmp_path.iterdir()) == []
