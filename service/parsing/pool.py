"""The parse pool: processes that turn files into graphs beside the event loop, and that can be killed.

A process that spends too much processor time on a file, or dies of it, is replaced, and the file is refused; no other
file fails. A file that waits too long for a busy host is not refused: the client gets 503 with `Retry-After`.
Bulk files have processes of their own, of lower priority, so that they do not delay single files.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import structlog

from deepergatgnn.errors import DeeperGATGNNError, StructureError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.service.errors import ServiceError, parsing_delayed
from deepergatgnn.service.lanes import INTERACTIVE, LANES, Lane
from deepergatgnn.service.parsing import wire
from deepergatgnn.service.parsing.fork_server import StartedProcess, start_process, stop_fork_server
from deepergatgnn.service.parsing.json_bodies import Options
from deepergatgnn.service.parsing.parse_tasks import ParseTask
from deepergatgnn.service.parsing.parse_worker import ParseWorker
from deepergatgnn.service.parsing.wire import FileHeader, Kind, ParsedStructure, RequestBody
from deepergatgnn.service.scheduling.fairness import INTERNAL, FairQueue, Flow
from deepergatgnn.service.scheduling.parse_cost import ParseCost, Size, size_of
from deepergatgnn.service.tasks import PAUSE_S
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.structures import StructureFormat

TASKS_PER_PROCESS = 5000  # then it is replaced, so that a leak in a parser stays small
WAIT_FACTOR = 10  # times the limit of processor time that a client waits before it is asked to retry
WARM_UP = b'{"lattice": [[4.2, 0, 0], [0, 4.2, 0], [0, 0, 4.2]], "species": ["Na"], "frac_coords": [[0, 0, 0]]}'
WARM_UP_S = 120.0
# The event loop has the highest priority: while it waits for the processor, parse processes and workers soon idle.
# Processes of single files equal a worker on a CPU, `worker.process.NICENESS`, since each supplies the other.
SINGLE_NICENESS = 5
BODY_NICENESS = 8  # of bulk bodies: one takes half a second of the processor, too long at the lowest priority
BULK_NICENESS = 15  # below a worker on a CPU, which single files wait for too
BULK_PATIENCE = 8  # times the waiting time: bulk processes have the lowest priority
LAUNCHER = ThreadPoolExecutor(thread_name_prefix="parse-start")
log = structlog.get_logger("parse_pool")
R = TypeVar("R", ParsedStructure, RequestBody)


class ParseLane:
    """Processes of one lane, and the tasks that wait for them in the order of fair queueing between clients.

    Large files leave one of several processes free, so that a small one never waits for all of them.
    """

    def __init__(
        self, count: int, timeout_s: float, memory_mib: int, niceness: int = 0, *, patience: float = 1
    ) -> None:
        self.count = count
        self.max_wait_s = WAIT_FACTOR * timeout_s * patience
        self._limits = memory_mib, niceness, timeout_s
        self._waiting: FairQueue[ParseTask] = FairQueue()
        self._returned: deque[ParseTask] = deque()
        self._workers: set[ParseWorker] = set()
        self._starting: set[asyncio.Task[ParseWorker]] = set()
        self._launched: set[Future[StartedProcess]] = set()
        self._connecting: set[ParseWorker] = set()
        self._closed = False

    def submit(self, task: ParseTask) -> None:
        """Queue a task."""
        self._waiting.push(task.flow, task.seconds, task)
        self.dispatch()

    def dispatch(self) -> None:
        """Send waiting tasks to the least loaded processes, and start missing processes."""
        while len(self._workers) + len(self._starting) < self.count and not self._closed:
            starting = asyncio.get_running_loop().create_task(self._start())
            self._starting.add(starting)
            starting.add_done_callback(self._started)
        while (found := self._next()) is not None:
            task, worker = found
            if task.sent_at is None:
                task.sent_at = time.perf_counter()
                metrics.PHASES.labels("parse_wait").observe(task.sent_at - task.created_at)
            worker.send(task)

    def _next(self) -> tuple[ParseTask, ParseWorker] | None:
        """Return the next task and the process for it."""
        open_ = [each for each in self._workers if each.tasks.total < TASKS_PER_PROCESS and not each.has_large]
        if not open_:
            return None
        open_.sort(key=lambda each: (each.tasks.load, len(each.tasks.pending)))
        n_large = sum(each.has_large for each in self._workers)
        reserved: list[ParseWorker] = []  # for the large task that is next, until this process is idle

        def process_for(task: ParseTask) -> ParseWorker | None:
            if task.is_large:
                if n_large >= max(1, self.count - 1):
                    return None
                idle = next((each for each in open_ if not each.tasks.pending), None)
                if idle is None and not reserved:
                    reserved.append(open_[0])
                return idle
            least = next((each for each in open_ if each not in reserved), None)
            return least if least is not None and least.tasks.has_room(task.seconds) else None

        while (task := self._first(lambda each: each.future.done() or process_for(each) is not None)) is not None:
            if not task.future.done() and (worker := process_for(task)) is not None:  # else its client has gone
                return task, worker
        return None

    def _first(self, may_go: Callable[[ParseTask], bool]) -> ParseTask | None:
        for task in self._returned:
            if may_go(task):
                self._returned.remove(task)
                return task
        return self._waiting.pop(may_go)

    async def _start(self) -> ParseWorker:
        """Start a process in a thread: a fork server that is gone takes seconds to replace."""
        launched = LAUNCHER.submit(start_process, *self._limits)
        self._launched.add(launched)
        try:
            started = await asyncio.shield(asyncio.wrap_future(launched))
        finally:
            if not self._closed:  # `close` ends it otherwise
                self._launched.discard(launched)
        worker = ParseWorker(started, self._limits[-1], self)
        self._connecting.add(worker)
        try:
            await asyncio.get_running_loop().create_connection(lambda: worker, sock=started.connection)
        except BaseException:
            worker.kill()
            raise
        finally:
            self._connecting.discard(worker)
        return worker

    def _started(self, starting: "asyncio.Task[ParseWorker]") -> None:
        self._starting.discard(starting)
        if starting.cancelled():
            return
        error = starting.exception()
        if error is not None:
            log.warning("parse process failed to start, retrying", error=repr(error))
            asyncio.get_running_loop().call_later(PAUSE_S, self.dispatch)
        elif self._closed:
            starting.result().kill()
        else:
            self._workers.add(starting.result())
            self.dispatch()

    def returned(self, tasks: Sequence[ParseTask]) -> None:
        """Queue tasks again, before those that came later."""
        if not self._closed:
            self._returned.extendleft(reversed(tasks))
            self.dispatch()

    def finished(self, worker: ParseWorker, tasks: Sequence[ParseTask], seconds: float) -> None:
        """Divide the processor time of tasks among them, and send others."""
        predicted = sum(task.seconds for task in tasks) or 1.0
        for task in tasks:
            task.used_s = seconds * task.seconds / predicted
            self._waiting.charge(task.flow, task.used_s - task.seconds)
        if worker.tasks.total >= TASKS_PER_PROCESS and not worker.tasks.pending:
            worker.kill()
            self.lost(worker)
        else:
            self.dispatch()

    def lost(self, worker: ParseWorker) -> None:
        """Replace a process that has ended."""
        self._workers.discard(worker)
        if not self._closed:
            self.dispatch()

    def close(self) -> None:
        """End all processes."""
        self._closed = True
        ready = [starting.result() for starting in self._starting if starting.done() and not starting.exception()]
        for starting in self._starting:
            starting.cancel()
        for worker in (*self._workers, *self._connecting, *ready):
            worker.kill()
        # The fork server lives until every process that it forked has ended, including those still starting.
        for launched in self._launched:
            if not launched.cancel() and launched.exception() is None:
                launched.result().connection.close()
                launched.result().process.kill()


class ParsePool:
    """Parse processes of both lanes.

    Args:
        processes: of single files; of bulk files as many.
        timeout_s: processor time of one file.
        memory_mib: address space of one process.
        named: whether graphs get the digests that the result cache needs.

    Attributes:
        cost: predicts processor time.
        processes: of each lane.
    """

    def __init__(self, processes: int, timeout_s: float, memory_mib: int, *, named: bool = False) -> None:
        self.cost, self.processes = ParseCost(), processes
        self._named = named
        self._lanes = {
            lane: ParseLane(processes, timeout_s, memory_mib, BULK_NICENESS, patience=BULK_PATIENCE)
            if lane.priority
            else ParseLane(processes, timeout_s, memory_mib, SINGLE_NICENESS)
            for lane in LANES
        }
        self._bodies = ParseLane(1, timeout_s, memory_mib, BODY_NICENESS, patience=BULK_PATIENCE)

    async def warm(self) -> None:
        """Start the processes of single files, and parse a file in each.

        Raises:
            DeeperGATGNNError: none could be started in two minutes; a busy host may need long.
        """
        first = ParseLane(1, WARM_UP_S, 4096, patience=1 / WAIT_FACTOR)  # the fork server imports for all
        try:
            await self._warm_up(first)
        finally:
            first.close()
        lane = self._lanes[INTERACTIVE]
        await asyncio.gather(*(self._warm_up(lane) for _ in range(lane.count)))

    async def _warm_up(self, lane: ParseLane) -> None:
        deadline = time.monotonic() + WARM_UP_S
        while True:
            try:
                await self._parse(WARM_UP, FileHeader("json", (GraphConfig(),), sites=False), lane)
            except DeeperGATGNNError as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("parse process is not ready yet", error=str(error))
                await asyncio.sleep(PAUSE_S)
            else:
                return

    async def parse(
        self,
        source: bytes,
        file_format: StructureFormat,
        configs: Sequence[GraphConfig],
        lane: Lane = INTERACTIVE,
        layers: int = 1,
        *,
        sites: bool = True,
        flow: Flow = INTERNAL,
    ) -> ParsedStructure:
        """Parse a file.

        Args:
            source: content of the file.
            file_format: of the content.
            configs: a graph is built for each.
            lane: of the processes.
            layers: of the deepest network that gets the graphs, for their digests.
            sites: whether to return element and position of every atom.
            flow: client and connection that the file belongs to.

        Raises:
            StructureError: the structure is refused, crashed its process, or took too much processor time.
            ServiceError: `parsing_delayed`, the host is too busy.
        """
        header = FileHeader(file_format, tuple(configs), layers if self._named else 0, sites)
        return await self._parse(source, header, self._lanes[lane], flow)

    async def _parse(
        self, source: bytes, header: FileHeader, lane: ParseLane, flow: Flow = INTERNAL
    ) -> ParsedStructure:
        size, graphs = size_of(source), len(header.configs)
        task = ParseTask(wire.encode_header(header), [source], seconds=self.cost.seconds(size, graphs), flow=flow)
        try:
            return await _reply(task, lane, ParsedStructure)
        finally:
            if task.used_s:
                self.cost.observe(size, graphs, task.used_s)
            del task  # its error refers to this frame, and would keep itself and the content alive

    async def read(self, kind: Kind, pieces: Sequence[bytes], options: Options, flow: Flow = INTERNAL) -> RequestBody:
        """Read a JSON body; those of bulk requests one after the other, in a process of their own.

        Args:
            kind: of the request.
            pieces: of the body.
            options: as of `read_body`.
            flow: client and connection that the body belongs to.

        Raises:
            ServiceError: as `read_body` and `parse`.
            StructureError: as `read_body` and `parse`.
        """
        lane = self._bodies if kind == "bulk" else self._lanes[INTERACTIVE]
        seconds = self.cost.seconds(Size(sum(map(len, pieces)), 0, 0), 0)
        header = wire.encode(wire.BodyHeader(kind, options))
        task = ParseTask(header, pieces, seconds=seconds, exclusive=True, flow=flow)
        try:
            return await _reply(task, lane, RequestBody)
        finally:
            del task

    def close(self) -> None:
        """Stop all processes now."""
        for lane in (*self._lanes.values(), self._bodies):
            lane.close()
        stop_fork_server()


async def _reply(task: ParseTask, lane: ParseLane, expected: type[R]) -> R:
    lane.submit(task)
    try:
        async with asyncio.timeout(lane.max_wait_s):
            reply = await task.future
    except TimeoutError:
        raise parsing_delayed(f"the file was not parsed within {lane.max_wait_s:g} s, as the host is busy") from None
    finally:
        del task
    if isinstance(reply, wire.StructureRefusal):
        raise StructureError(reply.code, reply.detail)
    if isinstance(reply, wire.RequestRefusal):
        raise ServiceError(reply.code, reply.detail)
    if not isinstance(reply, expected):
        raise StructureError("unreadable", wire.CRASHED)
    return reply
