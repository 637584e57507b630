"""Requests on their way in: bodies of three kinds become one form, deadlines."""

import re
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.dependencies import flow_of_request, state_of
from deepergatgnn.service.http.disconnect import unless_gone
from deepergatgnn.service.http.forms import read_form
from deepergatgnn.service.http.security_headers import header
from deepergatgnn.service.messages import Lane
from deepergatgnn.service.parsing.json_bodies import Options, read_body_in_turns, validated
from deepergatgnn.service.parsing.wire import Kind, RequestBody
from deepergatgnn.service.prediction.pipeline import PredictionInput
from deepergatgnn.service.scheduling.admission import Demand
from deepergatgnn.service.scheduling.parse_cost import Size
from deepergatgnn.service.schemas import PredictOptions

PLAIN = frozenset({"chemical/x-cif", "text/plain", "application/octet-stream"})
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
LEAST_MS = 0.001
LANE_OF: Mapping[Kind, Lane] = {"single": "interactive", "bulk": "bulk"}
SHORT_JSON = 128 * 1024  # bytes that the event loop reads itself, in a few milliseconds
NO_OPTIONS = PredictOptions()


def options_of(request: Request) -> PredictOptions:
    """What the query asks for.

    Raises:
        ServiceError: 400, with the first parameter that does not fit.
    """
    if not request.scope["query_string"]:
        return NO_OPTIONS
    query = request.query_params
    given: dict[str, Any] = {name: query[name] for name in ("format", "attention", "embedding") if name in query}
    if "models" in query:
        given["models"] = query.getlist("models")
    return validated(PredictOptions, given)


async def read_posted(request: Request) -> PredictionInput:
    """The request in its one form, from any of the three it may be posted in.

    Raises:
        ClientDisconnect: the client left.
        ServiceError: 400 malformed, 413 too much JSON, 415 unknown media type.
        StructureError: if what JSON holds is refused unread.
    """
    asked = options_of(request)
    content_type = header(request.scope, b"content-type") or ""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/json":
        options = {} if asked is NO_OPTIONS else asked.model_dump(exclude_none=True)
        body = await read_documents(request, "single", options)
        return PredictionInput.of(body, body.items[0])
    if media_type in PLAIN:
        source = b"".join(await _pieces(request))
    elif media_type == "multipart/form-data":
        source = await read_form(content_type, b"".join(await _pieces(request)))
    else:
        detail = (
            f"media type {media_type[:80] or 'none'!r} is not read: post application/json, chemical/x-cif, text/plain "
            "or multipart/form-data"
        )
        raise ServiceError("unknown_media_type", detail)
    wanted = asked.attention != "none", bool(asked.embedding)
    return PredictionInput(source, asked.format or "auto", asked.models or [], *wanted, id=None)


async def read_documents(request: Request, kind: Kind, options: Options) -> RequestBody:
    """What a JSON body asks for, see `read_body`; a long one is read in a parse process, not by the event loop.

    Raises:
        ClientDisconnect, ClientGoneError: the client left.
        ServiceError, StructureError: as `read_body`; the latter also if reading it broke or outlasted its process.
    """
    pieces = await _pieces(request)
    if sum(map(len, pieces)) <= SHORT_JSON:
        return await read_body_in_turns(kind, b"".join(pieces), options)
    state, lane, flow = state_of(request), LANE_OF[kind], flow_of_request(request)
    demand = Demand(state.pool.cost.seconds(Size(sum(map(len, pieces)), 0, 0), 0), 0.0)
    with state.dispatcher.admission.admit(lane, flow, demand) as ticket, ticket.parsing():
        return await unless_gone(request, state.pool.read(kind, pieces, options, flow))


async def _pieces(request: Request) -> list[bytes]:
    """The body as it comes; as `request.stream()`, with less around each piece."""
    pieces, more = [], True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if piece := message.get("body", b""):
            pieces.append(piece)
        more = message.get("more_body", False)
    return pieces


def patience_s(request: Request, most_s: float) -> float:
    """Seconds until the deadline: the service's own, or less if the client says so."""
    given = header(request.scope, b"x-request-deadline-ms")
    if given is None:
        return most_s
    wanted_ms = float(given) if NUMBER.fullmatch(given) else 0.0
    if wanted_ms < LEAST_MS:
        raise ServiceError("malformed", f"X-Request-Deadline-Ms is not a number of at least {LEAST_MS}")
    return min(wanted_ms / 1000, most_s)
