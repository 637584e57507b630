"""Workers come and go; nobody's request is lost."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import running, until
from tests.support.brokers import embedded_broker
from tests.support.faulty_service import Stage
from tests.support.processes import (
    CIF,
    HEADERS,
    PREDICT,
    api,
    documented,
    load,
    post,
    ready,
    small_store,
    until_ready,
    worker,
)


def test_a_worker_killed_in_mid_batch_loses_nothing(stage: Stage) -> None:
    """It dies with entries in hand; the other one takes them over; the supervisor replaces it."""

    async def scenario() -> None:
        victim = stage.workers()[0]
        async with load(stage.address) as made:
            await made.more(20)
            os.kill(victim, signal.SIGSTOP)  # so that it surely holds some
            await asyncio.to_thread(until, lambda: stage.pending()[victim] > 0, "it holds entries")
            os.kill(victim, signal.SIGKILL)
            await made.more(60)
        assert made.broken == []
        assert set(made.statuses) == {200}
        values = [reply.json()["predictions"][0]["value"] for reply in made.replies]
        assert values == pytest.approx([values[0]] * len(values), abs=1e-5)
        await asyncio.to_thread(stage.heal)
        assert victim not in stage.workers()

    asyncio.run(scenario())


def test_a_worker_that_stands_still_is_stood_in_for_and_answers_nothing_twice(stage: Stage) -> None:
    async def scenario() -> None:
        answered = stage.metric("deepergatgnn_structures_total")
        slow = stage.workers()[0]
        async with load(stage.address) as made:
            await made.more(20)
            with stage.stopped(slow):
                await asyncio.to_thread(until, lambda: stage.pending()[slow] > 0, "it holds entries")
                held = stage.pending()[slow]
                await asyncio.to_thread(until, lambda: not stage.pending()[slow], "the other one takes them over")
                await made.more(held + 20)
            await made.more(40)
        assert made.broken == []
        assert set(made.statuses) == {200}
        assert stage.metric("deepergatgnn_structures_total") - answered == len(made.replies)
        await asyncio.to_thread(until, lambda: not stage.waiting() and not stage.pending(), "nothing is left")

    asyncio.run(scenario())


def test_workers_share_the_session_of_their_api_and_not_its_process_group(stage: Stage) -> None:
    """Linux weighs sessions before niceness: in one of their own they would wait for bulk parsers of low priority."""
    supervisor = stage.process.pid
    for pid in stage.workers():
        assert os.getsid(pid) == os.getsid(supervisor)
        assert os.getpgid(pid) != os.getpgid(supervisor)  # a Ctrl-C in the terminal reaches the supervisor alone


def test_without_a_beating_worker_the_service_is_not_ready_within_ten_seconds(stage: Stage) -> None:
    async def scenario() -> httpx.Response:
        async with httpx.AsyncClient(base_url=stage.address, timeout=60) as client:
            with stage.stopped(*stage.workers()):
                await asyncio.to_thread(until, lambda: not ready(stage.address), "it is not ready", 10)
                reply = await client.get("/readyz")
                assert (reply.status_code, reply.json()["code"]) == (503, "no_worker")
                assert (await client.get("/healthz")).status_code == httpx.codes.OK
                waiting = asyncio.create_task(post(client))
                await asyncio.sleep(0.5)
                assert not waiting.done()
            return await waiting

    assert asyncio.run(scenario()).status_code == httpx.codes.OK


def test_nothing_is_ready_before_broker_and_worker_are_there(tmp_path: Path) -> None:
    """The API comes first, then its broker, then a worker; it says each time what it waits for, and goes by itself."""
    socket, store = tmp_path / "broker.sock", small_store(tmp_path / "store")
    url = f"unix://{socket}"
    with api(url, store) as (_, address):
        reply = httpx.post(f"{address}{PREDICT}", content=CIF, headers=HEADERS)
        assert (reply.status_code, reply.json()["code"]) == (503, "broker_unavailable")
        with embedded_broker() as there:
            socket.symlink_to(there.removeprefix("unix://"))
            until(lambda: httpx.get(f"{address}/readyz").json()["code"] == "no_worker", "the broker is seen")
            reply = httpx.post(f"{address}{PREDICT}", content=CIF, headers=HEADERS)
            assert (reply.status_code, reply.json()["code"], documented(reply)) == (503, "no_worker", True)
            with worker(url, store):
                until_ready(address)
                reply = httpx.post(f"{address}{PREDICT}", content=CIF, headers=HEADERS, timeout=60)
                assert reply.status_code == httpx.codes.OK


def processes() -> Iterator[tuple[int, int, int, str]]:
    """Id, parent, session and command line of every process that is not dead."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, session, *_ = stat.read_text("utf-8").rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_text("utf-8").replace("\0", " ")
        except OSError:
            continue
        if state != "Z":
            yield int(stat.parent.name), int(parent), int(session), command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(number: signal.Signals, tmp_path: Path) -> None:
    """Stopped, interrupted or killed: broker, worker and parse processes end too."""
    store = str(small_store(tmp_path / "store"))
    with running("serve", "--port", "0", ready="^ready on ", DEEPERGATGNN_MODEL_STORE=store) as (process, _):
        children = {pid for pid, parent, _, _ in processes() if parent == process.pid}
        assert len(children) >= 3  # broker, worker, parse pool
        sessions = {process.pid, *children}
        process.send_signal(number)
        status = process.wait(60)
        assert status == (0 if number != signal.SIGKILL else -signal.SIGKILL)
        until(lambda: not any(session in sessions for _, _, session, _ in processes()), "no process is left")
