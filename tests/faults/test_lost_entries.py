"""Requests that a broker lost with its data are added again and answered once, on real servers."""

import asyncio
import time

import pytest
import redis.asyncio

from deepergatgnn.service.lanes import INTERACTIVE
from deepergatgnn.service.queue import cluster
from deepergatgnn.service.queue.clock import BrokerClock
from deepergatgnn.service.queue.redis_client import connect
from tests.support.brokers import BROKERS, broker
from tests.support.hand_worker import HandWorker, answer_for, api_process, asked_until, packed


@pytest.mark.parametrize("kind", BROKERS)
def test_what_a_flushed_broker_lost_is_answered_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "OVERDUE_S", 0.1)
    graphs = packed(9)

    async def scenario(server: str) -> None:
        client = connect(server)
        await client.flushall()
        async with api_process(server) as api:
            worker, other = HandWorker(client, "one"), HandWorker(client, "two")
            await worker.queue.create_groups()
            deadline = time.time() + 30
            asked = [asyncio.create_task(asked_until(api, g, "r", INTERACTIVE, deadline)) for g in graphs]
            while len(worker.held) < 3:
                worker.accept(await worker.queue.read(INTERACTIVE, 3 - len(worker.held), 0.1))
            await client.flushall()
            computed = [(delivery, answer_for(delivery.entry)) for delivery in worker.held.values()]
            answers: list[str] = []
            while not all(task.done() for task in asked):
                deliveries = await other.queue.read(INTERACTIVE, 100, 0.01)
                answers += [delivery.entry.id for delivery in deliveries]
                await other.queue.answer([(delivery, answer_for(delivery.entry)) for delivery in deliveries])
                if computed and time.time() > deadline - 28:  # long after others have answered
                    await worker.queue.answer(computed)
                    computed = []
                await asyncio.sleep(0.01)
            values = [found[0].predictions[0].value for found in await asyncio.gather(*asked)]
            assert values == [len(graph.content) for graph in graphs]
            assert len(answers) == len(set(answers)) >= 6
            assert not api.pending
        await client.aclose()

    with broker(kind) as server:
        asyncio.run(asyncio.wait_for(scenario(server), 60))


def test_an_entry_that_expired_by_a_jump_of_the_brokers_clock_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is added again with its remaining time on the new clock."""
    monkeypatch.setattr(cluster, "OVERDUE_S", 0.1)
    measure, jump = BrokerClock.measure, 0.0

    async def jumping(self: BrokerClock, client: "redis.asyncio.Redis") -> None:
        await measure(self, client)
        self._ahead += jump

    monkeypatch.setattr(BrokerClock, "measure", jumping)

    async def scenario(server: str) -> None:
        nonlocal jump
        client = connect(server)
        async with api_process(server) as api:
            worker = HandWorker(client, "one")
            await worker.queue.create_groups()
            [graph] = packed(1)
            asked = asyncio.create_task(asked_until(api, graph, "r", INTERACTIVE, time.time() + 30))
            clock, times = BrokerClock(), []
            while not asked.done():
                await clock.measure(client)
                for delivery in await worker.queue.read(INTERACTIVE, 1, 0.1):
                    left = delivery.entry.deadline - clock.now()
                    times.append(left)
                    jump = 3600.0
                    await worker.queue.answer([(delivery, answer_for(delivery.entry) if len(times) > 1 else None)])
            assert asked.result()[0].error is None
            assert len(times) == 2
            assert all(20 < left <= 30.1 for left in times), times
        await client.aclose()

    with broker("valkey") as server:
        asyncio.run(asyncio.wait_for(scenario(server), 60))
