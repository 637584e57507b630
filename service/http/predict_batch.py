"""`POST /predict/batch`: properties of many crystals, each answered or refused by itself.

Results leave as the client reads them, as JSON or NDJSON, and crystals are started as results leave: so that few
results are buffered.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

import orjson
import structlog
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from deepergatgnn.errors import DeeperGATGNNError
from deepergatgnn.service.errors import ServiceError, unforeseen
from deepergatgnn.service.http.dependencies import Dependencies, dependencies_of, flow_of_request
from deepergatgnn.service.http.disconnect import cancel_on_disconnect
from deepergatgnn.service.http.openapi import body, prediction_responses, reference
from deepergatgnn.service.http.prediction_route import PredictionRoute
from deepergatgnn.service.http.problems import counted
from deepergatgnn.service.http.request_body import DEADLINE_HEADER, read_json_body, time_limit_s
from deepergatgnn.service.lanes import BULK
from deepergatgnn.service.parsing.wire import RequestBody
from deepergatgnn.service.prediction.pipeline import PredictionInput
from deepergatgnn.service.scheduling.admission import Ticket
from deepergatgnn.service.scheduling.parse_cost import Size
from deepergatgnn.service.schemas import BulkRequest, BulkResponse
from deepergatgnn.service.telemetry import metrics

NDJSON = "application/x-ndjson"
WINDOW_S = 0.5  # predicted seconds of work of one request in progress at once
WINDOW = (16, 192)  # least and most crystals in progress, unless their results are large
MAX_BUFFERED = 8 * 1024 * 1024  # bytes of results of one request, those in progress included
MAX_BUFFERED_TOTAL = 64 * 1024 * 1024  # of all requests: beyond it, each has one crystal in progress
WHOLE = 256 * 1024  # bytes of a JSON response that is sent in one piece, with its length
SLOW_S = 0.25  # that a client takes for a result; then its unstarted crystals do not count as waiting for workers
log = structlog.get_logger("api")


Result = tuple[int, bytes]  # index and JSON


async def predict_batch(request: Request) -> Response:
    """Post many structures; one that is refused fails alone.

    The results keep the order and the ids of the structures; one without id gets its index. With
    `Accept: application/x-ndjson` they stream as they are ready, one JSON object a line, in whatever order. A long
    answer is sent as it is computed, and computed as it is read.
    """
    dependencies, caller = dependencies_of(request), request.state.caller
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ServiceError("unknown_media_type", f"media type {media_type[:80]!r}: post application/json")
    deadline = time.monotonic() + time_limit_s(request, dependencies.settings.bulk_deadline_s)
    caller.spend(1)  # for reading the body, whatever is in it
    posted = await read_json_body(request, "bulk", {"most": dependencies.settings.max_bulk})
    caller.spend(len(posted.items), paid=1)
    dependencies.catalogue.resolve(posted.models)
    as_lines = NDJSON in request.headers.get("accept", "")
    results = _results(dependencies, posted, request, deadline, in_order=not as_lines)
    pieces = _encoded(results, as_lines=as_lines)
    # Once the head is sent, the status is too: of lines, at the first result.
    head, complete = await cancel_on_disconnect(request, _head(pieces, 0 if as_lines else WHOLE))
    media_type = NDJSON if as_lines else "application/json"
    if complete:
        return Response(b"".join(head), media_type=media_type)
    return StreamingResponse(_with_rest(head, pieces), media_type=media_type)


LINES = {"type": "string", "description": "A line for each structure: an object as in `results` of the JSON form."}
PREDICT_BATCH = PredictionRoute(
    "/predict/batch",
    predict_batch,
    lane=BULK,
    body_limit="max_bulk_body_mib",
    operation={
        "summary": "Properties of many crystals",
        "parameters": [DEADLINE_HEADER],
        "requestBody": body({"application/json": {"schema": reference(BulkRequest)}}),
        "responses": prediction_responses(
            {"application/json": {"schema": reference(BulkResponse)}, NDJSON: {"schema": LINES}}
        ),
    },
)


async def _encoded(results: AsyncGenerator[Result], *, as_lines: bool) -> AsyncGenerator[bytes]:
    before, between, after, end = (b"", b"", b"\n", b"") if as_lines else (b'{"results":[', b",", b"", b"]}")
    async with aclosing(results):
        async for _, content in results:
            yield before + content + after
            before = between
    if end:
        yield end


async def _head(pieces: AsyncGenerator[bytes], size: int) -> tuple[list[bytes], bool]:
    """Return the first pieces until they exceed a size in bytes, and whether they are all."""
    head: list[bytes] = []
    async for piece in pieces:
        head.append(piece)
        size -= len(piece)
        if size < 0:
            return head, False
    return head, True


async def _with_rest(head: list[bytes], pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(pieces):
        yield b"".join(head)
        head.clear()
        async for piece in pieces:
            yield piece


class _Buffer:
    """Results of one request that its client has not read, and the space reserved for those in progress.

    Attributes:
        total: bytes of all requests.
    """

    total = 0

    def __init__(self) -> None:
        self._results: dict[int, bytes] = {}
        self._bytes = 0
        self._expected = MAX_BUFFERED // WINDOW[0]  # bytes of a result; at first such that the least may be started

    def observe(self, size: int) -> None:
        """Expect results of this size, or of half the size expected so far."""
        self._expected = max(size, self._expected // 2)

    def put(self, index: int, content: bytes) -> None:
        """Add a result."""
        self._results[index] = content
        self._count(len(content))

    def take(self, index: int) -> bytes | None:
        """Remove and return a result, if it is there."""
        content = self._results.pop(index, None)
        if content is not None:
            self._count(-len(content))
        return content

    def has_room(self, in_progress: int) -> bool:
        """Return whether one more crystal may be started."""
        if not self._results and not in_progress:
            return True
        reserved = (in_progress + 1) * self._expected
        return self._bytes + reserved <= MAX_BUFFERED and _Buffer.total + reserved <= MAX_BUFFERED_TOTAL

    def clear(self) -> None:
        """Remove all results."""
        self._results.clear()
        self._count(-self._bytes)

    def _count(self, size: int) -> None:
        self._bytes += size
        _Buffer.total += size


@contextmanager
def _uncounted_while_slow(ticket: Ticket, crystals: int) -> Iterator[None]:
    """Exclude crystals from those that wait for workers while the client takes long to read a result."""
    excluded = 0

    def exclude() -> None:
        nonlocal excluded
        excluded = crystals
        ticket.hold(excluded)

    handle = asyncio.get_running_loop().call_later(SLOW_S, exclude)
    try:
        yield
    finally:
        handle.cancel()
        ticket.resume(excluded)


async def _results(
    dependencies: Dependencies, posted: RequestBody, request: Request, deadline: float, *, in_order: bool
) -> AsyncGenerator[Result]:
    """Yield each result; a window of crystals is in progress at once, the others wait here.

    Args:
        dependencies: of the process.
        posted: body of the request.
        request: for its id, flow and headers.
        deadline: of all crystals.
        in_order: as they were posted; else as they are ready.
    """
    admission = dependencies.admission
    least, most = WINDOW
    window = int(min(most, max(least, WINDOW_S / max(admission.typical, 1e-6))))
    count, started, yielded = len(posted.items), 0, 0
    size = Size.roughly(sum(len(item.content) for item in posted.items) // max(1, count))
    demand = dependencies.pipeline.demand(posted.models, size)
    with admission.admit(BULK, flow_of_request(request), demand, count) as ticket:
        ready: asyncio.Queue[asyncio.Task[Result]] = asyncio.Queue()
        in_progress: set[asyncio.Task[Result]] = set()
        buffer = _Buffer()
        try:
            while yielded < count:
                while started < count and len(in_progress) < window and buffer.has_room(len(in_progress)):
                    task = asyncio.create_task(_result(dependencies, posted, started, request, deadline, ticket))
                    task.add_done_callback(ready.put_nowait)
                    in_progress.add(task)
                    started += 1
                    await asyncio.sleep(0)  # let other tasks run
                index, content = yielded, buffer.take(yielded)
                if content is None:
                    task = await ready.get()
                    in_progress.discard(task)
                    index, content = task.result()
                    buffer.observe(len(content))
                    if in_order and index != yielded:
                        buffer.put(index, content)
                        continue
                yielded += 1
                with _uncounted_while_slow(ticket, count - started):
                    yield index, content
        finally:
            if started < count:
                metrics.ABANDONED.labels("gone").inc(count - started)
            buffer.clear()
            for task in in_progress:
                task.cancel()
            await asyncio.gather(*in_progress, return_exceptions=True)


async def _result(
    dependencies: Dependencies, posted: RequestBody, index: int, request: Request, deadline: float, ticket: Ticket
) -> Result:
    """Return the answer or the error of one crystal."""
    item, request_id = posted.items[index], request.state.request_id
    if item.refusal is not None:
        return index, _error(item.id or str(index), ServiceError(*item.refusal))
    try:
        crystal = PredictionInput.of(posted, item)
        answer = await dependencies.pipeline.answer(
            crystal, request_id=request_id, started=time.perf_counter(), deadline=deadline, lane=BULK, ticket=ticket
        )
        if dependencies.tracing.enabled:
            dependencies.tracing.record(request_id, answer["formula"], answer["latency_ms"], request.headers)
        return index, orjson.dumps(answer)
    except DeeperGATGNNError as error:
        return index, _error(item.id or str(index), error)
    except Exception:  # the other crystals have their results, and the status is sent
        log.exception("unexpected", request_id=request_id)
        return index, _error(item.id or str(index), unforeseen())


def _error(item_id: str, error: DeeperGATGNNError) -> bytes:
    found = counted(error)
    return orjson.dumps({"id": item_id, "error": {"code": found.code, "detail": found.detail}})
