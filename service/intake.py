"""Requests on their way in: bodies of three kinds become one form, deadlines, clients that leave."""

import asyncio
import re
import sys
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from enum import IntEnum
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import ServiceError
from service.prediction import Posted
from service.schemas import Attention, Format, PredictRequest

PLAIN = frozenset({"chemical/x-cif", "text/plain", "application/octet-stream"})
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
LEAST_MS = 0.001
CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252"})
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class JsonLimit(IntEnum):
    """Most brackets, braces and colons of a JSON body: each may become an object, which holds up everybody."""

    SINGLE = 100_000  # a site of pymatgen's has 13, or 15 with properties
    BULK = 1_250_000  # 16 MiB of pymatgen's structures have about as many


class _Form(MultiPartParser):
    """A form in memory: its size is bounded, that of the disk for temporary files is not known."""

    spool_max_size = sys.maxsize


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


async def read_posted(
    request: Request, file_format: Format | None, models: list[str] | None, attention: Attention | None
) -> Posted:
    """The request in its one form, from any of the three it may be posted in.

    Raises:
        ServiceError: 400 malformed, 413 too much JSON, 415 unknown media type.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        document = read_json(await request.body(), JsonLimit.SINGLE)
        for key, value in (("format", file_format), ("models", models), ("attention", attention)):
            if value is not None:
                document.setdefault(key, value)
        body = validated(PredictRequest, document)
        return Posted(body.structure, body.format, body.models, body.attention != "none", body.id)
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
    return Posted(
        source=source, format=file_format or "auto", models=models or [], attention=attention != "none", id=None
    )


def validated(schema: type[M], document: object) -> M:
    """The document as its schema.

    Raises:
        ServiceError: 400, with the first place that does not fit.
    """
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ServiceError(400, "malformed", f"{where}: {first['msg']}") from None


def read_json(body: bytes, limit: JsonLimit) -> dict[str, Any]:
    """The object that a body is.

    Raises:
        ServiceError: 400, if it is none; 413, if reading it would take too long.
    """
    marks = sum(body.count(mark) for mark in b"[{:") if len(body) > limit else 0
    if marks > limit:
        what = "fewer structures at once" if limit is JsonLimit.BULK else "the structure alone"
        detail = f"the JSON has {marks:,} brackets, braces and colons, and {limit:,} may be posted: post {what}"
        raise ServiceError(413, "too_many_bytes", detail)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ServiceError(400, "malformed", f"the body is not JSON: {error}") from None
    if not isinstance(document, Mapping):
        raise ServiceError(400, "malformed", 'the body is not a JSON object: post {"structure": "..."}')
    return dict(document)


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
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        del task  # else its error, which knows this frame, would keep itself and the body alive


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
