"""A worker that cannot do its work does not look as if it could, and takes no entries that others could compute."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.graphs.serialization import pack_graph
from deepergatgnn.model_store import ModelStore
from deepergatgnn.service.lanes import BULK, INTERACTIVE
from deepergatgnn.service.messages import InferenceRequest
from deepergatgnn.service.queue.consumer import RequestConsumer
from deepergatgnn.service.queue.heartbeats import worker_heartbeats
from deepergatgnn.service.queue.producer import FIELD, STREAMS, RequestProducer
from deepergatgnn.service.queue.redis_client import connect
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.tasks import cancel_all
from deepergatgnn.service.worker.engine import DeviceLostError
from deepergatgnn.service.worker.process import WorkerParts, work
from tests.support.brokers import embedded_broker
from tests.support.fixtures import some_crystals
from tests.support.processes import MODEL, OLD, small_store

LEASE_S = 0.2


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    store = small_store(tmp_path_factory.mktemp("worker") / "store")
    with embedded_broker() as url:
        yield Settings(
            redis_url=SecretStr(url), model_store=store, lease_s=LEASE_S, heartbeat_s=0.05, stuck_s=0.5, device="cpu"
        )


def made(settings: Settings) -> WorkerParts:
    assert settings.redis_url is not None
    return WorkerParts(settings, settings.redis_url.get_secret_value())


def entries(count: int) -> list[InferenceRequest]:
    config = ModelStore().manifest(f"{MODEL}@{OLD}").graph
    assert isinstance(config, GraphConfig)
    graphs = [pack_graph(build_graph(crystal, config)) for crystal in some_crystals(count)]
    models = (ModelStore().version(f"{MODEL}@{OLD}").identity,)
    return [
        InferenceRequest(id=str(n), reply_to="api", models=models, deadline=time.time() + 60, packed=graph)
        for n, graph in enumerate(graphs)
    ]


def test_a_hung_worker_is_silent_and_takes_nothing_over(settings: Settings) -> None:
    async def scenario() -> None:
        parts = made(settings)
        api, held = RequestProducer(parts.client, "api"), parts.leases.deliveries
        await parts.queue.create_groups()
        await api.submit([(INTERACTIVE, entry) for entry in entries(4)])
        assert len(await RequestConsumer(parts.client, "dead", LEASE_S).read(INTERACTIVE, 4, 1)) == 4
        parts.device.computing_since = time.monotonic() - 10
        taking = parts.leases.take_over(parts.worker.accept, parts.stopping)
        tasks = [asyncio.create_task(each) for each in (parts.heartbeat.run(), taking)]
        await asyncio.sleep(3 * LEASE_S)
        assert await worker_heartbeats(parts.client).alive() == []
        assert held == {}
        parts.device.computing_since = time.monotonic() + 60  # it goes on
        async with asyncio.timeout(10):
            while len(held) < 4 or not await worker_heartbeats(parts.client).alive():  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.05)
        await cancel_all(tasks)
        assert {delivery.times for delivery in held.values()} == {2}
        await parts.client.aclose()

    asyncio.run(scenario())


def test_withdrawn_entries_are_dropped_before_the_device(settings: Settings) -> None:
    async def scenario() -> None:
        parts = made(settings)
        api = RequestProducer(parts.client, "api")
        await parts.queue.create_groups()
        added = await api.submit([(INTERACTIVE, entry) for entry in entries(4)])
        parts.worker.accept(await parts.queue.read(INTERACTIVE, 10, 1))
        tasks = [asyncio.create_task(parts.leases.follow_withdrawals())]
        batch = list(parts.leases.deliveries.values())
        async with asyncio.timeout(10):
            while len(parts.leases.split_stale(batch)[0]) > 2:
                await api.withdraw(INTERACTIVE, [*added[:2], b"1-1"])  # no worker holds the last one
                await asyncio.sleep(0.05)
        live, stale = parts.leases.split_stale(batch)
        assert [delivery.stream_id for delivery in live] == added[2:]
        assert [delivery.stream_id for delivery in stale] == added[:2]
        await cancel_all(tasks)
        await parts.client.aclose()

    asyncio.run(scenario())


def test_entries_of_both_lanes_with_one_id_are_two(settings: Settings) -> None:
    """A broker gives ids by its clock: entries that come in the same millisecond have the same one in each stream."""

    async def scenario() -> None:
        parts = made(settings)
        await parts.queue.create_groups()
        first, second = entries(2)
        for lane, entry in ((INTERACTIVE, first), (BULK, second)):
            await parts.client.xadd(STREAMS[lane], {FIELD: entry.pack()}, id="1700000000000-0")
            parts.worker.accept(await parts.queue.read(lane, 10, 1))
        assert sorted(delivery.entry.id for delivery in parts.leases.deliveries.values()) == ["0", "1"]
        await parts.client.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("task", ["read", "write"])
def test_a_worker_ends_when_one_of_its_tasks_fails(
    settings: Settings, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its reader it would send heartbeats and compute nothing."""

    async def fail(*_: object) -> None:
        raise KeyError("unforeseen")

    async def scenario() -> None:
        parts = made(settings)
        monkeypatch.setattr(parts.worker, task, fail)
        async with asyncio.timeout(60):
            await work(parts)

    with pytest.raises(KeyError, match="unforeseen"):
        asyncio.run(scenario())


def test_a_worker_whose_idle_device_is_lost_ends(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise DeviceLostError("cuda:0 does not compute any more")

    async def scenario() -> None:
        parts = made(settings)
        monkeypatch.setattr(parts.engine, "check_device", lost)
        async with asyncio.timeout(60):
            await work(parts)

    with pytest.raises(DeviceLostError):
        asyncio.run(scenario())
    assert settings.redis_url is not None
    url = settings.redis_url.get_secret_value()

    async def workers() -> int:
        client = connect(url)
        async with contextlib.aclosing(client):
            return len(await worker_heartbeats(client).alive())

    assert asyncio.run(workers()) == 0


def test_a_worker_whose_idle_device_hangs_is_silent_and_ends(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its supervisor starts another one; nothing but the end of the process gets a thread out of a device."""
    released = threading.Event()

    class LeftError(Exception):
        pass

    def leave(_: int) -> None:
        raise LeftError

    async def scenario() -> None:
        parts = made(settings)
        monkeypatch.setattr(parts.engine, "check_device", released.wait)
        monkeypatch.setattr("deepergatgnn.service.worker.heartbeat.os._exit", leave)
        parts.device.responded_at = time.monotonic() - 60
        heartbeat = asyncio.create_task(parts.heartbeat.run())
        async with asyncio.timeout(30):
            await asyncio.sleep(10 * settings.heartbeat_s)
            assert await worker_heartbeats(parts.client).alive() == []
            with pytest.raises(LeftError):
                await heartbeat
        released.set()
        await parts.client.aclose()

    asyncio.run(scenario())


def test_a_hung_batch_is_detected_in_time_for_readiness(settings: Settings) -> None:
    """Not ready within ten seconds, with three heartbeats more; a batch that should take longer has its time."""
    device = made(settings.model_copy(update={"stuck_s": 5.0})).device
    for predicted, patience in ((0.01, 5.05), (0.1, 5.5), (0.35, 6.0), (2.0, 6.0), (10.0, 20.0)):
        device.predicted_s = predicted
        device.computing_since = time.monotonic() - patience + 0.5
        assert not device.hangs
        device.computing_since = time.monotonic() - patience - 0.1
        assert device.hangs
