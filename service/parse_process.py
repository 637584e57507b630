"""A parse process: files come in through a socket, graphs go out; it can be killed at any moment.

Frames, both ways: a length, JSON, then as many bytes as the JSON says. Nothing is unpickled, so that a parser that a
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
from service.parsing import Parsed, from_document, parse, to_document

LENGTH = struct.Struct("<II")  # of the JSON, of the bytes after it
CPU_SPARE_S = 2  # beyond the wall time, at which whoever started the process kills it
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # flags of unshare(2)


def pack_task(source: bytes | str, file_format: str, configs: Sequence[GraphConfig], rounds: int) -> bytes:
    """A file to parse as a frame; `rounds` as of `parse`."""
    content = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    head = orjson.dumps(
        {
            "format": file_format,
            "text": isinstance(source, str),
            "configs": _documents(tuple(configs)),
            "rounds": rounds,
        }
    )
    return LENGTH.pack(len(head), len(content)) + head + content


@lru_cache(maxsize=64)
def _documents(configs: tuple[GraphConfig, ...]) -> list[dict[str, Any]]:
    return [asdict(config) for config in configs]


def unpack_result(head: bytes, content: bytes) -> Parsed:
    """What became of a file.

    Raises:
        StructureError: if the structure is refused.
    """
    document: dict[str, Any] = orjson.loads(head)
    if "refused" in document:
        raise StructureError(*document["refused"])
    contents, place = [], 0
    for size in document.pop("sizes"):
        contents.append(content[place : place + size])
        place += size
    return from_document(document, contents)


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
    configs = [GraphConfig(**config) for config in head["configs"]]
    try:
        source = content.decode("utf-8", "surrogatepass") if head["text"] else content
        document, contents = to_document(parse(source, head["format"], configs, head["rounds"]))
    except StructureError as error:
        document, contents = {"refused": [error.code, error.detail]}, []
    except (MemoryError, RecursionError):
        detail = "reading the file took too much memory: post a smaller, plainer one"
        document, contents = {"refused": ["unreadable", detail]}, []
    document["sizes"] = [len(part) for part in contents]
    packed = orjson.dumps(document)
    return LENGTH.pack(len(packed), sum(document["sizes"])) + packed + b"".join(contents)


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
