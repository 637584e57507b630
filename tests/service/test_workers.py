"""Workers come and go; nobody's request is lost."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.broker import embedded_broker
from tests.conftest import running, until

CIF = Path("examples/ZrO2.cif").read_bytes()
HEADERS = {"Content-Type": "chemical/x-cif"}


@pytest.fixture
def broker() -> Iterator[str]:
    with embedded_broker() as url:
        yield url


def ready(address: str) -> bool:
    return httpx.get(f"{address}/readyz", timeout=10).status_code == 200


def test_killed_worker_loses_nothing(broker: str) -> None:
    """Requests wait in a worker's hands and in the queue; it is killed; a new one answers them all."""
    with running("serve", "--port", "0", ready="^ready on ", DEEPERGATGNN_REDIS_URL=broker) as (_, line):
        address = line.removeprefix("ready on ")

        async def scenario(client: httpx.AsyncClient) -> list[httpx.Response]:
            def post() -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(client.post("/predict", content=CIF, headers=HEADERS))

            with running("worker", ready="ready", DEEPERGATGNN_REDIS_URL=broker) as (worker, _):
                await asyncio.to_thread(until, lambda: ready(address), "the first worker is seen")
                assert (await post()).status_code == 200
                os.kill(worker.pid, signal.SIGSTOP)  # it may have read entries, it answers none
                waiting = [post() for _ in range(24)]
                await asyncio.sleep(2)
                assert not any(task.done() for task in waiting)
                os.kill(worker.pid, signal.SIGKILL)
                worker.wait()
            with running("worker", ready="ready", DEEPERGATGNN_REDIS_URL=broker):
                return await asyncio.gather(*waiting)

        async def run() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=address, timeout=60) as client:
                return await scenario(client)

        replies = asyncio.run(run())
    assert [reply.status_code for reply in replies] == [200] * 24
    values = [reply.json()["predictions"][0]["value"] for reply in replies]
    assert values == pytest.approx([values[0]] * 24, abs=1e-5)


def test_supervisor_replaces_a_killed_worker() -> None:
    with running("serve", "--port", "0", ready="^ready on ") as (process, line):
        address = line.removeprefix("ready on ")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("utf-8").split()
        (worker,) = [pid for pid in children if "service.worker" in Path(f"/proc/{pid}/cmdline").read_text("utf-8")]
        os.kill(int(worker), signal.SIGKILL)
        reply = httpx.post(f"{address}/predict", content=CIF, headers=HEADERS, timeout=60)
        assert reply.status_code == 200


def test_without_a_worker_the_service_says_so(broker: str) -> None:
    with running("serve", "--port", "0", ready="^ready on ", DEEPERGATGNN_REDIS_URL=broker) as (_, line):
        address = line.removeprefix("ready on ")
        until(lambda: httpx.get(f"{address}/readyz").json()["code"] == "no_worker", "the broker is seen")
        reply = httpx.post(f"{address}/predict", content=CIF, headers=HEADERS)
        assert (reply.status_code, reply.json()["code"]) == (503, "no_worker")
        assert int(reply.headers["retry-after"]) >= 1
        assert httpx.get(f"{address}/healthz").status_code == 200


def test_without_a_broker_the_service_says_so_and_recovers(tmp_path: Path) -> None:
    """The API outlives its broker."""
    socket = tmp_path / "broker.sock"
    with running("serve", "--port", "0", ready="^ready on ", DEEPERGATGNN_REDIS_URL=f"unix://{socket}") as (_, line):
        address = line.removeprefix("ready on ")
        reply = httpx.post(f"{address}/predict", content=CIF, headers=HEADERS)
        assert (reply.status_code, reply.json()["code"]) == (503, "broker_unavailable")
        with embedded_broker() as url:
            socket.symlink_to(url.removeprefix("unix://"))
            with running("worker", ready="ready", DEEPERGATGNN_REDIS_URL=f"unix://{socket}"):
                until(lambda: ready(address), "broker and worker are seen")
                reply = httpx.post(f"{address}/predict", content=CIF, headers=HEADERS, timeout=60)
                assert reply.status_code == 200


def processes_of(session: int) -> list[str]:
    """Command lines of the processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("utf-8").rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_text("utf-8").replace("\0", " ")
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(command)
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(number: signal.Signals) -> None:
    """Stopped, interrupted or killed: broker, worker and parse processes end too."""
    with running("serve", "--port", "0", ready="^ready on ") as (process, _):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("utf-8").split()
        assert len(children) >= 3  # broker, worker, parse pool
        sessions = {process.pid, *map(int, children)}
        process.send_signal(number)
        status = process.wait(30)
        assert status == (0 if number != signal.SIGKILL else -signal.SIGKILL)
        grace = 0.5 if number != signal.SIGKILL else 15
        end = time.monotonic() + grace
        while (left := [c for session in sessions for c in processes_of(session)]) and time.monotonic() < end:
            time.sleep(0.1)
        assert left == []
