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
from deepergatgnn.service.operations.broker import embedded_broker
from deepergatgnn.service.queue.consumer import RequestConsumer
from deepergatgnn.service.queue.heartbeats import worker_heartbeats
from deepergatgnn.service.queue.producer import FIELD, STREAMS, RequestProducer
from deepergatgnn.service.queue.redis_client import connect
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.tasks import ended
from deepergatgnn.service.worker.engine import DeviceLostError
from deepergatgnn.service.worker.upkeep import Upkeep
from deepergatgnn.service.worker.worker import Worker
from tests.support.fixtures import some_crystals
from tests.support.processes import MODEL, OLD, small_store

LEASE_S = 0.2


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    store = small_store(tmp_path_factory.mktemp("upkeep") / "store")
    with embedded_broker() as url:
        yield Settings(
            redis_url=SecretStr(url), model_store=store, lease_s=LEASE_S, heartbeat_s=0.05, stuck_s=0.5, device="cpu"
        )


def made(settings: Settings) -> Worker:
    assert settings.redis_url is not None
    return Worker(settings, settings.redis_url.get_secret_value())


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
        worker = made(settings)
        api = RequestProducer(worker.client, "api")
        await worker.queue.create_groups()
        await api.submit([(INTERACTIVE, entry) for entry in entries(4)])
        assert len(await RequestConsumer(worker.client, "dead", LEASE_S).read(INTERACTIVE, 4, 1)) == 4
        worker.computing_since = time.monotonic() - 10
        tasks = Upkeep(worker).start()
        await asyncio.sleep(3 * LEASE_S)
        assert await worker_heartbeats(worker.client).alive() == []
        assert worker.held == {}
        worker.computing_since = time.monotonic() + 60  # it goes on
        async with asyncio.timeout(10):
            while len(worker.held) < 4 or not await worker_heartbeats(worker.client).alive():  # noqa: ASYNC110 - it says so nowhere
                await asyncio.sleep(0.05)
        await ended(tasks)
        assert {delivery.times for delivery in worker.held.values()} == {2}
        await worker.client.aclose()

    asyncio.run(scenario())


def test_what_nobody_waits_for_any_more_is_dropped_before_the_device(settings: Settings) -> None:
    async def scenario() -> None:
        worker = made(settings)
        api = RequestProducer(worker.client, "api")
        await worker.queue.create_groups()
        added = await api.submit([(INTERACTIVE, entry) for entry in entries(4)])
        worker.accept(await worker.queue.read(INTERACTIVE, 10, 1))
        tasks = Upkeep(worker).start()
        batch = list(worker.held.values())
        async with asyncio.timeout(10):
            while len(worker._live(batch)) > 2:
                await api.withdraw(INTERACTIVE, [*added[:2], b"1-1"])  # one that is in nobody's hands
                await asyncio.sleep(0.05)
        assert [delivery.stream_id for delivery in worker._live(batch)] == added[2:]
        await ended(tasks)
        await worker.client.aclose()

    asyncio.run(scenario())


def test_entries_of_both_lanes_with_one_id_are_two(settings: Settings) -> None:
    """A broker gives ids by its clock: entries that come in the same millisecond have the same one in each stream."""

    async def scenario() -> None:
        worker = made(settings)
        await worker.queue.create_groups()
        first, second = entries(2)
        for lane, entry in ((INTERACTIVE, first), (BULK, second)):
            await worker.client.xadd(STREAMS[lane], {FIELD: entry.pack()}, id="1700000000000-0")
            worker.accept(await worker.queue.read(lane, 10, 1))
        assert sorted(delivery.entry.id for delivery in worker.held.values()) == ["0", "1"]
        await worker.client.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("part", ["_read", "_write"])
def test_a_worker_of_which_a_part_fails_ends(settings: Settings, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is gone would leave a worker that beats and computes nothing."""

    async def fail(*_: object) -> None:
        raise KeyError("unforeseen")

    async def scenario() -> None:
        worker = made(settings)
        monkeypatch.setattr(worker, part, fail)
        async with asyncio.timeout(60):
            await worker.run()

    with pytest.raises(KeyError, match="unforeseen"):
        asyncio.run(scenario())


def test_a_worker_whose_idle_device_is_lost_ends(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise DeviceLostError("cuda:0 does not compute any more")

    async def scenario() -> None:
        worker = made(settings)
        monkeypatch.setattr(worker.engine, "canary", lost)
        async with asyncio.timeout(60):
            await worker.run()

    with pytest.raises(DeviceLostError):
        asyncio.run(scenario())
    assert settings.redis_url is not None
    url = settings.redis_url.get_secret_value()

    async def beats() -> int:
        client = connect(url)
        async with contextlib.aclosing(client):
            return len(await worker_heartbeats(client).alive())

    assert asyncio.run(beats()) == 0


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
        worker = made(settings)
        monkeypatch.setattr(worker.engine, "canary", released.wait)
        monkeypatch.setattr("deepergatgnn.service.worker.upkeep.os._exit", leave)
        worker.answered_at = time.monotonic() - 60
        heartbeat, *others = Upkeep(worker).start()
        async with asyncio.timeout(30):
            await asyncio.sleep(10 * settings.heartbeat_s)
            assert await worker_heartbeats(worker.client).alive() == []
            with pytest.raises(LeftError):
                await heartbeat
        released.set()
        await ended(others)
        await worker.client.aclose()

    asyncio.run(scenario())


def test_a_hung_batch_is_noticed_in_time_for_readiness(settings: Settings) -> None:
    """Not ready within ten seconds, with three heartbeats more; a batch that should take longer has its time."""
    worker = made(settings.model_copy(update={"stuck_s": 5.0}))
    upkeep = Upkeep(worker)
    for predicted, patience in ((0.01, 5.05), (0.1, 5.5), (0.35, 6.0), (2.0, 6.0), (10.0, 20.0)):
        worker.predicted_s = predicted
        worker.computing_since = time.monotonic() - patience + 0.5
        assert not upkeep._hangs()
        worker.computing_since = time.monotonic() - patience - 0.1
        assert upkeep._hangs()
