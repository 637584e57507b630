"""Identical crystals under way share one computation: API, broker and worker as they are."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import redis

from deepergatgnn.service.lanes import LANES
from deepergatgnn.service.queue.producer import STREAMS
from deepergatgnn.structures import crystal_to_pymatgen
from tests.conftest import until
from tests.support.brokers import embedded_broker
from tests.support.fixtures import some_crystals
from tests.support.in_flight import (
    RESULTS,
    weights,
)
from tests.support.processes import api, small_store, until_ready, worker


@dataclass
class Service:
    """An API with a cache and one worker that may be stopped.

    Attributes:
        address: of the API.
        broker: its URL.
        worker: process id.
    """

    address: str
    broker: str
    worker: int

    def waiting(self) -> list[int]:
        """Entries of each lane that are not answered."""
        with redis.Redis.from_url(self.broker) as client:
            return [int(client.xlen(STREAMS[lane])) for lane in LANES]

    def metric(self, name: str) -> float:
        """Of the API, or of the worker by way of it."""
        lines = httpx.get(f"{self.address}/metrics", timeout=10).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def parsed(self) -> float:
        """Files that a parse process has begun with."""
        return self.metric('deepergatgnn_phase_seconds_count{phase="parse_wait"}')

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The worker stands still."""
        os.kill(self.worker, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.worker, signal.SIGCONT)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for this module."""
    store = small_store(tmp_path_factory.mktemp("store") / "models")
    with (
        embedded_broker() as url,
        api(url, store, DEEPERGATGNN_CACHE_ENTRIES="100") as (_, address),
        worker(url, store) as process,
    ):
        until_ready(address)
        yield Service(address, url, process.pid)


def body(number: int, *cell: int) -> dict[str, Any]:
    """A crystal that no other test posts."""
    structure = crystal_to_pymatgen(some_crystals(24)[number])
    return {"structure": (structure * (cell or (1, 1, 1))).to(fmt="poscar")}


def test_a_bulk_request_of_one_crystal_in_several_cells_is_computed_once(cached: Service) -> None:
    names = ["deepergatgnn_batch_structures_sum", *(f'deepergatgnn_cache_total{{result="{each}"}}' for each in RESULTS)]
    before = [cached.metric(name) for name in names]
    structures = [body(5), body(5, 2, 1, 1)] * 10
    reply = httpx.post(f"{cached.address}/predict/batch", json={"structures": structures}, timeout=60)
    results = reply.json()["results"]
    assert len({result["predictions"][0]["value"] for result in results}) == 1
    for result in results:
        assert sum(weights(result)) == pytest.approx(1)
        assert len(weights(result)) == result["n_atoms"]
    assert {result["n_atoms"] for result in results} == {n := results[0]["n_atoms"], 2 * n}
    assert sorted(weights(results[1])) == pytest.approx(sorted(weight / 2 for weight in weights(results[0]) * 2))
    until(lambda: cached.metric(names[0]) > before[0], "the worker's heartbeat tells what it computed")
    time.sleep(1.5)  # and would tell of more
    computed, hits, misses, shared = (cached.metric(name) - old for name, old in zip(names, before, strict=True))
    assert (computed, misses, hits + shared) == (1, 1, 19)


def test_a_client_that_leaves_does_not_take_along_who_waits_for_the_same(cached: Service) -> None:
    async def act() -> httpx.Response:
        seen = cached.parsed()
        async with httpx.AsyncClient(base_url=cached.address, timeout=60) as client:
            with cached.stopped():
                leader = asyncio.create_task(client.post("/predict", json=body(7)))
                await asyncio.to_thread(until, lambda: cached.waiting() == [1, 0], "it is asked for")
                others = [asyncio.create_task(client.post("/predict", json=body(7))) for _ in range(3)]
                await asyncio.to_thread(until, lambda: cached.parsed() == seen + 4, "all are parsed")
                await asyncio.sleep(0.3)
                assert cached.waiting() == [1, 0]
                abandoned = cached.metric("deepergatgnn_abandoned_total")
                leader.cancel()
                left = lambda: cached.metric("deepergatgnn_abandoned_total") == abandoned + 1  # noqa: E731
                await asyncio.to_thread(until, left, "it is noticed")
                await asyncio.to_thread(until, lambda: cached.waiting() == [1, 0], "another one asks")
            replies = await asyncio.gather(*others)
        assert {reply.status_code for reply in replies} == {200}
        return replies[0]

    assert asyncio.run(act()).json()["predictions"][0]["value"] > 0
    until(lambda: cached.waiting() == [0, 0], "nothing is left")


def test_an_interactive_crystal_does_not_wait_behind_the_same_in_bulk(cached: Service) -> None:
    async def act() -> None:
        async with httpx.AsyncClient(base_url=cached.address, timeout=60) as client:
            with cached.stopped():
                bulk = asyncio.create_task(client.post("/predict/batch", json={"structures": [body(9)] * 5}))
                await asyncio.to_thread(until, lambda: cached.waiting() == [0, 1], "bulk work waits")
                single = [asyncio.create_task(client.post("/predict", json=body(9))) for _ in range(3)]
                await asyncio.to_thread(until, lambda: cached.waiting() == [1, 1], "one interactive crystal asks")
                await asyncio.sleep(0.3)
                assert cached.waiting() == [1, 1]
            replies = await asyncio.gather(*single)
            results = (await bulk).json()["results"]
        values = [answer["predictions"][0]["value"] for answer in [*(reply.json() for reply in replies), *results]]
        assert values == pytest.approx([values[0]] * 8, abs=1e-5)

    asyncio.run(act())
    until(lambda: cached.waiting() == [0, 0], "nothing is left")
