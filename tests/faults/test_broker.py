"""A broker that is slow, gone, flushed, read-only or behind a bad network: answer or documented error, and recovery."""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence

import httpx
import pytest
import redis

from deepergatgnn.service.queue.producer import STREAMS
from tests.conftest import until
from tests.support.brokers import broker_server
from tests.support.faulty_service import PASSWORD, WORKERS, Stage
from tests.support.processes import CIF, HEADERS, PREDICT, documented, post, ready
from tests.support.proxy import Fault

WAITING = 8
DEADLINE_S = 4.0
SOON = {"X-Request-Deadline-Ms": str(int(DEADLINE_S * 1000))}


async def posted(stage: Stage, count: int, **headers: str) -> list[tuple[httpx.Response, float]]:
    """Replies to requests that come at once, and the seconds that each took."""
    async with httpx.AsyncClient(base_url=stage.address, timeout=60) as client:

        async def one() -> tuple[httpx.Response, float]:
            started = time.monotonic()
            return await post(client, **headers), time.monotonic() - started

        return await asyncio.gather(*(one() for _ in range(count)))


def answers_again(stage: Stage) -> None:
    """Nobody helps: the service recovers by itself."""
    stage.heal()
    reply = httpx.post(f"{stage.address}{PREDICT}", content=CIF, headers=HEADERS, timeout=60)
    assert reply.status_code == httpx.codes.OK, reply.text


def refuses(stage: Stage) -> None:
    """With a code, a Retry-After, and readiness that says the same."""
    until(lambda: not ready(stage.address), "it is not ready", 10)
    reply = httpx.post(f"{stage.address}{PREDICT}", content=CIF, headers=HEADERS, timeout=60)
    assert (reply.status_code, reply.json()["code"]) == (503, "broker_unavailable")
    assert int(reply.headers["retry-after"]) >= 1
    assert httpx.get(f"{stage.address}/readyz").json()["code"] == "broker_unavailable"


def restarted(stage: Stage) -> None:
    stage.broker.stop()
    stage.broker.start()


def flushed(stage: Stage) -> None:
    stage.broker.command("FLUSHALL")


@pytest.mark.parametrize("lose", [restarted, flushed])
def test_requests_that_wait_are_answered_though_the_broker_lost_them(
    stage: Stage, lose: Callable[[Stage], None]
) -> None:
    before = stage.metric("deepergatgnn_resubmitted_total")

    async def scenario() -> list[tuple[httpx.Response, float]]:
        with stage.stopped(*stage.workers()):
            asked = asyncio.create_task(posted(stage, WAITING))
            await asyncio.to_thread(until, lambda: stage.waiting() == WAITING, "all wait", 20)
            await asyncio.to_thread(lose, stage)
            assert stage.waiting() < WAITING
        return await asked

    assert [reply.status_code for reply, _ in asyncio.run(scenario())] == [200] * WAITING
    assert stage.metric("deepergatgnn_resubmitted_total") - before >= WAITING - WORKERS
    answers_again(stage)


def test_a_broker_that_stands_still_is_refused_for_and_recovered_from(stage: Stage) -> None:
    stage.broker.signal(signal.SIGSTOP)
    try:
        replies = asyncio.run(posted(stage, WAITING, **SOON))
        refuses(stage)
    finally:
        stage.broker.signal(signal.SIGCONT)
    assert all(documented(reply) for reply, _ in replies), [reply.text for reply, _ in replies]
    answers_again(stage)


def test_a_broker_that_is_down_is_refused_for_and_recovered_from(stage: Stage) -> None:
    stage.broker.stop()
    try:
        refuses(stage)
    finally:
        stage.broker.start()
    answers_again(stage)


@pytest.mark.parametrize(
    ("hurt", "cure"),
    [
        (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
        (["CONFIG", "SET", "min-replicas-to-write", "1"], ["CONFIG", "SET", "min-replicas-to-write", "0"]),
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
    ],
    ids=["read-only", "without replicas", "full"],
)
def test_a_broker_that_takes_nothing_is_refused_for_and_recovered_from(
    stage: Stage, hurt: Sequence[str], cure: Sequence[str]
) -> None:
    stage.broker.command(*hurt)
    try:
        refuses(stage)
    finally:
        stage.broker.command(*cure)
    answers_again(stage)


def test_a_failover_is_followed_though_the_old_server_lives_on(stage: Stage) -> None:
    """As a replica it keeps every connection open and answers whoever only reads."""
    old = stage.proxy.target
    with broker_server(password=PASSWORD) as other:
        stage.broker.command("CONFIG", "SET", "masterauth", PASSWORD)
        stage.broker.command("REPLICAOF", "127.0.0.1", str(other.port))
        stage.proxy.target = other.port
        try:
            answers_again(stage)
            assert other.command("EXISTS", *STREAMS.values()) == len(STREAMS)
        finally:
            stage.broker.command("REPLICAOF", "NO", "ONE")
            stage.proxy.target = old
    answers_again(stage)


@pytest.mark.parametrize(
    "fault",
    [Fault(delay_s=0.1), Fault(delay_s=3), Fault(cut_after=0), Fault(cut_after=700), Fault(swallows=True)],
    ids=["slow", "very slow", "cut at once", "cut in an answer", "black hole"],
)
def test_in_a_bad_network_every_request_ends_before_its_deadline(stage: Stage, fault: Fault) -> None:
    async def scenario() -> list[tuple[httpx.Response, float]]:
        first = asyncio.create_task(posted(stage, WAITING, **SOON))
        await asyncio.sleep(0.02)  # some are under way
        stage.proxy.fault = fault
        return [*await first, *await posted(stage, WAITING, **SOON)]

    replies = asyncio.run(scenario())
    assert all(documented(reply) for reply, _ in replies), [reply.text for reply, _ in replies]
    assert max(seconds for _, seconds in replies) < DEADLINE_S + 2
    stage.proxy.fault = Fault()
    answers_again(stage)


def test_only_the_right_password_and_a_known_certificate_are_let_in(stage: Stage) -> None:
    """The service is on the broker by both; the same without them is refused."""

    def pinged(url: str) -> bool:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())

    assert pinged(stage.url)
    with pytest.raises(redis.AuthenticationError):
        pinged(stage.url.replace(PASSWORD, "wrong"))
    if stage.url.startswith("rediss:"):
        with pytest.raises(redis.ConnectionError, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
            pinged(stage.url.partition("?")[0])
