"""Bodies of three kinds in one form, query options, and the deadline header."""

import re
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.dependencies import dependencies_of, flow_of_request
from deepergatgnn.service.http.disconnect import cancel_on_disconnect
from deepergatgnn.service.http.forms import read_form
from deepergatgnn.service.http.security_headers import header
from deepergatgnn.service.lanes import BULK, INTERACTIVE, Lane
from deepergatgnn.service.parsing.json_bodies import Options, read_body_in_turns, validated
from deepergatgnn.service.parsing.wire import Kind, RequestBody
from deepergatgnn.service.prediction.pipeline import PredictionInput
from deepergatgnn.service.scheduling.admission import Demand
from deepergatgnn.service.scheduling.parse_cost import Size
from deepergatgnn.service.schemas import PredictOptions

PLAIN = frozenset({"chemical/x-cif", "text/plain", "application/octet-stream"})
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
MIN_DEADLINE_MS = 0.001
DEADLINE_HEADER = {
    "name": "X-Request-Deadline-Ms",
    "in": "header",
    "description": "Deadline in ms; may only shorten the service's own.",
    "schema": {"type": "number", "minimum": MIN_DEADLINE_MS},
    "example": 30000,
}
LANE_OF: Mapping[Kind, Lane] = {"single": INTERACTIVE, "bulk": BULK}
SHORT_JSON = 128 * 1024  # bytes that the event loop reads itself, in a few milliseconds
NO_OPTIONS = PredictOptions()


def query_options(request: Request) -> PredictOptions:
    """Return the options of the query.

    Raises:
        ServiceError: 400, with the first invalid parameter.
    """
    if not request.scope["query_string"]:
        return NO_OPTIONS
    query = request.query_params
    given: dict[str, Any] = {name: query[name] for name in ("format", "attention", "embedding") if name in query}
    if "models" in query:
        given["models"] = query.getlist("models")
    return validated(PredictOptions, given)


async def read_prediction_input(request: Request) -> PredictionInput:
    """Return the input of a request, whichever kind of body it has.

    Raises:
        ClientDisconnect: the client disconnected.
        ServiceError: 400 malformed, 413 too much JSON, 415 unknown media type.
        StructureError: the structure in the JSON is refused unread.
    """
    options = query_options(request)
    content_type = header(request.scope, b"content-type") or ""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/json":
        defaults = {} if options is NO_OPTIONS else options.model_dump(exclude_none=True)
        body = await read_json_body(request, "single", defaults)
        return PredictionInput.of(body, body.items[0])
    if media_type in PLAIN:
        source = b"".join(await _pieces(request))
    elif media_type == "multipart/form-data":
        source = await read_form(content_type, b"".join(await _pieces(request)))
    else:
        detail = (
            f"media type {media_type[:80] or 'none'!r} is not supported: post application/json, chemical/x-cif, "
            "text/plain or multipart/form-data"
        )
        raise ServiceError("unknown_media_type", detail)
    outputs = options.attention != "none", bool(options.embedding)
    return PredictionInput(source, options.format or "auto", options.models or [], *outputs, id=None)


async def read_json_body(request: Request, kind: Kind, options: Options) -> RequestBody:
    """Return a JSON body, see `read_body`; a parse process reads a long one.

    Raises:
        ClientDisconnect: the client disconnected.
        ServiceError, StructureError: as `read_body`; the latter also if the parse process crashed or timed out.
    """
    pieces = await _pieces(request)
    size = sum(map(len, pieces))
    if size <= SHORT_JSON:
        return await read_body_in_turns(kind, b"".join(pieces), options)
    dependencies, flow = dependencies_of(request), flow_of_request(request)
    pool, demand = dependencies.parse_pool, Demand(dependencies.parse_pool.cost.seconds(Size(size, 0, 0), 0), 0.0)
    with (
        dependencies.admission.admit(LANE_OF[kind], flow, demand) as ticket,
        ticket.crystal() as crystal,
        crystal.parsing(),
    ):
        return await cancel_on_disconnect(request, pool.read(kind, pieces, options, flow))


async def _pieces(request: Request) -> list[bytes]:
    """Return the body as it arrives; like `request.stream()`, with less overhead."""
    pieces, more = [], True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if piece := message.get("body", b""):
            pieces.append(piece)
        more = message.get("more_body", False)
    return pieces


def time_limit_s(request: Request, max_s: float) -> float:
    """Return the seconds until the deadline: the service's own, or less if the client's header says so.

    Raises:
        ServiceError: 400, the header is no such number.
    """
    given = header(request.scope, b"x-request-deadline-ms")
    if given is None:
        return max_s
    limit_ms = float(given) if NUMBER.fullmatch(given) else 0.0
    if limit_ms < MIN_DEADLINE_MS:
        raise ServiceError("malformed", f"X-Request-Deadline-Ms is not a number of at least {MIN_DEADLINE_MS}")
    return min(limit_ms / 1000, max_s)
