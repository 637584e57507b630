"""Closed and open loops of requests; run by `benchmarks.serving.load_process` in a process of its own."""

import asyncio
import math
import random
import resource
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from benchmarks.serving.http_client import LOST, Connection, Reply, header

CONNECTIONS = 4000  # at once, at most
DRAIN_S = 40.0  # wait for answers after the last request; longer than the service's deadline


@dataclass
class Outcome:
    """Outcome of one load run.

    Attributes:
        seconds: length of the measured interval.
        answers: number of replies with status 200 in it.
        replies: number of all replies, including the warm-up.
        statuses: number of replies of each status; 0 for broken connections.
        refusals_with_retry_after: number of replies 429 that have the header Retry-After.
        latencies_ms: of replies with status 200; from the scheduled time in an open loop.
        samples: (index of the request, body) of the first answers.
        cpu_share: processor time of the load itself, as a share of one core.
        late_ms: 99th percentile of the delay between schedule and sending, in an open loop.
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
    """Load generator for one address.

    Args:
        host: host name of the server.
        port: port of the server.
        requests: complete HTTP requests, sent in turn.
        kept: number of answers, from the first, whose bodies are stored.
    """

    def __init__(self, host: str, port: int, requests: Sequence[bytes], kept: int) -> None:
        self._kept = kept
        self._host, self._port, self._requests = host, port, requests
        self._outcome = Outcome()
        self._begin = self._end = 0.0
        self._next = 0
        self._pending = 0  # unanswered requests of an open loop
        self._late: list[float] = []
        self._idle: deque[Connection] = deque()
        self._every: list[Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()

    async def closed(self, clients: int, seconds: float, warm_s: float, most: float = math.inf) -> Outcome:
        """Run a closed loop: each client sends its next request as soon as the last one is answered.

        With a limit `most` of requests the interval ends with the last answer, so that long requests count in full.
        """
        connections = [await self._connect() for _ in range(clients)]
        self._begin = time.perf_counter() + warm_s
        self._end = self._begin + seconds
        finished = asyncio.get_running_loop().create_future()
        active, sent = clients, 0

        def send_next(connection: Connection) -> None:
            nonlocal active, sent
            now = time.perf_counter()
            if now >= self._end or sent >= most or not connection.usable:
                active -= 1
                if not active:
                    finished.set_result(None)
                return
            sent += 1
            index = self._take()

            def done(reply: Reply) -> None:
                self._note(index, now, reply)
                send_next(connection)

            connection.send(self._requests[index], done)

        used = _cpu()
        for connection in connections:
            send_next(connection)
        await finished
        if most < math.inf:
            self._end = time.perf_counter()
        return self._close(connections, (_cpu() - used) / (warm_s + seconds))

    async def open(self, rate: float, seconds: float, warm_s: float, seed: int) -> Outcome:
        """Run an open loop: Poisson arrivals, independent of the answers; latencies count from the scheduled times."""
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
        drained_by = time.perf_counter() + DRAIN_S
        while self._pending and time.perf_counter() < drained_by:  # noqa: ASYNC110 - not while it is measured
            await asyncio.sleep(0.05)
        self._outcome.late_ms = 1e3 * sorted(self._late)[int(0.99 * len(self._late))]
        outcome = self._close(self._every, cpu / (warm_s + seconds))
        outcome.statuses[LOST] += self._pending  # requests without an answer
        return outcome

    def _arrive(self, scheduled: float) -> None:
        """Send the next request on an idle connection, or on a new one."""
        self._pending += 1
        while self._idle and not self._idle[-1].usable:
            self._idle.pop()
        if self._idle:
            self._send(self._idle.pop(), scheduled)
        elif len(self._every) < CONNECTIONS:
            task = asyncio.create_task(self._connect_and_send(scheduled))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        else:
            self._answered(0, scheduled, Reply(LOST, b"", b""))

    async def _connect_and_send(self, scheduled: float) -> None:
        try:
            connection = await self._connect()
        except OSError:
            self._answered(0, scheduled, Reply(LOST, b"", b""))
            return
        self._every.append(connection)
        self._send(connection, scheduled)

    def _send(self, connection: Connection, scheduled: float) -> None:
        index = self._take()
        self._late.append(time.perf_counter() - scheduled)

        def done(reply: Reply) -> None:
            self._answered(index, scheduled, reply)
            if connection.usable:
                self._idle.append(connection)

        connection.send(self._requests[index], done)

    def _answered(self, index: int, scheduled: float, reply: Reply) -> None:
        self._pending -= 1
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
