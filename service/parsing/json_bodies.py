"""JSON bodies: what they ask for, and each structure of theirs as a text of its own.

Reading 16 MiB takes a third of a second, during which a process does nothing else; so a long body is read in a parse
process. What comes back says what was asked in a few small fields, and has the structures beside them as bytes, which
the event loop hands on and never looks into.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from deepergatgnn.errors import StructureError
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.schemas import BulkItem, BulkRequest, PredictRequest
from deepergatgnn.structures.json_objects import check_no_repeats
from deepergatgnn.structures.limits import DEFAULT_LIMITS
from deepergatgnn.structures.text import clean_text

Kind = Literal["single", "bulk"]
Options = Mapping[str, Any]
Fields = dict[str, Any]
Contents = Sequence[bytes] | Sequence[memoryview]
_LONGEST_CHECKED = 128 * 1024  # bytes, which the check takes two milliseconds for
ITEMS_A_TURN = 32  # read at once by the event loop
_NOT_FINITE = re.compile(rb'("(?:[^"\\]|\\.)*+")|-?\b(?:NaN|Infinity)\b', re.DOTALL)
M = TypeVar("M", bound=BaseModel)


class JsonLimit(IntEnum):
    """Most brackets, braces and colons of a JSON body: each may become an object, which takes memory and time."""

    SINGLE = 100_000  # a site of pymatgen's has 13, or 15 with properties
    BULK = 1_250_000  # 16 MiB of pymatgen's structures have about as many


def read_body(kind: Kind, body: bytes, options: Options) -> tuple[Fields, list[bytes]]:
    """What a body asks for, and the content of each structure.

    Args:
        kind: of the request.
        body: JSON.
        options: for a single structure, fields that hold unless the body has them; for bulk, `most` structures.

    Returns:
        For a single structure the fields of `PredictRequest`, and whether the content `is_text`. For bulk those of
        `BulkRequest`, and the same for each of its `items`, or why it is `refused`; its content is then empty.

    Raises:
        ServiceError: 400 malformed, 413 too much of it.
        StructureError: if the only structure is refused unread.
    """
    return _READERS[kind](body, options)


def source_of(fields: Fields, content: bytes | memoryview) -> bytes | str:
    """The content as it was posted: text, or JSON of an object."""
    return str(content, "utf-8") if fields["is_text"] else bytes(content)


def read_json(body: bytes, limit: JsonLimit) -> dict[str, Any]:
    """The object that a body is.

    Raises:
        ServiceError: 400, if it is none; 413, if reading it would take too long.
    """
    marks = sum(body.count(mark) for mark in b"[{:") if len(body) > limit else 0
    if marks > limit:
        what = "fewer structures at once" if limit is JsonLimit.BULK else "the structure alone"
        detail = f"the JSON has {marks:,} brackets, braces and colons, and {limit:,} may be posted: post {what}"
        raise ServiceError("too_many_bytes", detail)
    try:
        document = _loads(body)
    except orjson.JSONDecodeError as error:
        raise ServiceError("malformed", f"the body is not JSON: {error}") from None
    if not isinstance(document, Mapping):
        raise ServiceError("malformed", 'the body is not a JSON object: post {"structure": "..."}')
    return dict(document)


def _loads(body: bytes) -> Any:
    """Read JSON, in which `NaN` and `Infinity` are null: Python and pymatgen write them for an unknown property."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if not any(name in body for name in (b"NaN", b"Infinity")):
            raise
        # Of the texts of a body, which may hold these words, each is left as it is.
        return orjson.loads(_NOT_FINITE.sub(lambda found: found[1] or b"null", body))


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
        raise ServiceError("malformed", f"{where}: {first['msg']}") from None


def _read_single(body: bytes, options: Options) -> tuple[Fields, list[bytes]]:
    document = read_json(body, JsonLimit.SINGLE)
    if len(body) <= _LONGEST_CHECKED:
        check_no_repeats(body)  # orjson keeps the last
    for key, value in options.items():
        document.setdefault(key, value)
    asked = validated(PredictRequest, document)
    fields, content = _apart(asked)
    return fields | _options(asked) | {"id": asked.id}, [content]


async def read_body_in_turns(kind: Kind, body: bytes, options: Options) -> tuple[Fields, list[bytes]]:
    """The same as `read_body`, for the event loop: others have their turn between items."""
    if kind == "single":
        return read_body(kind, body, options)
    asked = _opened(body, options)
    read = []
    for index, item in enumerate(asked.structures):
        if index % ITEMS_A_TURN == ITEMS_A_TURN - 1:
            await asyncio.sleep(0)
        read.append(_read_item(index, item))
    return _bulk(asked, read)


def _read_bulk(body: bytes, options: Options) -> tuple[Fields, list[bytes]]:
    asked = _opened(body, options)
    return _bulk(asked, [_read_item(index, item) for index, item in enumerate(asked.structures)])


def _opened(body: bytes, options: Options) -> BulkRequest:
    asked = validated(BulkRequest, read_json(body, JsonLimit.BULK))
    count, most = len(asked.structures), options["most"]
    if count > most:
        raise ServiceError("too_many_structures", f"{count} structures, {most} may be posted")
    return asked


def _bulk(asked: BulkRequest, read: Sequence[tuple[Fields, bytes]]) -> tuple[Fields, list[bytes]]:
    return _options(asked) | {"items": [item for item, _ in read]}, [content for _, content in read]


def _options(asked: PredictRequest | BulkRequest) -> Fields:
    """What is to be said of every structure of the body."""
    return {"models": asked.models, "attention": asked.attention, "embedding": asked.embedding}


def _read_item(index: int, item: Any) -> tuple[Fields, bytes]:
    name = item.get("id") if isinstance(item, dict) else None
    named = {"id": name if isinstance(name, str) else str(index)}
    try:
        fields, content = _apart(validated(BulkItem, item))
    except (ServiceError, StructureError) as error:
        return named | {"refused": [error.code, error.detail]}, b""
    return named | fields, content


def _apart(asked: PredictRequest | BulkItem) -> tuple[Fields, bytes]:
    """The structure as bytes, and what is to be known of them.

    Raises:
        StructureError: if it is too long or too deep to be read.
    """
    structure = asked.structure
    if isinstance(structure, str):
        fields, content = {"format": asked.format, "is_text": True}, structure.encode()
    else:
        try:
            fields, content = {"format": "json", "is_text": False}, orjson.dumps(structure)
        except TypeError:  # nested deeper than it may be written, though not deeper than it may be read
            raise StructureError("unreadable", "The object is nested too deeply: post a plain structure.") from None
    if len(content) > DEFAULT_LIMITS.max_bytes:
        clean_text(content, DEFAULT_LIMITS)  # says so: it need not go any further
    return fields, content


_READERS: Mapping[Kind, Callable[[bytes, Options], tuple[Fields, list[bytes]]]] = {
    "single": _read_single,
    "bulk": _read_bulk,
}
