"""The parse pool: killable processes that turn files into graphs, away from the event loop.

A process that spends too much processor time on a file, or dies of it, is replaced; the file is refused and no other
one notices. A file that gets no processor time in time is not refused: the client gets 503 with `Retry-After`.
Bulk files have processes of their own, of lower priority, so that a screening run does not stand before single files.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import orjson
import structlog

from deepergatgnn.errors import DeeperGATGNNError, StructureError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.service.errors import parsing_delayed
from deepergatgnn.service.messages import Lane
from deepergatgnn.service.parsing.channel import Channel, File, InferenceReply, Started, start_process, stop_fork_server
from deepergatgnn.service.parsing.featurize import Parsed
from deepergatgnn.service.parsing.json_bodies import Fields, Kind, Options
from deepergatgnn.service.parsing.process import pack_reading, pack_task, unpack_reading, unpack_result
from deepergatgnn.service.scheduling.fairness import NOBODY, FairLine, Flow
from deepergatgnn.service.scheduling.parse_cost import ParseCost, Size, size_of
from deepergatgnn.service.tasks import PAUSE_S
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.structures import StructureFormat

FILES_PER_PROCESS = 5000  # then it is replaced, so that a leak in a parser stays small
AT_ONCE = 16  # files sent to a process: it goes on to the next while the event loop is busy with something else
AHEAD_S = 0.05  # predicted seconds of them, but for the first
GIVE_UP = 10  # times the processor time that a file may take: then its client is asked to send it again
WARM_UP = b'{"lattice": [[4.2, 0, 0], [0, 4.2, 0], [0, 0, 4.2]], "species": ["Na"], "frac_coords": [[0, 0, 0]]}'
WARM_UP_S = 120.0
# Who has many to feed goes first: an event loop that waits for the processor leaves parse processes and worker without
# work a moment later. They are equals on a CPU, `worker.YIELDING`, since either feeds on the other.
SINGLE_NICENESS = 5
BODY_NICENESS = 8  # of bulk bodies: one takes half a second of the processor, of which the least would be long
BULK_NICENESS = 15  # below a CPU worker, which single files wait for too
BULK_PATIENCE = 8  # times as long: bulk processes have the lowest priority
LAUNCHER = ThreadPoolExecutor(thread_name_prefix="parse-start")
log = structlog.get_logger("parse_pool")


class ParseLane:
    """The processes of one lane and the files that wait for them, in the order of fair queueing between clients.

    Large files leave one of several processes free, so that a small one never waits for all of them.
    """

    def __init__(
        self, count: int, timeout_s: float, memory_mib: int, niceness: int = 0, *, patience: float = 1
    ) -> None:
        self.count = count
        self.give_up_s = GIVE_UP * timeout_s * patience
        self._timeout_s, self._memory_mib, self._niceness = timeout_s, memory_mib, niceness
        self._waiting: FairLine[File] = FairLine()
        self._returned: deque[File] = deque()
        self._channels: set[Channel] = set()
        self._starting: set[asyncio.Task[Channel]] = set()
        self._launched: set[Future[Started]] = set()
        self._connecting: set[Channel] = set()
        self._closed = False

    def submit(self, file: File) -> None:
        """Have a file parsed when its turn comes."""
        self._waiting.push(file.flow, file.seconds, file)
        self.feed()

    def feed(self) -> None:
        """Send what waits to the processes with the least to do."""
        while len(self._channels) + len(self._starting) < self.count and not self._closed:
            starting = asyncio.get_running_loop().create_task(self._start())
            self._starting.add(starting)
            starting.add_done_callback(self._started)
        while (found := self._next()) is not None:
            file, channel = found
            if file.sent is None:
                file.sent = time.perf_counter()
                metrics.PHASES.labels("parse_wait").observe(file.sent - file.came)
            channel.send(file)

    def _next(self) -> tuple[File, Channel] | None:
        """The next file and the process for it."""
        lasting = [each for each in self._channels if each.files < FILES_PER_PROCESS and each.takes_more]
        lasting.sort(key=lambda each: (each.load, len(each.pending)))
        if not lasting:
            return None
        at_large = sum(each.has_large for each in self._channels)
        kept: list[Channel] = []  # for a large file, whose turn it is, until it has nothing else to do

        def process_for(file: File) -> Channel | None:
            if file.is_large:
                if at_large >= max(1, self.count - 1):
                    return None
                idle = next((each for each in lasting if not each.pending), None)
                if idle is None and not kept:
                    kept.append(lasting[0])
                return idle
            least = next((each for each in lasting if each not in kept), None)
            if least is None or (least.pending and not _has_room(least, file)):
                return None
            return least

        while (file := self._first(lambda each: each.future.done() or process_for(each) is not None)) is not None:
            if not file.future.done() and (channel := process_for(file)) is not None:  # else its client has gone
                return file, channel
        return None

    def _first(self, may_go: Callable[[File], bool]) -> File | None:
        for file in self._returned:
            if may_go(file):
                self._returned.remove(file)
                return file
        return self._waiting.pop(may_go)

    async def _start(self) -> Channel:
        """Start a process, in a thread: where the fork server is gone, it takes seconds until there is another."""
        launched = LAUNCHER.submit(start_process, self._memory_mib, self._niceness, self._timeout_s)
        self._launched.add(launched)
        try:
            process, progress, ours = await asyncio.shield(asyncio.wrap_future(launched))
        finally:
            if not self._closed:  # else it is ended there
                self._launched.discard(launched)
        channel = Channel(process, progress, self._timeout_s, self)
        self._connecting.add(channel)
        try:
            await channel.connect(ours)
        except BaseException:
            channel.kill()
            raise
        finally:
            self._connecting.discard(channel)
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

    def returned(self, files: Sequence[File]) -> None:
        """Send these before others, which came later."""
        if not self._closed:
            self._returned.extendleft(reversed(files))
            self.feed()

    def finished(self, channel: Channel, files: Sequence[File], seconds: float) -> None:
        """A process has answered files."""
        predicted = sum(file.seconds for file in files) or 1.0
        for file in files:
            file.took_s = seconds * file.seconds / predicted
            self._waiting.charge(file.flow, file.took_s - file.seconds)
        if channel.files >= FILES_PER_PROCESS and not channel.pending:
            channel.kill()
            self.lost(channel)
        else:
            self.feed()

    def lost(self, channel: Channel) -> None:
        """A process is gone; another one takes its place."""
        self._channels.discard(channel)
        if not self._closed:
            self.feed()

    def close(self) -> None:
        """End all processes."""
        self._closed = True
        ready = [starting.result() for starting in self._starting if starting.done() and not starting.exception()]
        for starting in self._starting:
            starting.cancel()
        for channel in (*self._channels, *self._connecting, *ready):
            channel.kill()
        # The fork server lives until every process that it forked has ended, including those still starting.
        for launched in self._launched:
            if not launched.cancel():
                _discard(launched)


def _discard(launched: "Future[Started]") -> None:
    """End a process as soon as it has started."""
    if launched.exception() is None:
        process, _, ours = launched.result()
        ours.close()
        process.kill()


def _has_room(channel: Channel, file: File) -> bool:
    return len(channel.pending) < AT_ONCE and channel.load + file.seconds <= AHEAD_S


class ParsePool:
    """Parse processes of both lanes.

    Args:
        processes: of single files; of bulk files as many.
        timeout_s: processor time of one file.
        memory_mib: address space of one process.
        named: whether graphs get the names that a cache goes by.

    Attributes:
        cost: what files are predicted to take.
        processes: of each lane.
    """

    def __init__(self, processes: int, timeout_s: float, memory_mib: int, *, named: bool = False) -> None:
        self.cost, self.processes = ParseCost(), processes
        self._named = named
        self._lanes: dict[Lane, ParseLane] = {
            "interactive": ParseLane(processes, timeout_s, memory_mib, SINGLE_NICENESS),
            "bulk": ParseLane(processes, timeout_s, memory_mib, BULK_NICENESS, patience=BULK_PATIENCE),
        }
        self._bodies = ParseLane(1, timeout_s, memory_mib, BODY_NICENESS, patience=BULK_PATIENCE)

    async def warm(self) -> None:
        """Start the processes of single files and let each import what it needs.

        Raises:
            DeeperGATGNNError: if none can be started in two minutes; on a host with much else to do it may take long.
        """
        first = ParseLane(1, WARM_UP_S, 4096, patience=1 / GIVE_UP)  # the fork server imports for all
        try:
            await self._parse(WARM_UP, "json", (GraphConfig(),), first)
        finally:
            first.close()
        lane = self._lanes["interactive"]
        await asyncio.gather(*(self._warm(lane) for _ in range(lane.count)))

    async def _warm(self, lane: ParseLane) -> None:
        late = time.monotonic() + WARM_UP_S
        while True:
            try:
                await self._parse(WARM_UP, "json", (GraphConfig(),), lane)
            except DeeperGATGNNError as error:
                if time.monotonic() > late:
                    raise
                log.warning("a parse process is not ready yet", error=str(error))
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
        flow: Flow = NOBODY,
    ) -> Parsed:
        """Parse in the pool.

        Args:
            source: content of a file, or a structure object.
            file_format: of the content.
            configs: a graph is built for each.
            lane: whose processes.
            layers: of the deepest network that reads the graphs, for their names.
            sites: whether the atoms are wanted one by one.
            flow: whose file it is.

        Raises:
            StructureError: if the structure is refused, or broke its process or took too much of its time.
            ServiceError: 503 if the host had no time for it.
        """
        if isinstance(source, Mapping):
            try:
                source, file_format = orjson.dumps(source), "json"
            except TypeError:  # nested deeper than it may be written, though not deeper than it may be read
                raise StructureError("unreadable", "The object is nested too deeply: post a plain structure.") from None
        rounds = layers if self._named else 0
        return await self._parse(source, file_format, configs, self._lanes[lane], rounds, sites=sites, flow=flow)

    async def _parse(
        self,
        source: bytes | str,
        file_format: StructureFormat,
        configs: Sequence[GraphConfig],
        lane: ParseLane,
        rounds: int = 0,
        *,
        sites: bool = False,
        flow: Flow = NOBODY,
    ) -> Parsed:
        head, content = pack_task(source, file_format, configs, rounds=rounds, sites=sites)
        size, graphs = size_of(content[0]), len(configs)
        file = File(head, content, seconds=self.cost.seconds(size, graphs), flow=flow)
        try:
            answer = await self._answer(file, lane)
        finally:
            if file.took_s:
                self.cost.observe(size, graphs, file.took_s)
            del file  # else its error, which knows this frame, would keep itself and the content alive
        return unpack_result(*answer)

    async def read(
        self, kind: Kind, pieces: Sequence[bytes], options: Options, flow: Flow = NOBODY
    ) -> tuple[Fields, list[memoryview]]:
        """Read a JSON body in the pool; those of bulk requests one after the other, in a process of their own.

        Args:
            kind: of the request.
            pieces: of the body.
            options: as of `read_body`.
            flow: whose body it is.

        Raises:
            ServiceError: as `read_body`, and as `parse`.
            StructureError: as `read_body`, and if the body broke its process or took too much of its time.
        """
        lane = self._bodies if kind == "bulk" else self._lanes["interactive"]
        seconds = self.cost.seconds(Size(sum(map(len, pieces)), 0, 0), 0)
        file = File(*pack_reading(kind, pieces, options), seconds=seconds, alone=True, flow=flow)
        try:
            answer = await self._answer(file, lane)
        finally:
            del file
        return unpack_reading(*answer)

    async def _answer(self, file: File, lane: ParseLane) -> InferenceReply:
        lane.submit(file)
        try:
            async with asyncio.timeout(lane.give_up_s):
                return await file.future
        except TimeoutError:
            raise parsing_delayed(f"the file was not read within {lane.give_up_s:g} s, as the host is busy") from None
        finally:
            del file

    def close(self) -> None:
        """Stop all processes now."""
        for lane in (*self._lanes.values(), self._bodies):
            lane.close()
        stop_fork_server()
