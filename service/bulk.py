"""`POST /predict/batch`: many crystals in one request, each answered or refused by itself."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from deepergatgnn.errors import DeeperGATGNNError
from service.admission import Ticket
from service.direct_route import DirectRoute
from service.errors import ServiceError, counted
from service.intake import patience_s, read_documents
from service.json_bodies import Contents, Fields, source_of
from service.openapi import DEADLINE, refer
from service.parse_cost import Size
from service.prediction import Posted
from service.presence import ClientGoneError, unless_gone
from service.routes import CLIENT_GONE, ERRORS
from service.schemas import BulkRequest, BulkResponse
from service.state import State, flow_of_request, state_of

NDJSON = "application/x-ndjson"
WINDOW_S = 0.5  # predicted seconds of work of one request that are under way at once
WINDOW = (16, 192)  # crystals, at least and at most
LINES = {"type": "string", "description": "A line for each structure: an object as in `results` of the JSON form."}


async def predict_batch(request: Request) -> Response:
    """Post many structures; one that is refused fails alone.

    The results keep the order and the ids of the structures; one without id gets its index. With
    `Accept: application/x-ndjson` they stream as they are ready, one JSON object a line, in whatever order.
    """
    state = state_of(request)
    try:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise ServiceError(415, "unknown_media_type", f"media type {media_type[:80]!r}: post application/json")
        deadline = time.monotonic() + patience_s(request, state.settings.bulk_deadline_s)
        request.state.caller.spend(1)  # for reading the body, whatever is in it
        body = _Body(*await read_documents(request, "bulk", {"most": state.settings.max_bulk}))
        count = len(body.contents)
        request.state.caller.spend(count, paid=1)
        state.catalogue.resolve(body.fields["models"])
        results = _results(state, body, request, deadline)
        if NDJSON in request.headers.get("accept", ""):
            first = await unless_gone(request, _first(results))  # from here on what is refused is a result
            return StreamingResponse(_lines(first, results), media_type=NDJSON)
        return await unless_gone(request, _collected(results, count))
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


async def _collected(results: AsyncGenerator[Result], count: int) -> Response:
    contents = [b""] * count
    async with aclosing(results):
        async for index, content in results:
            contents[index] = content
    return Response(b'{"results":[' + b",".join(contents) + b"]}", media_type="application/json")


async def _results(state: State, body: _Body, request: Request, deadline: float) -> AsyncGenerator[Result]:
    """Index and JSON of each result, as they are ready; some crystals are under way at once, the others wait here."""
    admission = state.dispatcher.admission
    least, most = WINDOW
    at_once = int(min(most, max(least, WINDOW_S / max(admission.typical, 1e-6))))
    count = len(body.contents)
    demand = state.oracle.demand(body.fields["models"], Size.roughly(sum(map(len, body.contents)) // max(1, count)))
    with admission.admit("bulk", flow_of_request(request), demand, count) as ticket:
        ready: asyncio.Queue[asyncio.Task[Result]] = asyncio.Queue()
        waiting = iter(range(len(body.contents)))
        under_way: set[asyncio.Task[Result]] = set()
        try:
            while True:
                while len(under_way) < at_once and (following := next(waiting, None)) is not None:
                    work = _result(state, body, following, request, deadline, ticket)
                    task = asyncio.create_task(work)
                    task.add_done_callback(ready.put_nowait)
                    under_way.add(task)
                    await asyncio.sleep(0)  # others have their turn
                if not under_way:
                    return
                task = await ready.get()
                under_way.discard(task)
                yield task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)


async def _result(state: State, body: _Body, index: int, request: Request, deadline: float, ticket: Ticket) -> Result:
    """One crystal, answered or refused."""
    asked, item = body.fields, body.fields["items"][index]
    try:
        if "refused" in item:
            raise ServiceError(422, *item["refused"])
        source = source_of(item, body.contents[index])
        posted = Posted(
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
        if state.tracing.wanted:
            state.tracing.record(request.state.request_id, answer["formula"], answer["latency_ms"], request.headers)
        return index, orjson.dumps(answer)
    except DeeperGATGNNError as error:
        refused = counted(error)
        return index, orjson.dumps({"id": item["id"], "error": {"code": refused.code, "detail": refused.detail}})
