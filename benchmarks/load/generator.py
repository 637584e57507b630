"""Closed and open loops of requests; run by `benchmarks.load.__main__` in a process of its own."""

import asyncio
import math
import random
import resource
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from benchmarks.load.connection import LOST, Connection, Reply, header

CONNECTIONS = 4000  # at once, at most
PATIENCE_S = 40.0  # for answers after the last request; longer than the service's deadline


@dataclass
class Outcome:
    """What one run of load saw.

    Attributes:
        seconds: counted.
        answers: with status 200 that came in them.
        replies: all, those of the warming up too.
        statuses: how many replies of each status; 0 for broken connections.
        refusals_with_retry_after: of the 429.
        latencies_ms: of answers with status 200; from the scheduled time in an open loop.
        samples: (index of the request, body) of the first answers.
        cpu_share: of one core, that the load itself cost.
        late_ms: the 99th percentile of how late requests left, in an open loop.
    """

    seconds: float = 0.0
    answers: int = 0
    replies: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    refusals_with_retry_after: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    samples: list[tuple[int, str]] = field(default_factory=list)
    cpu_share: float = 0.0
    late_ms: float = 0.0


class Generator:
    """Requests to one address.

    Args:
        host: where.
        port: where.
        requests: whole HTTP requests, sent in turn.
        kept: bodies of so many answers, the first ones, to be looked at.
    """

    def __init__(self, host: str, port: int, requests: Sequence[bytes], kept: int) -> None:
        self._kept = kept
        self._host, self._port, self._requests = host, port, requests
        self._outcome = Outcome()
        self._begin = self._end = 0.0
        self._next = 0
        self._asked = 0  # of an open loop, not answered yet
        self._late: list[float] = []
        self._idle: deque[Connection] = deque()
        self._every: list[Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()

    async def closed(self, clients: int, seconds: float, warm_s: float, most: float = math.inf) -> Outcome:
        """So many clients, each with its next request as soon as the last is answered; at most so many requests.

        Few and long requests are counted whole: what was asked before the end, until its answers are there.
        """
        connections = [await self._connect() for _ in range(clients)]
        self._begin = time.perf_counter() + warm_s
        self._end = self._begin + seconds
        gone = asyncio.get_running_loop().create_future()
        left, asked = clients, 0

        def ask(connection: Connection) -> None:
            nonlocal left, asked
            now = time.perf_counter()
            if now >= self._end or asked >= most or not connection.usable:
                left -= 1
                if not left:
                    gone.set_result(None)
                return
            asked += 1
            index = self._take()

            def done(reply: Reply) -> None:
                self._note(index, now, reply)
                ask(connection)

            connection.send(self._requests[index], done)

        used = _cpu()
        for connection in connections:
            ask(connection)
        await gone
        if most < math.inf:
            self._end = time.perf_counter()
        return self._close(connections, (_cpu() - used) / (warm_s + seconds))

    async def open(self, rate: float, seconds: float, warm_s: float, seed: int) -> Outcome:
        """Poisson arrivals, whether or not earlier requests are answered; each latency counts from its schedule."""
        rng = random.Random(seed)  # noqa: S311 - arrivals, no secrets
        due = time.perf_counter() + 0.05
        self._begin = due + warm_s
        self._end = self._begin + seconds
        used = _cpu()
        while due < self._end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            now = time.perf_counter()
            while due <= min(now, self._end):
                self._arrive(due)
                due += rng.expovariate(rate)
        cpu = _cpu() - used
        patience = time.perf_counter() + PATIENCE_S
        while self._asked and time.perf_counter() < patience:  # noqa: ASYNC110 - not while it is measured
            await asyncio.sleep(0.05)
        self._outcome.late_ms = 1e3 * sorted(self._late)[int(0.99 * len(self._late))]
        outcome = self._close(self._every, cpu / (warm_s + seconds))
        outcome.statuses[LOST] += self._asked  # what is still not answered
        return outcome

    def _arrive(self, scheduled: float) -> None:
        """Send the next request on a free connection, or on a new one."""
        self._asked += 1
        while self._idle and not self._idle[-1].usable:
            self._idle.pop()
        if self._idle:
            self._ask(self._idle.pop(), scheduled)
        elif len(self._every) < CONNECTIONS:
            task = asyncio.create_task(self._connect_and_ask(scheduled))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        else:
            self._answered(0, scheduled, Reply(LOST, b"", b""))

    async def _connect_and_ask(self, scheduled: float) -> None:
        try:
            connection = await self._connect()
        except OSError:
            self._answered(0, scheduled, Reply(LOST, b"", b""))
            return
        self._every.append(connection)
        self._ask(connection, scheduled)

    def _ask(self, connection: Connection, scheduled: float) -> None:
        index = self._take()
        self._late.append(time.perf_counter() - scheduled)

        def done(reply: Reply) -> None:
            self._answered(index, scheduled, reply)
            if connection.usable:
                self._idle.append(connection)

        connection.send(self._requests[index], done)

    def _answered(self, index: int, scheduled: float, reply: Reply) -> None:
        self._asked -= 1
        self._note(index, scheduled, reply)

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, self._host, self._port)
        return connection

    def _take(self) -> int:
        index = self._next
        self._next = (index + 1) % len(self._requests)
        return index

    def _note(self, index: int, started: float, reply: Reply) -> None:
        now = time.perf_counter()
        outcome = self._outcome
        outcome.replies += 1
        if reply.status == HTTPStatus.OK and len(outcome.samples) < self._kept:
            outcome.samples.append((index, reply.body.decode()))
        if reply.status == HTTPStatus.OK and self._begin <= now < self._end:
            outcome.answers += 1
        if started < self._begin:
            return
        outcome.statuses[reply.status] += 1
        if reply.status == HTTPStatus.OK:
            outcome.latencies_ms.append(round(1e3 * (now - started), 3))
        elif reply.status == HTTPStatus.TOO_MANY_REQUESTS and header(reply.head, b"retry-after"):
            outcome.refusals_with_retry_after += 1

    def _close(self, connections: Sequence[Connection], cpu_share: float) -> Outcome:
        self._outcome.seconds = self._end - self._begin
        self._outcome.cpu_share = cpu_share
        for connection in connections:
            connection.close()
        return self._outcome


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
