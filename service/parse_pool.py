"""The parse pool: killable processes that turn files into graphs, away from the event loop.

A process that takes too long over a file, or dies of it, is replaced; the file is refused and no other one notices.
Bulk files have processes of their own, of lower priority, so that a screening run does not stand before single files.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import structlog

from deepergatgnn.crystal_graph import GraphConfig
from deepergatgnn.errors import StructureError
from deepergatgnn.structures import StructureFormat
from service import metrics
from service.entries import Lane
from service.json_bodies import Fields, Kind, Options
from service.parse_channel import Answer, Channel, File, Started, start_process, stop_fork_server
from service.parse_process import pack_reading, pack_task, unpack_reading, unpack_result
from service.parsing import Parsed
from service.tasks import PAUSE_S

FILES_PER_PROCESS = 5000  # then it is replaced, so that a leak in a parser stays small
AT_ONCE = 16  # files sent to a process: it goes on to the next while the event loop is busy with something else
WARM_UP = b'{"lattice": [[4.2, 0, 0], [0, 4.2, 0], [0, 0, 4.2]], "species": ["Na"], "frac_coords": [[0, 0, 0]]}'
WARM_UP_S = 120.0
# Who has many to feed goes first: an event loop that waits for the processor leaves parse processes and worker without
# work a moment later. They are equals on a CPU, `worker.YIELDING`, since either feeds on the other.
SINGLE_NICENESS = 5
BODY_NICENESS = 8  # of bulk bodies: one takes half a second of the processor, of which the least would be long
BULK_NICENESS = 15  # below a CPU worker, which single files wait for too
BULK_PATIENCE = 8  # times the wall time of a single file: who gives way to everybody waits for the processor
log = structlog.get_logger("parse_pool")


class _LaneOfProcesses:
    """The processes of one lane and the files that wait for them, oldest first."""

    def __init__(self, count: int, timeout_s: float, memory_mib: int, niceness: int = 0) -> None:
        self.count = count
        self._timeout_s, self._memory_mib, self._niceness = timeout_s, memory_mib, niceness
        self._waiting: deque[File] = deque()
        self._channels: set[Channel] = set()
        self._starting: set[asyncio.Task[Channel]] = set()
        self._closed = False

    def submit(self, file: File) -> None:
        """Have a file parsed when its turn comes."""
        self._waiting.append(file)
        self.feed()

    def feed(self) -> None:
        """Send what waits to the processes with the least to do."""
        while len(self._channels) + len(self._starting) < self.count and not self._closed:
            starting = asyncio.get_running_loop().create_task(self._start())
            self._starting.add(starting)
            starting.add_done_callback(self._started)
        while self._waiting and (lasting := [each for each in self._channels if each.files < FILES_PER_PROCESS]):
            channel = min(lasting, key=lambda each: each.load)
            if channel.load >= AT_ONCE:
                return
            file = self._waiting.popleft()
            if file.future.done():  # its client has gone, or another process had it
                continue
            if file.sent is None:
                file.sent = time.perf_counter()
                metrics.PHASES.observe("parse_wait", file.sent - file.came)
            channel.send(file)

    async def _start(self) -> Channel:
        """Start a process, in a thread: where the fork server is gone, it takes seconds until there is another."""
        arguments = self._memory_mib, self._niceness, self._timeout_s
        started = asyncio.get_running_loop().run_in_executor(None, start_process, *arguments)
        try:
            process, progress, ours = await asyncio.shield(started)
        except asyncio.CancelledError:
            started.add_done_callback(_discard)
            raise
        channel = Channel(process, progress, self._timeout_s, self)
        try:
            await channel.connect(ours)
        except BaseException:
            channel.kill()
            raise
        return channel

    def _started(self, starting: "asyncio.Task[Channel]") -> None:
        self._starting.discard(starting)
        if starting.cancelled():
            return
        error = starting.exception()
        if error is not None:
            log.warning("a parse process cannot be started, trying again", error=repr(error))
            asyncio.get_running_loop().call_later(PAUSE_S, self.feed)
        elif self._closed:
            starting.result().kill()
        else:
            self._channels.add(starting.result())
            self.feed()

    def delayed(self, files: Sequence[File]) -> None:
        """Send these, which wait behind a slow file, to others too; who is first answers."""
        self._waiting.extendleft(file for file in reversed(files) if file not in self._waiting)
        self.feed()

    def finished(self, channel: Channel) -> None:
        """A process has answered a file."""
        if channel.files >= FILES_PER_PROCESS and not channel.pending:
            self.lost(channel)
            channel.kill()
        else:
            self.feed()

    def lost(self, channel: Channel) -> None:
        """A process is gone; what it had not begun goes to others."""
        self._channels.discard(channel)
        if not self._closed:
            self.delayed(list(channel.pending))

    def close(self) -> None:
        """End all processes."""
        self._closed = True
        for channel in self._channels:
            channel.kill()
        for starting in self._starting:
            starting.cancel()


def _discard(started: "asyncio.Future[Started]") -> None:
    """End a process that was started for a lane that is closed."""
    if not started.cancelled() and started.exception() is None:
        process, _, ours = started.result()
        ours.close()
        process.kill()


class ParsePool:
    """Parse processes of both lanes.

    Args:
        processes: of single files; of bulk files as many.
        timeout_s: wall time of one single file in its process; bulk files, which give way, have more.
        memory_mib: address space of one process.
        named: whether graphs get the names that a cache goes by.
    """

    def __init__(self, processes: int, timeout_s: float, memory_mib: int, *, named: bool = False) -> None:
        self._named = named
        patience_s = BULK_PATIENCE * timeout_s
        self._lanes: dict[Lane, _LaneOfProcesses] = {
            "interactive": _LaneOfProcesses(processes, timeout_s, memory_mib, SINGLE_NICENESS),
            "bulk": _LaneOfProcesses(processes, patience_s, memory_mib, BULK_NICENESS),
        }
        self._bodies = _LaneOfProcesses(1, patience_s, memory_mib, BODY_NICENESS)

    async def warm(self) -> None:
        """Start the processes of single files and let each import what it needs.

        Raises:
            StructureError: if none can be started in two minutes; on a host with much else to do it may take long.
        """
        first = _LaneOfProcesses(1, WARM_UP_S, 4096)  # the fork server imports for all
        try:
            await self._parse(WARM_UP, "json", (GraphConfig(),), first)
        finally:
            first.close()
        lane = self._lanes["interactive"]
        await asyncio.gather(*(self._warm(lane) for _ in range(lane.count)))

    async def _warm(self, lane: _LaneOfProcesses) -> None:
        late = time.monotonic() + WARM_UP_S
        while True:
            try:
                await self._parse(WARM_UP, "json", (GraphConfig(),), lane)
            except StructureError as error:
                if time.monotonic() > late:
                    raise
                log.warning("a parse process is not ready yet", error=error.detail)
                await asyncio.sleep(PAUSE_S)
            else:
                return

    async def parse(
        self,
        source: bytes | str | Mapping[str, Any],
        file_format: StructureFormat,
        configs: Sequence[GraphConfig],
        lane: Lane = "interactive",
        layers: int = 1,
        *,
        sites: bool = True,
    ) -> Parsed:
        """Parse in the pool.

        Args:
            source: content of a file, or a structure object.
            file_format: of the content.
            configs: a graph is built for each.
            lane: whose processes.
            layers: of the deepest network that reads the graphs, for their names.
            sites: whether the atoms are wanted one by one.

        Raises:
            StructureError: if the structure is refused, or broke or outlasted its process.
        """
        if isinstance(source, Mapping):
            try:
                source, file_format = orjson.dumps(source), "json"
            except TypeError:  # nested deeper than it may be written, though not deeper than it may be read
                raise StructureError("unreadable", "The object is nested too deeply: post a plain structure.") from None
        return await self._parse(
            source, file_format, configs, self._lanes[lane], layers if self._named else 0, sites=sites
        )

    async def _parse(
        self,
        source: bytes | str,
        file_format: StructureFormat,
        configs: Sequence[GraphConfig],
        lane: _LaneOfProcesses,
        rounds: int = 0,
        *,
        sites: bool = False,
    ) -> Parsed:
        task = pack_task(source, file_format, configs, rounds=rounds, sites=sites)
        return unpack_result(*await self._answer(File(*task), lane))

    async def read(self, kind: Kind, pieces: Sequence[bytes], options: Options) -> tuple[Fields, list[memoryview]]:
        """Read a JSON body in the pool; those of bulk requests one after the other, in a process of their own.

        Args:
            kind: of the request.
            pieces: of the body.
            options: as of `read_body`.

        Raises:
            ServiceError: as `read_body`.
            StructureError: as `read_body`, and if the body broke or outlasted its process.
        """
        lane = self._bodies if kind == "bulk" else self._lanes["interactive"]
        return unpack_reading(*await self._answer(File(*pack_reading(kind, pieces, options), alone=True), lane))

    async def _answer(self, file: File, lane: _LaneOfProcesses) -> Answer:
        lane.submit(file)
        try:
            head, content = await file.future
        finally:
            del file  # else its error, which knows this frame, would keep itself and the content alive
        if not head:
            raise StructureError("unreadable", str(content, "utf-8"))
        return head, content

    def close(self) -> None:
        """Stop all processes now."""
        for lane in (*self._lanes.values(), self._bodies):
            lane.close()
        stop_fork_server()
