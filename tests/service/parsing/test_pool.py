"""The parse pool: real processes, killed, stopped, too slow; and graphs that arrive as they left."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import pytest
import uvloop

from deepergatgnn.errors import StructureError
from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.serialization import pack_graph, unpack_graph
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.service.lanes import BULK
from deepergatgnn.service.parsing import fork_server
from deepergatgnn.service.parsing import pool as parse_pool
from deepergatgnn.service.parsing.fork_server import StartedProcess
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.structures import read_structure
from tests.support import hostile_parsing
from tests.support.fixtures import graphs_of, some_crystals
from tests.support.parsing import parse

CIF = Path("examples/ZrO2.cif").read_bytes()
QUICK_S = 1.0
CONFIGS = (GraphConfig(angles=8), GraphConfig())
T = TypeVar("T")


def with_pool(scenario: Callable[[ParsePool], Awaitable[T]], processes: int = 1, timeout_s: float = 30.0) -> T:
    async def run() -> T:
        pool = ParsePool(processes, timeout_s, 2048)
        await pool.warm()
        try:
            return await scenario(pool)
        finally:
            pool.close()

    return uvloop.run(run())


def parse_processes() -> list[psutil.Process]:
    """The processes that a pool of this process has: children of its fork server."""
    servers = [each for each in psutil.Process().children() if "forkserver" in " ".join(each.cmdline())]
    return [child for server in servers for child in server.children()]


def same(one: CrystalGraph, other: CrystalGraph) -> bool:
    return all(np.array_equal(value, getattr(other, key)) for key, value in vars(one).items() if key in FIELDS)


FIELDS = set(CrystalGraph.__dataclass_fields__)


@pytest.mark.parametrize("graph", graphs_of(some_crystals(20), GraphConfig(angles=8)))
def test_a_graph_survives_its_bytes(graph: CrystalGraph) -> None:
    assert same(graph, unpack_graph(pack_graph(graph)))
    assert same(reduce_graph(graph), unpack_graph(pack_graph(reduce_graph(graph))))


def test_bytes_of_something_else_are_no_graph() -> None:
    packed = pack_graph(graphs_of(some_crystals(1), GraphConfig())[0])
    for content in (b"", packed[:-1], packed + b"\0", b"XX" + packed[2:], packed[:20]):
        with pytest.raises(ValueError, match="not a graph"):
            unpack_graph(content)


def test_a_pool_whose_first_processes_get_no_processor_starts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[int] = []

    def start(memory_mib: int, niceness: int, timeout_s: float) -> StartedProcess:
        started = fork_server.start_process(memory_mib, niceness, timeout_s)
        if timeout_s == QUICK_S and len(stopped) < 2:
            os.kill(started.process.pid or 0, signal.SIGSTOP)
            stopped.append(started.process.pid or 0)
        return started

    monkeypatch.setattr(parse_pool, "start_process", start)
    parsed = with_pool(lambda pool: pool.parse(CIF, "cif", CONFIGS), timeout_s=QUICK_S)
    assert (parsed.n_atoms, len(set(stopped))) == (12, 2)


def test_the_event_loop_goes_on_while_a_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it must for seconds, once the fork server is gone: the loop itself lets this one be started."""
    released = threading.Event()

    def start(memory_mib: int, niceness: int, timeout_s: float) -> StartedProcess:
        assert released.wait(30), "the event loop was held"
        return fork_server.start_process(memory_mib, niceness, timeout_s)

    async def scenario(pool: ParsePool) -> None:
        monkeypatch.setattr(parse_pool, "start_process", start)
        asked = asyncio.create_task(pool.parse(CIF, "cif", CONFIGS, BULK))  # whose processes are started now
        await asyncio.sleep(0)
        released.set()
        assert (await asked).n_atoms == 12

    with_pool(scenario)


def test_a_fork_server_that_is_killed_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that came meanwhile is read; a start that fails on the way is tried again."""
    failed: list[int] = []

    def start(memory_mib: int, niceness: int, timeout_s: float) -> StartedProcess:
        if not failed:
            failed.append(1)
            raise EOFError
        return fork_server.start_process(memory_mib, niceness, timeout_s)

    async def scenario(pool: ParsePool) -> None:
        [server] = [each for each in psutil.Process().children() if "forkserver" in " ".join(each.cmdline())]
        server.kill()
        monkeypatch.setattr(parse_pool, "start_process", start)
        assert (await pool.parse(CIF, "cif", CONFIGS, BULK)).n_atoms == 12
        assert (await pool.parse(CIF, "cif", CONFIGS)).n_atoms == 12
        assert failed

    with_pool(scenario)


def test_what_comes_back_is_what_was_built() -> None:
    parsed = with_pool(lambda pool: pool.parse(CIF, "cif", CONFIGS))
    here = parse(CIF, "cif", CONFIGS)
    assert (parsed.symbols, parsed.frac_coords, parsed.cell) == (here.symbols, here.frac_coords, here.cell)
    crystal = read_structure(CIF, "cif")
    bare = with_pool(lambda pool: pool.parse(CIF, "cif", CONFIGS, sites=False))
    assert (bare.n_atoms, bare.symbols, bare.frac_coords, bare.cell) == (parsed.n_atoms, [], [], parsed.cell)
    for packed, config in zip(parsed.graphs, CONFIGS, strict=True):
        built = reduce_graph(build_graph(crystal, config))
        assert same(unpack_graph(packed.content), built)
        assert (packed.n_nodes, packed.n_links, packed.n_edges) == (built.n_nodes, built.n_links, built.n_edges)


def test_a_refusal_comes_back_as_one() -> None:
    async def scenario(pool: ParsePool) -> None:
        with pytest.raises(StructureError) as refused:
            await pool.parse(b"no structure at all", "auto", CONFIGS)
        assert refused.value.code == "unreadable"

    with_pool(scenario)


def test_a_file_that_takes_too_long_is_refused_and_its_process_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "run_parser", hostile_parsing.serve)

    async def scenario(pool: ParsePool) -> None:
        [before] = parse_processes()
        with pytest.raises(StructureError, match=r"took more than 0\.5 s of processor time"):
            await pool.parse(hostile_parsing.HANGS + CIF, "cif", CONFIGS)
        assert (await pool.parse(CIF, "cif", CONFIGS)).n_atoms == 12
        assert not before.is_running() or before.status() == psutil.STATUS_ZOMBIE
        assert len(parse_processes()) == 1

    with_pool(scenario, timeout_s=0.5)


def test_a_process_that_dies_fails_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "run_parser", hostile_parsing.serve)

    async def scenario(pool: ParsePool) -> None:
        with pytest.raises(StructureError, match="crashed on this file"):
            await pool.parse(hostile_parsing.DIES + CIF, "cif", CONFIGS)
        assert (await pool.parse(CIF, "cif", CONFIGS)).n_atoms == 12

    with_pool(scenario)


def test_a_client_that_leaves_costs_no_process() -> None:
    async def scenario(pool: ParsePool) -> None:
        [before] = parse_processes()
        for _ in range(5):
            task = asyncio.create_task(pool.parse(CIF, "cif", CONFIGS))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (await pool.parse(CIF, "cif", CONFIGS)).n_atoms == 12
        assert parse_processes() == [before]

    with_pool(scenario)


def test_bulk_files_have_processes_of_their_own_and_lower_priority() -> None:
    async def scenario(pool: ParsePool) -> None:
        [single] = parse_processes()
        await pool.parse(CIF, "cif", CONFIGS, BULK)
        [bulk] = [process for process in parse_processes() if process != single]
        assert bulk.nice() > single.nice()
        bulk.suspend()
        waiting = asyncio.create_task(pool.parse(CIF, "cif", CONFIGS, BULK))
        assert (await pool.parse(CIF, "cif", CONFIGS)).n_atoms == 12
        assert not waiting.done()
        bulk.resume()
        assert (await waiting).n_atoms == 12

    with_pool(scenario)


LOOPS = """
import socket
from deepergatgnn.service.parsing import process as parse_process
from deepergatgnn.service.parsing import wire

def loop(*_, **__):
    while True:
        pass

parse_process.read_file = loop
ours, theirs = socket.socketpair()
ours.sendall(b"".join(wire.frame(wire.encode_header(wire.FileHeader("auto", ())))))
parse_process.serve(theirs, [0, 0, 0, 0], 4096, 0, 0.1)
"""


def test_a_process_that_loops_ends_although_nobody_is_left_to_kill_it() -> None:
    """Who started it may have been killed before it could look at the clock."""
    done = subprocess.run([sys.executable, "-c", LOOPS], check=False, timeout=120)
    assert done.returncode == -signal.SIGXCPU


def test_processor_time_is_limited_anew_for_each_file() -> None:
    async def scenario(pool: ParsePool) -> None:
        [process] = parse_processes()
        await pool.parse(CIF, "cif", CONFIGS)
        soft, hard = process.rlimit(psutil.RLIMIT_CPU)
        used = sum(process.cpu_times()[:2])
        assert 30 < soft < used + 30 + 4
        assert hard == resource.getrlimit(resource.RLIMIT_CPU)[1]

    with_pool(scenario)


def network_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()


def test_a_parse_process_may_not_write_files_nor_open_connections() -> None:
    """The latter where the system lets a process give its network up."""

    async def scenario(_: ParsePool) -> tuple[int, bool]:
        [process] = parse_processes()
        return process.rlimit(psutil.RLIMIT_FSIZE)[1], network_of(process.pid) != network_of(os.getpid())

    most_bytes, apart = with_pool(scenario)
    assert most_bytes == 0
    probe = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x50000000) != 0)"
    assert apart == (subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0)


def test_the_pool_ends_with_its_processes() -> None:
    found: list[psutil.Process] = []

    async def scenario(pool: ParsePool) -> None:
        await pool.parse(CIF, "cif", CONFIGS, BULK)
        found.extend(parse_processes())

    with_pool(scenario, processes=2)
    _, alive = psutil.wait_procs(found, timeout=10)
    assert len(found) == 4
    assert alive == []
