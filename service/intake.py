"""Requests on their way in: bodies of three kinds become one form, deadlines, clients that leave."""

import asyncio
import re
import sys
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import ServiceError
from service.json_bodies import Contents, Fields, Kind, Options, read_body_in_turns, source_of, validated
from service.prediction import Posted
from service.schemas import PredictOptions
from service.state import state_of

PLAIN = frozenset({"chemical/x-cif", "text/plain", "application/octet-stream"})
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
LEAST_MS = 0.001
SHORT_JSON = 128 * 1024  # bytes that the event loop reads itself, in a few milliseconds
CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252"})
NO_OPTIONS = PredictOptions()
T = TypeVar("T")


class _Form(MultiPartParser):
    """A form in memory: its size is bounded, that of the disk for temporary files is not known."""

    spool_max_size = sys.maxsize


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


def options_of(request: Request) -> PredictOptions:
    """What the query asks for.

    Raises:
        ServiceError: 400, with the first parameter that does not fit.
    """
    if not request.scope["query_string"]:
        return NO_OPTIONS
    query = request.query_params
    given: dict[str, Any] = {name: query[name] for name in ("format", "attention") if name in query}
    if "models" in query:
        given["models"] = query.getlist("models")
    return validated(PredictOptions, given)


async def read_posted(request: Request) -> Posted:
    """The request in its one form, from any of the three it may be posted in.

    Raises:
        ClientGoneError: the client left.
        ServiceError: 400 malformed, 413 too much JSON, 415 unknown media type.
        StructureError: if what JSON holds is refused unread.
    """
    asked = options_of(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    source: bytes | str
    if media_type == "application/json":
        body, [content] = await read_documents(request, "single", asked.model_dump(exclude_none=True))
        source = source_of(body, content)
        return Posted(source, body["format"], body["models"], body["attention"] != "none", body["id"])
    if media_type in PLAIN:
        source = await request.body()
    elif media_type == "multipart/form-data":
        source = await _uploaded(request)
    else:
        detail = (
            f"media type {media_type[:80] or 'none'!r} is not read: post application/json, chemical/x-cif, text/plain "
            "or multipart/form-data"
        )
        raise ServiceError(415, "unknown_media_type", detail)
    return Posted(source, asked.format or "auto", asked.models or [], asked.attention != "none", id=None)


async def read_documents(request: Request, kind: Kind, options: Options) -> tuple[Fields, Contents]:
    """What a JSON body asks for, see `read_body`; a long one is read in a parse process, not by the event loop.

    Raises:
        ClientGoneError: the client left.
        ServiceError, StructureError: as `read_body`; the latter also if reading it broke or outlasted its process.
    """
    async with aclosing(request.stream()) as stream:
        pieces = [piece async for piece in stream if piece]
    if sum(map(len, pieces)) <= SHORT_JSON:
        return await read_body_in_turns(kind, b"".join(pieces), options)
    return await unless_gone(request, state_of(request).pool.read(kind, pieces, options))


async def _uploaded(request: Request) -> bytes:
    _, options = parse_options_header(request.headers["content-type"])
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in CHARSETS:  # Python would look for it, and remember each that it does not know
        raise ServiceError(400, "malformed", f"the form has the charset {charset[:40]!r}: post it in utf-8")
    try:
        async with aclosing(request.stream()) as stream:
            form = await _Form(request.headers, stream, max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise ServiceError(400, "malformed", error.message) from None
    for name in form:
        if name != "file":
            detail = f"the form has a field {name[:80]!r}: post the file as 'file', all else in the query"
            raise ServiceError(400, "malformed", detail)
    file = form.get("file")
    if isinstance(file, UploadFile):
        return await file.read()
    if isinstance(file, str):
        return file.encode()
    raise ServiceError(400, "malformed", "the form has no field 'file'")


def patience_s(request: Request, most_s: float) -> float:
    """Seconds until the deadline: the service's own, or less if the client says so."""
    header = request.headers.get("x-request-deadline-ms")
    if header is None:
        return most_s
    wanted_ms = float(header) if NUMBER.fullmatch(header) else 0.0
    if wanted_ms < LEAST_MS:
        raise ServiceError(400, "malformed", f"X-Request-Deadline-Ms is not a number of at least {LEAST_MS}")
    return min(wanted_ms / 1000, most_s)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which ends early if the client leaves; its body must have been read.

    Raises:
        ClientGoneError: the client left.
    """
    waiting = asyncio.current_task()
    assert waiting is not None  # noqa: S101 - a request is served by a task
    gone = over = False

    def leave(_: object) -> None:
        nonlocal gone
        if not over:
            gone = True
            waiting.cancel()

    watcher = asyncio.ensure_future(_gone(request))
    watcher.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if gone and not waiting.uncancel():  # else somebody else ends the task too
            raise ClientGoneError from None
        raise
    finally:
        over = True
        watcher.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
