"""The queue on real servers: the embedded Valkey, and Redis where one is installed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.graphs.serialization import pack_graph
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.service.messages import LANES, InferenceReply, InferenceRequest, ModelOutput
from deepergatgnn.service.operations.broker import embedded_broker
from deepergatgnn.service.queue.consumer import RequestConsumer
from deepergatgnn.service.queue.producer import ANSWERS, DEAD, GROUP, STREAMS, RequestProducer
from deepergatgnn.service.queue.redis_client import connect
from deepergatgnn.training.data.catalogue import Row
from tests.support.brokers import BROKERS, broker

STREAM = STREAMS["interactive"]


@pytest.fixture(scope="module", params=BROKERS)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    with broker(request.param) as url:
        yield url


Work = Callable[[RequestProducer, Callable[[str], RequestConsumer], "redis.asyncio.Redis"], Awaitable[None]]


@pytest.fixture
def on_broker(server: str) -> Callable[[Work], None]:
    """Runs a scenario with an empty broker: (API side, worker side by name, client)."""

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
    models = ("bulk-modulus@1.0.0",)
    return [
        InferenceRequest(row.id, "api", models, graph, time.time() + 60, request_id=f"r-{row.id}")
        for row, graph in zip(rows, graphs, strict=False)
    ]


def answer_for(entry: InferenceRequest) -> InferenceReply:
    said = ModelOutput("bulk-modulus@1.0.0", 2.0, 1.9, 2.1, True, 0.5, (), (0.25, 0.75))  # noqa: FBT003
    return InferenceReply(entry.id, (said,), 1.5, 0.5, "w")


def test_entries_and_answers_survive_packing(entries: list[InferenceRequest]) -> None:
    for entry in entries:
        name, content = entry.pack()
        fields = {name.encode(): content}
        for lane in LANES:
            back = InferenceRequest.unpack(fields, lane)
            assert vars(back) | {"lane": entry.lane, "graph": None} == vars(entry) | {"graph": None}
            assert back.lane == lane
            assert back.graph.volume == entry.graph.volume
            for part in ("atomic_numbers", "senders", "degrees", "distances", "counts", "classes", "surroundings"):
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
        await api.submit(entries)
        one = worker("one")
        await one.create_groups()
        await one.create_groups()  # harmless
        held = await one.read("interactive", 100, 1)
        assert [delivery.entry.id for delivery in held] == [entry.id for entry in entries]
        assert await one.read("interactive", 100, 0.01) == await one.read("bulk", 100, 0.01) == []
        await one.answer([(delivery, answer_for(delivery.entry)) for delivery in held])
        assert {answer.id for answer in await api.answers(1)} == {entry.id for entry in entries}
        assert await api.length() == 0
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
        await api.submit(entries[:6])
        lost, kept = await dead.read("interactive", 3, 1), await slow.read("interactive", 3, 1)
        for _ in range(6):
            await asyncio.sleep(0.25)
            await slow.renew(kept)
        taken = await other.take_over(100)
        assert [delivery.entry.id for delivery in taken] == [delivery.entry.id for delivery in lost]
        assert {delivery.times for delivery in taken} == {2}

    on_broker(scenario, 1.0)


def test_only_attempts_count(on_broker: Callable[[Work], None], entries: list[InferenceRequest]) -> None:
    """What waits in the hands of a worker that dies is as innocent as before; what it computed is not."""

    async def scenario(
        api: RequestProducer, worker: Callable[[str], RequestConsumer], _client: "redis.asyncio.Redis"
    ) -> None:
        first = worker("w0")
        await first.create_groups()
        await api.submit(entries[:3])
        await first.read("interactive", 3, 1)
        for number in range(1, 4):
            await asyncio.sleep(0.3)
            one = worker(f"w{number}")
            poison, *innocent = await one.take_over(10)
            assert poison.times == number + 1
            assert [delivery.times for delivery in innocent] == [2, 2]
            await one.attempt(poison)
            await one.renew([poison, *innocent])

    on_broker(scenario)


def test_poison_is_buried_and_its_client_told(
    on_broker: Callable[[Work], None], entries: list[InferenceRequest]
) -> None:
    async def scenario(
        api: RequestProducer, worker: Callable[[str], RequestConsumer], client: "redis.asyncio.Redis"
    ) -> None:
        one = worker("one")
        await one.create_groups()
        await api.submit(entries[:1])
        [delivery] = await one.read("interactive", 1, 1)
        await one.dead_letter(delivery, InferenceReply(delivery.entry.id, error=("prediction_failed", "no")))
        (answer,) = await api.answers(1)
        assert answer.error == ("prediction_failed", "no")
        buried: Any = await client.xrange(DEAD)
        [(_, note)] = buried
        assert (note[b"id"], note[b"request"]) == (entries[0].id.encode(), entries[0].request_id.encode())
        assert await api.length() == 0

    on_broker(scenario)


def test_withdrawn_entries_leave_nothing_behind(
    on_broker: Callable[[Work], None], entries: list[InferenceRequest]
) -> None:
    """One not read yet, and one in the hands of a worker that then dies."""

    async def scenario(
        api: RequestProducer, worker: Callable[[str], RequestConsumer], client: "redis.asyncio.Redis"
    ) -> None:
        one = worker("one")
        await one.create_groups()
        added = await api.submit(entries[:3])
        await one.read("interactive", 1, 1)
        assert await api.missing("interactive", added) == []
        await api.withdraw("interactive", added[:2])
        assert await api.missing("interactive", added) == added[:2]
        assert [d.entry.id for d in await worker("two").read("interactive", 9, 0.01)] == [entries[2].id]
        await asyncio.sleep(0.3)
        [last] = await worker("three").take_over(10)
        await worker("three").answer([(last, None)])
        assert (await client.xpending(STREAM, GROUP))["pending"] == await api.length() == 0
        assert await api.answers(0.01) == []

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
        await api.submit(entries[:1])
        assert [delivery.entry.id for delivery in await one.read("interactive", 10, 1)] == [entries[0].id]
        assert await api.length() == 1
        await client.flushall()
        assert await one.read("interactive", 10, 0.01) == []
        assert await one.take_over(10) == []
        await api.submit(entries[1:2])
        assert [delivery.entry.id for delivery in await one.read("interactive", 10, 1)] == [entries[1].id]

    on_broker(scenario)


def test_an_answer_of_another_release_does_not_stop_the_others(
    on_broker: Callable[[Work], None], entries: list[InferenceRequest]
) -> None:
    async def scenario(
        api: RequestProducer, _worker: Callable[[str], RequestConsumer], client: "redis.asyncio.Redis"
    ) -> None:
        known = answer_for(entries[0])
        await client.rpush(ANSWERS + "api", b"{}", b"?", b'{"id": 1, "error": null, "predictions": [1]}', known.pack())
        assert await api.answers(1) == [known]

    on_broker(scenario)


def test_heartbeats_fade(on_broker: Callable[[Work], None]) -> None:
    async def scenario(
        api: RequestProducer, worker: Callable[[str], RequestConsumer], _client: "redis.asyncio.Redis"
    ) -> None:
        await worker("one").create_groups()
        await worker("one").heartbeat({"worker": "one", "models": [], "costs": {}}, b"", 1.0)
        await worker("two").heartbeat({"worker": "two", "models": [], "costs": {}}, b"counted", 60)
        await api.report({"name": "api", "seconds": {}}, 60)
        assert {str(heartbeat["worker"]) for heartbeat in await api.workers()} == {"one", "two"}
        assert await api.worker_metrics() == {"one": "", "two": "counted"}
        await asyncio.sleep(1.2)
        assert [heartbeat["worker"] for heartbeat in await api.workers()] == ["two"]
        await worker("two").leave()
        assert await api.workers() == []
        assert await api.worker_metrics() == {}
        assert [report["name"] for report in await api.replicas()] == ["api"]
        await api.leave()
        assert await api.replicas() == []

    on_broker(scenario)


def test_a_worker_that_leaves_takes_nothing_along(
    on_broker: Callable[[Work], None], entries: list[InferenceRequest]
) -> None:
    async def scenario(
        api: RequestProducer, worker: Callable[[str], RequestConsumer], client: "redis.asyncio.Redis"
    ) -> None:
        one, two = worker("one"), worker("two")
        await one.create_groups()
        await api.submit(entries[:2])
        await one.read("interactive", 2, 1)
        await two.read("interactive", 2, 0.01)
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
