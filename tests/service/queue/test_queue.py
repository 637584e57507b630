"""The queue on real servers: the embedded Valkey, and Redis."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from msgspec.structs import asdict

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.graphs.serialization import pack_graph
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.service.lanes import BULK, INTERACTIVE
from deepergatgnn.service.messages import ApiReport, InferenceReply, InferenceRequest, ModelOutput, WorkerHeartbeat
from deepergatgnn.service.queue.consumer import RequestConsumer
from deepergatgnn.service.queue.heartbeats import KEPT_S, api_reports, worker_heartbeats
from deepergatgnn.service.queue.producer import ANSWERS, DEAD, GROUP, STREAMS, RequestProducer
from deepergatgnn.service.queue.redis_client import connect
from deepergatgnn.training.data.catalogue import Row
from tests.support.brokers import BROKERS, broker, embedded_broker

STREAM = STREAMS[INTERACTIVE]


@pytest.fixture(scope="module", params=BROKERS)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    with broker(request.param) as url:
        yield url


Work = Callable[[RequestProducer, Callable[[str], RequestConsumer], "redis.asyncio.Redis"], Awaitable[None]]


@pytest.fixture
def on_broker(server: str) -> Callable[[Work], None]:
    """Run a scenario on an empty broker: (API side, worker side by name, client)."""

    def run(scenario: Work, lease_s: float = 0.2) -> None:
        async def connected() -> None:
            client = connect(server)
            await client.flushall()
            try:
                await scenario(
                    RequestProducer(client, "api"), lambda name: RequestConsumer(client, name, lease_s), client
                )
            finally:
                await client.aclose()

        asyncio.run(connected())

    return run


@pytest.fixture(scope="module")
def entries(rows: tuple[Row, ...]) -> list[InferenceRequest]:
    graphs = [pack_graph(reduce_graph(build_graph(row.crystal, GraphConfig()))) for row in rows[:12]]
    return [
        InferenceRequest(
            id=row.id,
            reply_to="api",
            models=("bulk-modulus@1.0.0",),
            deadline=time.time() + 60,
            request_id=f"r-{row.id}",
            packed=graph,
        )
        for row, graph in zip(rows, graphs, strict=False)
    ]


async def submit(api: RequestProducer, entries: Sequence[InferenceRequest]) -> list[bytes]:
    return await api.submit([(INTERACTIVE, entry) for entry in entries])


async def length(client: "redis.asyncio.Redis") -> int:
    """Return the number of requests in the streams."""
    return sum([int(await client.xlen(stream)) for stream in STREAMS.values()])


def answer_for(entry: InferenceRequest) -> InferenceReply:
    output = ModelOutput("bulk-modulus@1.0.0", 2.0, 1.9, 2.1, True, 0.5, (), (0.25, 0.75))  # noqa: FBT003
    return InferenceReply(entry.id, (output,), 1.5, 0.5, "w")


def test_entries_and_answers_survive_packing(entries: list[InferenceRequest]) -> None:
    for entry in entries:
        back = InferenceRequest.unpack(entry.pack())
        assert asdict(back) == asdict(entry)
        assert back.graph.volume == entry.graph.volume
        for part in ("atomic_numbers", "senders", "degrees", "distances", "counts", "node_of_atom", "angular_features"):
            np.testing.assert_array_equal(getattr(back.graph, part), getattr(entry.graph, part))
        assert InferenceReply.unpack(answer_for(entry).pack()) == answer_for(entry)
    error = InferenceReply("x", error=("prediction_failed", "no"))
    assert InferenceReply.unpack(error.pack()) == error


def test_entries_sent_before_the_first_worker_are_read(
    on_broker: Callable[[Work], None], entries: list[InferenceRequest]
) -> None:
    async def scenario(
        api: RequestProducer, worker: Callable[[str], RequestConsumer], client: "redis.asyncio.Redis"
    ) -> None:
        await submit(api, entries)
        one = worker("one")
        await one.create_groups()
        await one.create_groups()
        held = await one.read(INTERACTIVE, 100, 1)
        assert [delivery.entry.id for delivery in held] == [entry.id for entry in entries]
        assert await one.read(INTERACTIVE, 100, 0.01) == await one.read(BULK, 100, 0.01) == []
        await one.answer([(delivery, answer_for(delivery.entry)) for delivery in held])
        assert {answer.id for answer in await api.replies(1)} == {entry.id for entry in entries}
        assert await length(client) == 0
        assert (await client.xpending(STREAM, GROUP))["pending"] == 0

    on_broker(scenario)


def test_entries_of_a_dead_worker_are_taken_over_and_renewed_ones_are_not(
    on_broker: Callable[..., None], entries: list[InferenceRequest]
) -> None:
    async def scenario(
        api: RequestProducer, worker: Callable[[str], RequestConsumer], _client: "redis.asyncio.Redis"
    ) -> None:
        dead, slow, other = worker("dead"), worker("slow"), worker("other")
        await dead.create_groups()
        await submit(api, entries[:6])
        lost, kept = await dead.read(INTERACTIVE, 3, 1), await slow.read(INTERACTIVE, 3, 1)
        for _ in range(6):
            await asyncio.sleep(0.25)
            await slow.renew(kept)
        taken = await other.take_over(100)
        assert [delivery.entry.id for delivery in taken] == [delivery.entry.id for delivery in lost]
        assert {delivery.times for delivery in taken} == {2}

    on_broker(scenario, 1.0)


def test_only_attempts_count(on_broker: Callable[[Work], None], entries: list[InferenceRequest]) -> None:
    """Of a worker that dies, only requests under computation are suspected."""

    async def scenario(
        api: RequestProducer, worker: Callable[[str], RequestConsumer], _client: "redis.asyncio.Redis"
    ) -> None:
        first = worker("w0")
        await first.create_groups()
        await submit(api, entries[:3])
        await first.read(INTERACTIVE, 3, 1)
        for number in range(1, 4):
            await asyncio.sleep(0.3)
            one = worker(f"w{number}")
            poison, *innocent = await one.take_over(10)
            assert poison.times == number + 1
            assert [delivery.times for delivery in innocent] == [2, 2]
            await one.attempt(poison)
            await one.renew([poison, *innocent])

    on_broker(scenario)


def test_a_dead_lettered_request_gets_an_error(
    on_broker: Callable[[Work], None], entries: list[InferenceRequest]
) -> None:
    async def scenario(
        api: RequestProducer, worker: Callable[[str], RequestConsumer], client: "redis.asyncio.Redis"
    ) -> None:
        one = worker("one")
        await one.create_groups()
        await submit(api, entries[:1])
        [delivery] = await one.read(INTERACTIVE, 1, 1)
        await one.dead_letter(delivery, InferenceReply(delivery.entry.id, error=("prediction_failed", "no")))
        (answer,) = await api.replies(1)
        assert answer.error == ("prediction_failed", "no")
        letters: Any = await client.xrange(DEAD)
        [(_, note)] = letters
        assert (note[b"id"], note[b"request"]) == (entries[0].id.encode(), entries[0].request_id.encode())
        assert await length(client) == 0

    on_broker(scenario)


def test_withdrawn_entries_leave_nothing_behind(
    on_broker: Callable[[Work], None], entries: list[InferenceRequest]
) -> None:
    """One that was not read yet, and one of a worker that then dies."""

    async def scenario(
        api: RequestProducer, worker: Callable[[str], RequestConsumer], client: "redis.asyncio.Redis"
    ) -> None:
        one = worker("one")
        await one.create_groups()
        added = await submit(api, entries[:3])
        await one.read(INTERACTIVE, 1, 1)
        assert await api.missing(INTERACTIVE, added) == []
        await api.withdraw(INTERACTIVE, added[:2])
        assert await api.missing(INTERACTIVE, added) == added[:2]
        assert [d.entry.id for d in await worker("two").read(INTERACTIVE, 9, 0.01)] == [entries[2].id]
        await asyncio.sleep(0.3)
        [last] = await worker("three").take_over(10)
        await worker("three").answer([(last, None)])
        assert (await client.xpending(STREAM, GROUP))["pending"] == await length(client) == 0
        assert await api.replies(0.01) == []

    on_broker(scenario)


def test_foreign_entries_are_dropped_and_a_flushed_broker_is_survived(
    on_broker: Callable[[Work], None], entries: list[InferenceRequest]
) -> None:
    async def scenario(
        api: RequestProducer, worker: Callable[[str], RequestConsumer], client: "redis.asyncio.Redis"
    ) -> None:
        one = worker("one")
        await one.create_groups()
        await client.xadd(STREAM, {"hello": "world"})
        await submit(api, entries[:1])
        assert [delivery.entry.id for delivery in await one.read(INTERACTIVE, 10, 1)] == [entries[0].id]
        assert await length(client) == 1
        await client.flushall()
        assert await one.read(INTERACTIVE, 10, 0.01) == []
        assert await one.take_over(10) == []
        await submit(api, entries[1:2])
        assert [delivery.entry.id for delivery in await one.read(INTERACTIVE, 10, 1)] == [entries[1].id]

    on_broker(scenario)


def test_an_answer_of_another_release_does_not_stop_the_others(
    on_broker: Callable[[Work], None], entries: list[InferenceRequest]
) -> None:
    async def scenario(
        api: RequestProducer, _worker: Callable[[str], RequestConsumer], client: "redis.asyncio.Redis"
    ) -> None:
        known = answer_for(entries[0])
        await client.rpush(ANSWERS + "api", b"{}", b"?", b"\x96\x01\x90\x00\x00\xa0\xc0", known.pack())
        assert await api.replies(1) == [known]

    on_broker(scenario)


def test_heartbeats_expire_and_are_deleted(on_broker: Callable[[Work], None]) -> None:
    async def scenario(
        _api: RequestProducer, worker: Callable[[str], RequestConsumer], client: "redis.asyncio.Redis"
    ) -> None:
        workers, replicas, now = worker_heartbeats(client), api_reports(client), time.time()
        one, two = (WorkerHeartbeat(worker=name, models=("m",), costs={"m": (0, 1, 2, 3)}) for name in ("one", "two"))
        await worker("one").create_groups()
        await worker("one").heartbeat(one, b"", now + 0.2)
        await worker("two").heartbeat(two, b"counted", now + 60)
        await replicas.beat("api", ApiReport("api", {"interactive": 1.0}, 2.0), now + 60)
        assert {heartbeat.worker: heartbeat for heartbeat in await workers.alive()} == {"one": one, "two": two}
        assert await workers.metrics() == {"two": "counted"}
        await asyncio.sleep(0.4)
        assert await workers.alive() == [two]
        await worker("one").heartbeat(one, b"counted", now - KEPT_S - 1)
        assert await workers.alive() == [two]
        assert set(await client.hgetall("deepergatgnn:workers:heartbeats")) == {b"two"}  # "one" is deleted by now
        await worker("two").leave()
        assert await workers.alive() == []
        assert await workers.metrics() == {}
        assert await replicas.alive() == [ApiReport("api", {"interactive": 1.0}, 2.0)]
        await replicas.remove("api")
        assert await replicas.alive() == []
        assert set(await client.keys()) == {stream.encode() for stream in STREAMS.values()}

    on_broker(scenario)


def test_a_worker_that_leaves_takes_nothing_along(
    on_broker: Callable[[Work], None], entries: list[InferenceRequest]
) -> None:
    async def scenario(
        api: RequestProducer, worker: Callable[[str], RequestConsumer], client: "redis.asyncio.Redis"
    ) -> None:
        one, two = worker("one"), worker("two")
        await one.create_groups()
        await submit(api, entries[:2])
        await one.read(INTERACTIVE, 2, 1)
        await two.read(INTERACTIVE, 2, 0.01)
        await one.leave()
        await two.leave()
        assert [consumer["name"] for consumer in await client.xinfo_consumers(STREAM, GROUP)] == [b"one"]
        await asyncio.sleep(0.3)
        assert len(await worker("three").take_over(10)) == 2

    on_broker(scenario)


def test_the_embedded_broker_leaves_nothing(tmp_path: Path) -> None:
    with embedded_broker() as url:
        path = Path(url.removeprefix("unix://"))
        assert path.is_socket()
    assert not path.parent.exists()
    assert list(tmp_path.iterdir()) == []
