"""`POST /predict/batch`: many crystals in one request, each answered or refused by itself.

Answers leave as the client takes them, in either form. Until then few are kept: crystals are begun as answers leave.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import NamedTuple

import orjson
import structlog
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from deepergatgnn.errors import DeeperGATGNNError
from deepergatgnn.service.errors import ServiceError, unforeseen
from deepergatgnn.service.http.dependencies import State, flow_of_request, state_of
from deepergatgnn.service.http.direct_route import DirectRoute
from deepergatgnn.service.http.disconnect import ClientGoneError, unless_gone
from deepergatgnn.service.http.openapi import DEADLINE, refer
from deepergatgnn.service.http.problems import counted
from deepergatgnn.service.http.request_body import patience_s, read_documents
from deepergatgnn.service.http.routes import CLIENT_GONE, ERRORS
from deepergatgnn.service.parsing.json_bodies import Contents, Fields, source_of
from deepergatgnn.service.prediction.pipeline import PredictionInput
from deepergatgnn.service.scheduling.admission import Ticket
from deepergatgnn.service.scheduling.parse_cost import Size
from deepergatgnn.service.schemas import BulkRequest, BulkResponse
from deepergatgnn.service.telemetry import metrics

NDJSON = "application/x-ndjson"
WINDOW_S = 0.5  # predicted seconds of work of one request that are under way at once
WINDOW = (16, 192)  # crystals, at least and at most, unless their answers are large
MOST_KEPT = 8 * 1024 * 1024  # bytes of answers of one request that may be kept, those under way included
MOST_KEPT_BY_ALL = 64 * 1024 * 1024  # of all requests: beyond it, each has one crystal under way
WHOLE = 256 * 1024  # bytes of a JSON answer that is sent in one piece, with its length
SLOW_S = 0.25  # that a client takes for an answer; then its other crystals do not count as waiting for workers
log = structlog.get_logger("api")
LINES = {"type": "string", "description": "A line for each structure: an object as in `results` of the JSON form."}


async def predict_batch(request: Request) -> Response:
    """Post many structures; one that is refused fails alone.

    The results keep the order and the ids of the structures; one without id gets its index. With
    `Accept: application/x-ndjson` they stream as they are ready, one JSON object a line, in whatever order. A long
    answer is sent as it is computed, and computed as it is read.
    """
    state = state_of(request)
    try:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise ServiceError("unknown_media_type", f"media type {media_type[:80]!r}: post application/json")
        deadline = time.monotonic() + patience_s(request, state.settings.bulk_deadline_s)
        request.state.caller.spend(1)  # for reading the body, whatever is in it
        body = _Body(*await read_documents(request, "bulk", {"most": state.settings.max_bulk}))
        count = len(body.contents)
        request.state.caller.spend(count, paid=1)
        state.catalogue.resolve(body.fields["models"])
        lines = NDJSON in request.headers.get("accept", "")
        results = _results(state, body, request, deadline, in_order=not lines)
        if lines:
            first = await unless_gone(request, _first(results))  # from here on what is refused is a result
            return StreamingResponse(_lines(first, results), media_type=NDJSON)
        pieces = _json(results)
        begun, whole = await unless_gone(request, _begun(pieces))
        if whole:
            return Response(b"".join(begun), media_type="application/json")
        return StreamingResponse(_continued(begun, pieces), media_type="application/json")
    except (ClientGoneError, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    except DeeperGATGNNError as error:
        raise counted(error) from None


PREDICT_BATCH = DirectRoute(
    "/predict/batch",
    predict_batch,
    response_model=BulkResponse,
    responses=ERRORS | {200: {"content": {NDJSON: {"schema": LINES}}}},
    summary="Properties of many crystals",
    parameters=[DEADLINE],
    body={"application/json": {"schema": refer(BulkRequest)}},
)


class _Body(NamedTuple):
    """What was posted, as `read_body` tells it."""

    fields: Fields
    contents: Contents


Result = tuple[int, bytes]


async def _first(results: AsyncGenerator[Result]) -> Result | None:
    return await anext(results, None)


async def _lines(first: Result | None, results: AsyncGenerator[Result]) -> AsyncGenerator[bytes]:
    async with aclosing(results):
        if first is not None:
            yield first[1] + b"\n"
        async for _, content in results:
            yield content + b"\n"


async def _json(results: AsyncGenerator[Result]) -> AsyncGenerator[bytes]:
    """The JSON form, piece by piece."""
    before = b'{"results":['
    async with aclosing(results):
        async for _, content in results:
            yield before + content
            before = b","
    yield b"]}"


async def _begun(pieces: AsyncGenerator[bytes]) -> tuple[list[bytes], bool]:
    """The first pieces, and whether they are all of them."""
    begun, size = [], 0
    async for piece in pieces:
        begun.append(piece)
        size += len(piece)
        if size > WHOLE:
            return begun, False
    return begun, True


async def _continued(begun: list[bytes], pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(pieces):
        yield b"".join(begun)
        begun.clear()
        async for piece in pieces:
            yield piece


class _Kept:
    """Encoded answers of one request that its client has not taken, and room for those of crystals under way.

    Attributes:
        by_all: bytes of all requests.
    """

    by_all = 0

    def __init__(self) -> None:
        self._answers: dict[int, bytes] = {}
        self._bytes = 0
        self._largest = MOST_KEPT // WINDOW[0]  # bytes, of those seen; before any, so that the least may be under way

    def learn(self, size: int) -> None:
        """Expect answers of that size, or a little less than those before."""
        self._largest = max(size, self._largest // 2)

    def put(self, index: int, content: bytes) -> None:
        """Keep an answer."""
        self._answers[index] = content
        self._count(len(content))

    def take(self, index: int) -> bytes | None:
        """Give an answer away, if it is there."""
        content = self._answers.pop(index, None)
        if content is not None:
            self._count(-len(content))
        return content

    def has_room(self, under_way: int) -> bool:
        """Whether one more crystal may be begun while so many are under way."""
        if not self._answers and not under_way:
            return True
        wanted = (under_way + 1) * self._largest
        return self._bytes + wanted <= MOST_KEPT and _Kept.by_all + wanted <= MOST_KEPT_BY_ALL

    def clear(self) -> None:
        """Keep nothing."""
        self._answers.clear()
        self._count(-self._bytes)

    def _count(self, size: int) -> None:
        self._bytes += size
        _Kept.by_all += size


@contextmanager
def _held_while_slow(ticket: Ticket, crystals: int) -> Iterator[None]:
    """Do not count crystals as waiting for workers while they wait for the client to take an answer."""
    held = 0

    def hold() -> None:
        nonlocal held
        held = crystals
        ticket.hold(held)

    handle = asyncio.get_running_loop().call_later(SLOW_S, hold)
    try:
        yield
    finally:
        handle.cancel()
        ticket.resume(held)


async def _results(
    state: State, body: _Body, request: Request, deadline: float, *, in_order: bool
) -> AsyncGenerator[Result]:
    """Index and JSON of each result; some crystals are under way at once, the others wait here.

    Args:
        state: of the process.
        body: of the request.
        request: that is answered.
        deadline: of all crystals.
        in_order: as they were posted; else as they are ready.
    """
    admission = state.dispatcher.admission
    least, most = WINDOW
    count, begun, given = len(body.contents), 0, 0
    at_once = int(min(most, max(least, WINDOW_S / max(admission.typical, 1e-6))))
    count = len(body.contents)
    demand = state.oracle.demand(body.fields["models"], Size.roughly(sum(map(len, body.contents)) // max(1, count)))
    with admission.admit("bulk", flow_of_request(request), demand, count) as ticket:
        ready: asyncio.Queue[asyncio.Task[Result]] = asyncio.Queue()
        under_way: set[asyncio.Task[Result]] = set()
        kept = _Kept()
        try:
            while given < count:
                while begun < count and len(under_way) < at_once and kept.has_room(len(under_way)):
                    task = asyncio.create_task(_result(state, body, begun, request, deadline, ticket))
                    task.add_done_callback(ready.put_nowait)
                    under_way.add(task)
                    begun += 1
                    await asyncio.sleep(0)  # others have their turn
                index, content = given, kept.take(given)
                if content is None:
                    task = await ready.get()
                    under_way.discard(task)
                    index, content = task.result()
                    kept.learn(len(content))
                    if in_order and index != given:
                        kept.put(index, content)
                        continue
                given += 1
                with _held_while_slow(ticket, count - begun):
                    yield index, content
        finally:
            if begun < count:
                metrics.ABANDONED.labels("gone").inc(count - begun)
            kept.clear()
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)


async def _result(state: State, body: _Body, index: int, request: Request, deadline: float, ticket: Ticket) -> Result:
    """One crystal, answered or refused."""
    asked, item = body.fields, body.fields["items"][index]
    if "refused" in item:
        return index, _refusal(item["id"], ServiceError(*item["refused"]))
    try:
        source = source_of(item, body.contents[index])
        posted = PredictionInput(
            source, item["format"], asked["models"], asked["attention"] != "none", asked["embedding"], item["id"]
        )
        answer = await state.oracle.answer(
            posted,
            request_id=request.state.request_id,
            started=time.perf_counter(),
            deadline=deadline,
            lane="bulk",
            ticket=ticket,
        )
        if state.tracing.enabled:
            state.tracing.record(request.state.request_id, answer["formula"], answer["latency_ms"], request.headers)
        return index, orjson.dumps(answer)
    except DeeperGATGNNError as error:
        return index, _refusal(item["id"], error)
    except Exception:  # the others have their answers, and the status is sent
        log.exception("unexpected", request_id=request.state.request_id)
        return index, _refusal(item["id"], unforeseen())


def _refusal(name: str, error: DeeperGATGNNError) -> bytes:
    refused = counted(error)
    return orjson.dumps({"id": name, "error": {"code": refused.code, "detail": refused.detail}})
