"""JSON bodies of requests: their options, and each structure as bytes of its own.

Reading 16 MiB of JSON would block the event loop for a third of a second, so that parse processes read long bodies. The
event loop passes the structures on as bytes and does not decode them.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from deepergatgnn.errors import StructureError
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.parsing.wire import BodyItem, Kind, RequestBody
from deepergatgnn.service.schemas import BulkItem, BulkRequest, PredictRequest
from deepergatgnn.structures import StructureFormat
from deepergatgnn.structures.json_objects import check_no_repeats
from deepergatgnn.structures.limits import DEFAULT_LIMITS
from deepergatgnn.structures.text import clean_text

Options = dict[str, Any]
MAX_CHECKED_BYTES = 128 * 1024  # of which the check for repeated keys takes two milliseconds
ITEMS_PER_TURN = 32  # of the event loop
_NOT_FINITE = re.compile(rb'("(?:[^"\\]|\\.)*+")|-?\b(?:NaN|Infinity)\b', re.DOTALL)
M = TypeVar("M", bound=BaseModel)


class JsonLimit(IntEnum):
    """Most brackets, braces and colons of a JSON body: each may become an object, which takes memory and time."""

    SINGLE = 100_000  # a site of pymatgen's has 13, or 15 with properties
    BULK = 1_250_000  # 16 MiB of pymatgen's structures have about as many


def read_body(kind: Kind, body: bytes, options: Options) -> RequestBody:
    """Read a JSON body.

    Args:
        kind: of the request.
        body: JSON.
        options: of a single structure, fields that the body may override; of a bulk request, `most` structures.

    Raises:
        ServiceError: `malformed`, `too_many_bytes`, `too_many_structures`.
        StructureError: the only structure is refused unread.
    """
    if kind == "single":
        return _read_single(body, options)
    request = _read_bulk(body, options)
    return _request_body(request, [_item(index, item) for index, item in enumerate(request.structures)])


async def read_body_in_turns(kind: Kind, body: bytes, options: Options) -> RequestBody:
    """Read a JSON body as `read_body`, with turns for others between the items of a bulk request."""
    if kind == "single":
        return _read_single(body, options)
    request = _read_bulk(body, options)
    items = []
    for index, item in enumerate(request.structures):
        if index % ITEMS_PER_TURN == ITEMS_PER_TURN - 1:
            await asyncio.sleep(0)
        items.append(_item(index, item))
    return _request_body(request, items)


def read_json(body: bytes, limit: JsonLimit) -> dict[str, Any]:
    """Read the JSON object of a body.

    Raises:
        ServiceError: `malformed`, or `too_many_bytes` if reading it would take too long.
    """
    marks = sum(body.count(mark) for mark in b"[{:") if len(body) > limit else 0
    if marks > limit:
        remedy = "fewer structures at once" if limit is JsonLimit.BULK else "the structure alone"
        detail = f"the JSON has {marks:,} brackets, braces and colons, the limit is {limit:,}: post {remedy}"
        raise ServiceError("too_many_bytes", detail)
    try:
        document = _loads(body)
    except orjson.JSONDecodeError as error:
        raise ServiceError("malformed", f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ServiceError("malformed", 'the body is not a JSON object: post {"structure": "..."}')
    return document


def validated(schema: type[M], document: object) -> M:
    """Validate a document.

    Raises:
        ServiceError: `malformed`, with the first invalid field.
    """
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ServiceError("malformed", f"{where}: {first['msg']}") from None


def _loads(body: bytes) -> Any:
    """Read JSON, with `NaN` and `Infinity` as null: Python and pymatgen write them for an unknown property."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if not any(name in body for name in (b"NaN", b"Infinity")):
            raise
        # Strings, which may contain these words, are matched first and kept.
        return orjson.loads(_NOT_FINITE.sub(lambda found: found[1] or b"null", body))


def _read_single(body: bytes, defaults: Mapping[str, Any]) -> RequestBody:
    document = read_json(body, JsonLimit.SINGLE)
    if len(body) <= MAX_CHECKED_BYTES:
        check_no_repeats(body)  # orjson keeps the last
    request = validated(PredictRequest, {**defaults, **document})
    return _request_body(request, [BodyItem(request.id, *split_structure(request))])


def _read_bulk(body: bytes, options: Options) -> BulkRequest:
    request = validated(BulkRequest, read_json(body, JsonLimit.BULK))
    count, most = len(request.structures), options["most"]
    if count > most:
        raise ServiceError("too_many_structures", f"{count} structures, {most} may be posted")
    return request


def _request_body(request: PredictRequest | BulkRequest, items: Sequence[BodyItem]) -> RequestBody:
    return RequestBody(request.models, request.attention != "none", request.embedding, list(items))


def _item(index: int, item: Any) -> BodyItem:
    name = item.get("id") if isinstance(item, dict) else None
    name = name if isinstance(name, str) else str(index)
    try:
        return BodyItem(name, *split_structure(validated(BulkItem, item)))
    except (ServiceError, StructureError) as error:
        return BodyItem(name, refusal=(error.code, error.detail))


def split_structure(request: PredictRequest | BulkItem) -> tuple[StructureFormat, memoryview]:
    """Return format and bytes of a structure: UTF-8 of a text, JSON of an object.

    Raises:
        StructureError: it is too long, or nested too deeply.
    """
    file_format, structure = request.format, request.structure
    if isinstance(structure, str):
        content = structure.encode()
    else:
        file_format = "json"
        try:
            content = orjson.dumps(structure)
        except TypeError:  # the limit of writing is below that of reading
            raise StructureError("unreadable", "The object is nested too deeply: post a plain structure.") from None
    if len(content) > DEFAULT_LIMITS.max_bytes:
        clean_text(content, DEFAULT_LIMITS)  # raises
    return file_format, memoryview(content)
