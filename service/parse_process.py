"""A parse process: files come in through a socket, graphs go out; it can be killed at any moment.

Frames, both ways: two lengths, JSON, then bytes. Nothing is unpickled, so that a parser that a
file has taken over cannot take over who reads its answers.
"""

import ctypes
import math
import os
import resource
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import orjson

from deepergatgnn.crystal_graph import GraphConfig
from deepergatgnn.errors import StructureError
from service.collector import tame_collector
from service.json_bodies import Fields, Kind, Options, read_body
from service.parsing import Parsed, from_document, parse, to_document
from service.refusals import ServiceError

LENGTH = struct.Struct("<II")  # of the JSON, of the bytes after it
CPU_SPARE_S = 2  # beyond the wall time, at which whoever started the process kills it
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # flags of unshare(2)


def pack_task(source: bytes | str, file_format: str, configs: Sequence[GraphConfig], rounds: int) -> list[bytes]:
    """A file to parse as a frame in pieces; `rounds` as of `parse`."""
    content = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    head = orjson.dumps(
        {
            "format": file_format,
            "text": isinstance(source, str),
            "configs": _documents(tuple(configs)),
            "rounds": rounds,
        }
    )
    return [LENGTH.pack(len(head), len(content)) + head, content]


def pack_reading(kind: Kind, pieces: Sequence[bytes], options: Options) -> list[bytes]:
    """A JSON body to read as a frame in pieces; the arguments as of `read_body`."""
    head = orjson.dumps({"reads": kind, "options": options})
    return [LENGTH.pack(len(head), sum(map(len, pieces))) + head, *pieces]


@lru_cache(maxsize=64)
def _documents(configs: tuple[GraphConfig, ...]) -> list[dict[str, Any]]:
    return [asdict(config) for config in configs]


def unpack_result(head: bytes, content: memoryview) -> Parsed:
    """What became of a file.

    Raises:
        StructureError: if the structure is refused.
    """
    document, contents = _unpacked(head, content)
    return from_document(document, [bytes(each) for each in contents])


def unpack_reading(head: bytes, content: memoryview) -> tuple[Fields, list[memoryview]]:
    """What became of a JSON body, see `read_body`.

    Raises:
        ServiceError, StructureError: if it is refused.
    """
    document, contents = _unpacked(head, content)
    return document["fields"], contents


def _unpacked(head: bytes, content: memoryview) -> tuple[dict[str, Any], list[memoryview]]:
    document: dict[str, Any] = orjson.loads(head)
    if "refused" in document:
        raise StructureError(*document["refused"])
    if "answered" in document:
        raise ServiceError(*document["answered"])
    contents, place = [], 0
    for size in document.pop("sizes"):
        contents.append(content[place : place + size])
        place += size
    return document, contents


def serve(connection: socket.socket, memory_mib: int, niceness: int, timeout_s: float) -> None:
    """The life of a parse process: until the other end closes the socket, or a file that loops outlives who sent it."""
    _confine(memory_mib, niceness)
    tame_collector()
    with connection, connection.makefile("rb", buffering=1 << 16) as stream:
        connection.setblocking(True)  # noqa: FBT003 - the name of the method says it
        while lengths := stream.read(LENGTH.size):
            head_size, content_size = LENGTH.unpack(lengths)
            head, content = stream.read(head_size), stream.read(content_size)
            _limit_time(timeout_s)
            connection.sendall(_result(orjson.loads(head), content))


def _result(head: dict[str, Any], content: bytes) -> bytes:
    document: dict[str, Any]
    contents: list[bytes]
    try:
        document, contents = _read(head, content) if "reads" in head else _parsed(head, content)
    except ServiceError as error:
        document, contents = {"answered": [error.status, error.code, error.detail]}, []
    except StructureError as error:
        document, contents = {"refused": [error.code, error.detail]}, []
    except (MemoryError, RecursionError):
        detail = "reading the file took too much memory: post a smaller, plainer one"
        document, contents = {"refused": ["unreadable", detail]}, []
    document["sizes"] = [len(part) for part in contents]
    packed = orjson.dumps(document)
    return LENGTH.pack(len(packed), sum(document["sizes"])) + packed + b"".join(contents)


def _read(head: dict[str, Any], content: bytes) -> tuple[dict[str, Any], list[bytes]]:
    fields, contents = read_body(head["reads"], content, head["options"])
    return {"fields": fields}, contents


def _parsed(head: dict[str, Any], content: bytes) -> tuple[dict[str, Any], list[bytes]]:
    configs = [GraphConfig(**config) for config in head["configs"]]
    source = content.decode("utf-8", "surrogatepass") if head["text"] else content
    return to_document(parse(source, head["format"], configs, head["rounds"]))


def _confine(memory_mib: int, niceness: int) -> None:
    """Little memory, no file to write, and no network where the system lets a process give it up."""
    size = memory_mib * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    os.nice(niceness)
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is not None:
        unshare(_NEW_USER | _NEW_NET)  # refused by some systems, which then say so with -1


def _limit_time(timeout_s: float) -> None:
    """The processor time that the next file may take; the hard limit stays, so that one after it may have more."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    most = math.ceil(time.process_time() + timeout_s) + CPU_SPARE_S
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
