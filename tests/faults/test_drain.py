"""SIGTERM loses nothing: a process goes while others stay, and who balances between them notices nothing."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import running, until
from tests.support.faulty_service import TIMES, WORKERS, Stage
from tests.support.processes import CIF, admitted, is_seen, post, small_store, until_ready

GRACE_S = 4.0
CLIENTS = 6
Process = subprocess.Popen[str]


@dataclass
class Second:
    """An API process and a worker beside those of the stage."""

    api: Process
    address: str
    worker: Process


@pytest.fixture
def second(stage: Stage) -> Iterator[Second]:
    environment = TIMES | {
        "DEEPERGATGNN_REDIS_URL": stage.url,
        "DEEPERGATGNN_MODEL_STORE": str(stage.store),
        "DEEPERGATGNN_DRAIN_GRACE_S": str(GRACE_S),
    }
    with ExitStack() as stack:
        worker, _ = stack.enter_context(running("worker", ready=None, **environment))
        api, line = stack.enter_context(running("serve", "--port", "0", ready="^ready on ", **environment))
        until(lambda: is_seen(worker, stage.broker.url), "the worker's heartbeat", 120)
        address = line.removeprefix("ready on ")
        until_ready(address, WORKERS + 1)
        yield Second(api, address, worker)


@dataclass
class Balancer:
    """Sends requests in turn to every address that says it is ready, as load balancers do.

    Attributes:
        addresses: of API processes.
        replies: by address, with the moment at which each was sent.
        broken: requests that got no answer.
    """

    client: httpx.AsyncClient
    addresses: list[str]
    replies: list[tuple[str, float, httpx.Response]] = field(default_factory=list)
    broken: list[httpx.HTTPError] = field(default_factory=list)
    stopping: bool = False

    def __post_init__(self) -> None:
        self.ready = list(self.addresses)

    async def look(self) -> None:
        """Follow who is ready."""
        while not self.stopping:
            ready = []
            for address in self.addresses:
                try:
                    if (await self.client.get(f"{address}/readyz")).status_code == httpx.codes.OK:
                        ready.append(address)
                except httpx.HTTPError:
                    continue
            self.ready = ready or self.ready
            await asyncio.sleep(0.1)

    async def send(self, turn: int) -> None:
        """What one client does."""
        while not self.stopping:
            turn += 1
            address, sent = self.ready[turn % len(self.ready)], time.monotonic()
            try:
                reply = await post(self.client, address)
            except httpx.HTTPError as error:
                self.broken.append(error)
            else:
                self.replies.append((address, sent, reply))

    async def more(self, count: int) -> None:
        """Wait for so many replies more."""
        wanted = len(self.replies) + count
        async with asyncio.timeout(60):
            while len(self.replies) < wanted:  # noqa: ASYNC110 - clients count
                await asyncio.sleep(0.02)


def test_an_api_process_and_a_worker_end_under_load_and_no_request_fails(stage: Stage, second: Second) -> None:
    async def scenario() -> tuple[Balancer, float]:
        async with httpx.AsyncClient(timeout=60) as client:
            balancer = Balancer(client, [stage.address, second.address])
            tasks = [asyncio.create_task(balancer.send(number)) for number in range(CLIENTS)]
            tasks.append(asyncio.create_task(balancer.look()))
            await balancer.more(40)
            second.worker.send_signal(signal.SIGTERM)
            second.api.send_signal(signal.SIGTERM)
            told = time.monotonic()
            reply = await client.get(f"{second.address}/readyz")
            assert (reply.status_code, reply.json()["code"]) == (503, "draining")
            in_grace = await asyncio.gather(*(post(client, second.address) for _ in range(CLIENTS)))
            assert time.monotonic() - told < GRACE_S
            assert [reply.status_code for reply in in_grace] == [200] * CLIENTS
            assert await asyncio.to_thread(second.api.wait, 60) == 0
            assert await asyncio.to_thread(second.worker.wait, 60) == 0
            await balancer.more(40)
            balancer.stopping = True
            await asyncio.gather(*tasks)
        return balancer, told

    balancer, told = asyncio.run(scenario())
    assert balancer.broken == []
    assert {reply.status_code for _, _, reply in balancer.replies} == {200}
    used = {address for address, sent, _ in balancer.replies if sent < told}
    assert used == {stage.address, second.address}
    assert {address for address, _, _ in balancer.replies[-20:]} == {stage.address}
    until(lambda: not stage.waiting() and not stage.pending(), "nothing is left")


def test_a_bulk_request_that_cannot_be_finished_is_told_so_item_by_item(tmp_path: Path) -> None:
    """Its worker stands still when the process is told to go: no cut answer, no bare 500."""
    settings = {"DEEPERGATGNN_MODEL_STORE": str(small_store(tmp_path / "store")), "DEEPERGATGNN_DRAIN_S": "3"}
    body = {"structures": [{"id": str(number), "structure": CIF.decode()} for number in range(64)]}

    async def scenario(process: Process, address: str) -> httpx.Response:
        [worker] = [
            each for each in psutil.Process(process.pid).children() if "deepergatgnn.service.worker" in each.cmdline()
        ]
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            assert (await post(client)).status_code == httpx.codes.OK
            worker.suspend()
            asked = asyncio.create_task(client.post("/predict/batch", json=body))
            await asyncio.to_thread(until, lambda: admitted(address, "bulk") > 0, "it is admitted")
            await asyncio.sleep(1)
            process.send_signal(signal.SIGTERM)
            return await asked

    with running("serve", "--port", "0", ready="^ready on ", **settings) as (process, line):
        reply = asyncio.run(scenario(process, line.removeprefix("ready on ")))
        assert process.wait(60) == 0
    assert reply.status_code == httpx.codes.OK
    results = reply.json()["results"]
    assert [result["id"] for result in results] == [item["id"] for item in body["structures"]]
    assert {result["error"]["code"] for result in results} == {"draining"}
