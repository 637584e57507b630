"""The parse pool: killable processes that turn files into graphs, away from the event loop.

A process that takes too long over a file, or dies of it, is replaced; the file is refused and no other one notices.
Bulk files have processes of their own, of lower priority, so that a screening run does not stand before single files.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from typing import Any

import orjson

from deepergatgnn.crystal_graph import GraphConfig
from deepergatgnn.errors import StructureError
from deepergatgnn.structures import StructureFormat
from service import metrics
from service.entries import LANES, Lane
from service.parse_process import LENGTH, pack_task, serve, unpack_result
from service.parsing import Parsed

FILES_PER_PROCESS = 5000  # then it is replaced, so that a leak in a parser stays small
WARM_UP = b'{"lattice": [[4.2, 0, 0], [0, 4.2, 0], [0, 0, 4.2]], "species": ["Na"], "frac_coords": [[0, 0, 0]]}'
WARM_UP_S = 120.0
BULK_NICENESS = 5
LARGEST_ANSWER = 256 * 1024 * 1024


class _Process:
    """One parse process and the stream to it."""

    def __init__(self, process: ForkServerProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self.files = 0

    async def exchange(self, frame: bytes) -> tuple[bytes, bytes]:
        """Send a file, get what became of it.

        Raises:
            OSError, asyncio.IncompleteReadError: if the process is gone.
        """
        self.files += 1
        self._writer.write(frame)
        await self._writer.drain()
        head_size, content_size = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        if head_size + content_size > LARGEST_ANSWER:
            raise OSError("an answer of impossible size")
        return await self._reader.readexactly(head_size), await self._reader.readexactly(content_size)

    def kill(self) -> None:
        """End it now."""
        self._writer.close()
        if self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)


class _LaneOfProcesses:
    """The processes of one lane; those idle wait in a queue."""

    def __init__(self, name: Lane, count: int, memory_mib: int) -> None:
        self.name, self.count, self._memory_mib = name, count, memory_mib
        self.idle: asyncio.Queue[_Process | None] = asyncio.Queue()  # None: a place where one is to be started
        self.all: set[_Process] = set()
        for _ in range(count):
            self.idle.put_nowait(None)

    async def start_one(self) -> _Process:
        ours, theirs = socket.socketpair()
        niceness = BULK_NICENESS if self.name == "bulk" else 0
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=serve, args=(theirs, self._memory_mib, niceness), daemon=True)
        with theirs:
            await asyncio.to_thread(process.start)
        ours.setblocking(False)  # noqa: FBT003 - the name of the method says it
        started = _Process(process, *await asyncio.open_connection(sock=ours, limit=1 << 20))
        self.all.add(started)
        return started

    def end(self, process: _Process) -> None:
        process.kill()
        self.all.discard(process)


class ParsePool:
    """Parse processes of both lanes.

    Args:
        processes: of single files; of bulk files as many.
        timeout_s: wall time of one file in its process.
        memory_mib: address space of one process.
        named: whether graphs get the names that a cache goes by.
    """

    def __init__(self, processes: int, timeout_s: float, memory_mib: int, *, named: bool = False) -> None:
        self._timeout_s, self._named = timeout_s, named
        # A process that was killed is replaced by a fork, without importing anew.
        multiprocessing.get_context("forkserver").set_forkserver_preload(["service.parse_process"])
        self._lanes = {lane: _LaneOfProcesses(lane, processes, memory_mib) for lane in LANES}

    async def warm(self) -> None:
        """Start the processes of single files and let each import what it needs."""
        lane = self._lanes["interactive"]
        await asyncio.gather(
            *(self._parse(WARM_UP, "json", (GraphConfig(),), lane, WARM_UP_S) for _ in range(lane.count))
        )

    async def parse(
        self,
        source: bytes | str | Mapping[str, Any],
        file_format: StructureFormat,
        configs: Sequence[GraphConfig],
        lane: Lane = "interactive",
    ) -> Parsed:
        """Parse in the pool.

        Args:
            source: content of a file, or a structure object.
            file_format: of the content.
            configs: a graph is built for each.
            lane: whose processes.

        Raises:
            StructureError: if the structure is refused, or broke or outlasted its process.
        """
        if isinstance(source, Mapping):
            source, file_format = orjson.dumps(source), "json"
        return await self._parse(source, file_format, configs, self._lanes[lane], self._timeout_s)

    async def _parse(
        self,
        source: bytes | str,
        file_format: StructureFormat,
        configs: Sequence[GraphConfig],
        lane: _LaneOfProcesses,
        timeout_s: float,
    ) -> Parsed:
        asked = time.perf_counter()
        process = await lane.idle.get()
        metrics.PHASE.labels("parse_wait").observe(time.perf_counter() - asked)
        frame = pack_task(source, file_format, configs, named=self._named)
        work = asyncio.create_task(self._exchange(process, frame, lane, timeout_s))
        work.add_done_callback(lambda done: done.cancelled() or done.exception())  # its client may have gone
        try:
            answer = await asyncio.shield(work)
        finally:
            del work  # else its error, which knows this frame, would keep itself and the file alive
        return unpack_result(*answer)

    async def _exchange(
        self, process: _Process | None, frame: bytes, lane: _LaneOfProcesses, timeout_s: float
    ) -> tuple[bytes, bytes]:
        """Have one file parsed and give the process, or its place, back."""
        whole = False
        try:
            if process is None:
                process = await lane.start_one()
            async with asyncio.timeout(timeout_s):
                answer = await process.exchange(frame)
            whole = process.files < FILES_PER_PROCESS
        except TimeoutError:
            metrics.PARSE_KILLED.labels("time").inc()
            detail = f"reading the file took more than {timeout_s:g} s: post a plain, smaller cell"
            raise StructureError("unreadable", detail) from None
        except (OSError, asyncio.IncompleteReadError):
            metrics.PARSE_KILLED.labels("died").inc()
            raise StructureError("unreadable", "reading the file took too much memory: post a smaller cell") from None
        finally:
            if process is not None and not whole:
                lane.end(process)
            lane.idle.put_nowait(process if whole else None)
        return answer

    def close(self) -> None:
        """Stop all processes now."""
        for lane in self._lanes.values():
            for process in list(lane.all):
                lane.end(process)
        # The server that forks the processes would outlive this one for a moment; only its private method waits for it.
        getattr(forkserver._forkserver, "_stop", lambda: None)()  # noqa: SLF001
