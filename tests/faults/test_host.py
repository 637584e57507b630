"""A host that fails: no room on the disk or in the broker's memory, clocks that disagree, no network but loopback."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import COMMAND, ROOT, SMALL, until
from tests.support.brokers import BrokerServer, broker_server
from tests.support.processes import (
    CIF,
    HEADERS,
    PREDICT,
    Load,
    api,
    documented,
    load,
    small_store,
    until_ready,
    worker,
)

JUMPING = """
import signal, time
now, ahead = time.time, [0]
time.time = lambda: now() + sum(ahead)
signal.signal(signal.SIGUSR1, lambda *_: ahead.append(3600))
signal.signal(signal.SIGUSR2, lambda *_: ahead.append(-3600))
from deepergatgnn.commands.main import main
main()
"""
QUICK = {"DEEPERGATGNN_HEARTBEAT_S": "0.5", "DEEPERGATGNN_LEASE_S": "2"}
# Of a namespace that has loopback only, and that down.
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))
os.execv(sys.executable, [sys.executable, "-m", "deepergatgnn.service.operations.demo"])
"""


@dataclass(frozen=True)
class Place:
    """A service on a broker of its own."""

    address: str
    broker: BrokerServer
    process: psutil.Process

    def post(self, **headers: str) -> httpx.Response:
        """Post the example crystal."""
        return httpx.post(f"{self.address}{PREDICT}", content=CIF, headers=HEADERS | headers, timeout=60)

    def recovers(self) -> None:
        """All is well, without help."""
        until_ready(self.address)
        assert self.post().status_code == httpx.codes.OK


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("host") / "store")


@pytest.fixture(scope="module")
def place(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One worker, whose clock is right."""
    disk = tmp_path_factory.mktemp("disk")
    with broker_server("--dir", str(disk)) as server, api(server.url, store, "1", **QUICK) as (process, address):
        made = Place(address, server, psutil.Process(process.pid))
        made.recovers()
        yield made


def loaded(place: Place, fault: str, *cure: str) -> Load:
    """Post without pause while the broker is told of a fault, until it refuses, and of its cure, until it does not."""

    async def scenario() -> Load:
        async with load(place.address) as made:
            await made.more(20)
            place.broker.command(*fault.split())
            while made.statuses[503] < 20:
                await made.more(10)
            for command in cure:
                place.broker.command(*command.split())
            end = len(made.replies)
            while made.replies[-1].status_code != httpx.codes.OK:
                await made.more(5)
                assert len(made.replies) < end + 20_000
        return made

    return asyncio.run(scenario())


def test_a_broker_without_memory(place: Place) -> None:
    made = loaded(place, "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0")
    assert not made.broken
    assert all(map(documented, made.replies))
    place.recovers()


def saved(place: Place) -> str:
    """What the broker says of its last attempt."""
    found = place.broker.command("INFO", "persistence")
    assert isinstance(found, dict)
    return str(found["rdb_last_bgsave_status"])


def test_a_broker_whose_disk_is_full(place: Place) -> None:
    """One that keeps its data on disk takes no more writes when it cannot save them."""
    assert place.broker._process is not None
    server = psutil.Process(place.broker._process.pid)
    _, most = server.rlimit(psutil.RLIMIT_FSIZE)
    server.rlimit(psutil.RLIMIT_FSIZE, (16, most))  # as much as is left on the disk
    place.broker.command("CONFIG", "SET", "save", "100000 1")
    place.broker.command("BGSAVE")
    until(lambda: saved(place) == "err", "it could not save")
    reply = place.post()
    assert (reply.status_code, documented(reply)) == (503, True), reply.text
    server.rlimit(psutil.RLIMIT_FSIZE, (most, most))
    place.broker.command("BGSAVE")
    until(lambda: saved(place) == "ok", "it could save")
    place.recovers()
    place.broker.command("CONFIG", "SET", "save", "")


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it started."""
    return [process, *process.children(recursive=True)]


@contextmanager
def errors_to_a_full_disk() -> Iterator[None]:
    """What is started meanwhile writes its logs to a device that is full."""
    kept = os.dup(2)
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_a_disk_without_room(store: Path) -> None:
    """Neither for logs nor for temporary files; answers do not need it."""
    long = CIF + b"# nothing\n" * 200_000
    environment = QUICK | {"DEEPERGATGNN_LOG_LEVEL": "info"}
    with broker_server() as server, ExitStack() as stack:
        with errors_to_a_full_disk():
            process, address = stack.enter_context(api(server.url, store, "1", **environment))
        until_ready(address)
        for each in tree(psutil.Process(process.pid)):
            each.rlimit(psutil.RLIMIT_FSIZE, (0, each.rlimit(psutil.RLIMIT_FSIZE)[1]))
        for content in (CIF, long):
            plain = httpx.post(f"{address}{PREDICT}", content=content, headers=HEADERS, timeout=60)
            form = httpx.post(f"{address}{PREDICT}", files={"file": ("a.cif", content)}, timeout=60)
            assert (plain.status_code, form.status_code) == (200, 200), plain.text + form.text


@pytest.fixture(scope="module")
def restless(store: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """Address, API and worker of a service whose clocks can be made to jump."""
    usual, COMMAND[-1] = COMMAND[-1], JUMPING
    try:
        with (
            broker_server() as server,
            api(server.url, store, **QUICK) as (process, address),
            worker(server.url, store, **QUICK) as beside,
        ):
            until_ready(address)
            yield address, {"api": process.pid, "worker": beside.pid}
    finally:
        COMMAND[-1] = usual


@pytest.mark.parametrize("who", ["worker", "api"])
@pytest.mark.parametrize("jumps", [[signal.SIGUSR1, signal.SIGUSR2], [signal.SIGUSR2, signal.SIGUSR1]])
def test_a_clock_that_jumps_by_an_hour(
    restless: tuple[str, dict[str, int]], who: str, jumps: Sequence[signal.Signals]
) -> None:
    """And later back again: nobody is refused, or waits until the deadline."""
    address, processes = restless

    async def scenario() -> Load:
        async with load(address) as made:
            for jump in jumps:
                await made.more(20)
                os.kill(processes[who], jump)
            await made.more(20)
        return made

    made = asyncio.run(scenario())
    assert not made.broken
    assert set(made.statuses) == {200}


def test_nothing_but_loopback_is_spoken_to(place: Place) -> None:
    place.recovers()
    ends = [
        end.ip
        for each in tree(place.process)
        for connection in each.net_connections("inet")
        for end in (connection.laddr, connection.raddr)
        if end
    ]
    assert ends
    assert set(ends) == {"127.0.0.1"}


def test_without_a_network_it_starts_and_answers() -> None:
    """In a namespace with loopback alone, where the system lets one be made."""
    namespace = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    allowed = subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode == 0
    command = [*(namespace if allowed else []), sys.executable, "-c", LOOPBACK_UP]
    environment = os.environ | {"DEEPERGATGNN_MODELS": SMALL, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ZrO2" in done.stdout
