"""Every admitted crystal gets one answer or one documented error, on real servers.

Clients and workers take any steps, and the server is killed and restarted with all of its data, without it, or with an
older snapshot.
"""

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from deepergatgnn.service.lanes import INTERACTIVE, LANES
from deepergatgnn.service.queue import cluster
from deepergatgnn.service.queue.producer import STREAMS
from tests.support.brokers import BROKERS, BrokerServer, broker_server
from tests.support.hand_worker import packed
from tests.support.queue_model import Machine

RESTARTS = 3  # in one run, at most


class Restarting(Machine):
    """Save, and restart the broker.

    Attributes:
        server: the broker.
        dump: file to which it saves its data, and from which it loads them.
        saved: entries of the dead-letter stream in there.
        restarts: so far.
        whole: whether the broker is known to have all requests.
    """

    server: BrokerServer
    dump: Path

    def __init__(self) -> None:
        super().__init__()
        self.saved = self.restarts = 0
        self.whole = True
        self.dump.unlink(missing_ok=True)  # of the run before

    @rule()
    def save(self) -> None:
        self.run(self.saved_now())

    async def saved_now(self) -> None:
        await self.client.save()
        self.saved = self.dead

    @precondition(lambda self: self.restarts < RESTARTS)
    @rule(asked=st.integers(0, 2))
    def restart_with_its_data(self, asked: int) -> None:
        async def restarted() -> None:
            streams = await self.client.exists(*STREAMS.values())
            await self.saved_now()
            await self.restarted(asked)
            assert await self.client.exists(*STREAMS.values()) == streams

        self.run(restarted())

    @precondition(lambda self: self.restarts < RESTARTS)
    @rule(asked=st.integers(0, 2))
    def restart_empty(self, asked: int) -> None:
        self.dump.unlink(missing_ok=True)
        self.saved = 0
        self.run(self.restarted(asked))

    @precondition(lambda self: self.restarts < RESTARTS and self.dump.exists())
    @rule(asked=st.integers(0, 2))
    def restart_with_what_it_had_saved(self, asked: int) -> None:
        """Requests added since are lost, requests answered since are back."""
        self.run(self.restarted(asked))

    async def restarted(self, asked: int) -> None:
        """Kill and start the server; requests in between fail."""
        self.restarts += 1
        await asyncio.to_thread(self.server.stop)
        await self.submitted(asked % 2, asked, INTERACTIVE, down=True)
        await asyncio.to_thread(self.server.start)
        self.dead, self.whole = self.saved, False

    @precondition(lambda self: not self.whole)
    @rule()
    def have_it_added_again(self) -> None:
        self.run(self.added_again())

    async def added_again(self) -> None:
        """Wait until the API has added the lost requests again."""
        async with asyncio.timeout(20):
            while await self.lost():  # noqa: ASYNC110 - the API has no event for it
                await asyncio.sleep(0.02)
        self.whole = True

    async def lost(self) -> list[bytes]:
        """Return the stream ids of pending requests that the broker does not have."""
        lost: list[bytes] = []
        for replica in self.replicas:
            for lane in LANES:
                pending = [each for each in replica.pending.values() if each.lane is lane and each.stream_id]
                if pending:
                    lost += await replica.producer.missing(lane, [each.stream_id for each in pending])
        return lost


@pytest.mark.parametrize("kind", BROKERS)
def test_every_request_ends_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "OVERDUE_S", 0.1)
    with broker_server("--dir", str(tmp_path), kind=kind) as made:

        class OnServer(Restarting):
            server, url = made, made.url
            dump = tmp_path / "dump.rdb"
            graphs = packed(12)

        run_state_machine_as_test(
            OnServer,
            settings=settings(
                max_examples=11,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
                phases=(Phase.generate,),  # shrinking would take too long
            ),
        )
