"""A parse process: files come in through a socket, graphs go out; it can be killed at any moment.

Files that are at hand together are read one by one and get their graphs at once, which costs less than one by one.
"""

import ctypes
import math
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, MutableSequence, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import orjson

from deepergatgnn.errors import StructureError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.garbage_collector import tune_garbage_collector
from deepergatgnn.service.parsing.featurize import Parsed, ReadFile, from_document, read_file, to_document, with_graphs
from deepergatgnn.service.parsing.frames import Frame, Frames, framed
from deepergatgnn.service.parsing.json_bodies import Fields, Kind, Options, read_body
from deepergatgnn.structures import StructureFormat

TOGETHER = 8  # files whose graphs are built at once
TOGETHER_ATOMS = 256  # of them, beyond which no other file joins
TOGETHER_S = 0.01  # of reading, likewise
CPU_SPARE_S = 2  # beyond the limit at which the parent kills the process
T = TypeVar("T")
Progress = MutableSequence[float]  # in shared memory, written by the process but for the last
# Its items: files begun so far; whether the graphs of several are being built; the processor time of the process when
# it began with what it is at; and, of whoever sends the files, how many of those sent so far need not be begun.
BEGUN, BUILDING, SINCE, RECALLED = range(4)
Task = tuple[bytes, Sequence[bytes]]  # head and content of a frame
_NOTHING = b"".join(framed(b"", ()))  # the answer for a file that was recalled
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # flags of unshare(2)


def pack_task(
    source: bytes | str, file_format: str, configs: Sequence[GraphConfig], *, rounds: int, sites: bool
) -> Task:
    """A file to parse; the arguments as of `parse`."""
    content = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    head = orjson.dumps(
        {
            "format": file_format,
            "text": isinstance(source, str),
            "configs": _documents(tuple(configs)),
            "rounds": rounds,
            "sites": sites,
        }
    )
    return head, [content]


def pack_reading(kind: Kind, pieces: Sequence[bytes], options: Options) -> Task:
    """A JSON body to read; the arguments as of `read_body`."""
    return orjson.dumps({"reads": kind, "options": options}), pieces


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


def serve(connection: socket.socket, progress: Progress, memory_mib: int, niceness: int, timeout_s: float) -> None:
    """The life of a parse process: until the other end closes the socket, or a file that loops outlives who sent it."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole process group; the parent ends this process
        signal.signal(number, signal.SIG_IGN)
    _confine(memory_mib, niceness)
    tune_garbage_collector()
    with connection:
        connection.setblocking(True)  # noqa: FBT003 - the name of the method says it
        frames = Frames(connection)
        while (frame := frames.wait()) is not None:
            begun = [_begun(frame, progress, timeout_s)]
            until = time.monotonic() + TOGETHER_S
            while not frame.alone and _may_grow(begun, until) and (following := frames.at_hand()) is not None:
                begun.append(_begun(following, progress, timeout_s))
            if len(begun) > 1:
                progress[SINCE] = time.process_time()
                progress[BUILDING] = 1
            connection.sendall(b"".join(_ended(begun)))
            progress[SINCE] = time.process_time()
            progress[BUILDING] = 0


def _may_grow(begun: Sequence[ReadFile | bytes], until: float) -> bool:
    """Whether one more file may join: who came first waits for all."""
    atoms = sum(each.crystal.n_atoms for each in begun if isinstance(each, ReadFile))
    return len(begun) < TOGETHER and atoms < TOGETHER_ATOMS and time.monotonic() < until


class _TaskHeader(NamedTuple):
    """What the head of a frame asks for: to read a JSON body of some kind, or to parse a file."""

    reads: Kind | None = None
    options: Options = MappingProxyType({})
    format: StructureFormat = "auto"
    text: bool = False
    configs: tuple[GraphConfig, ...] = ()
    rounds: int = 0
    sites: bool = False


@lru_cache(maxsize=64)
def _order(head: bytes) -> _TaskHeader:
    asked: dict[str, Any] = orjson.loads(head)
    configs = tuple(GraphConfig(**config) for config in asked.pop("configs", ()))
    return _TaskHeader(**asked, configs=configs)


def _begun(frame: Frame, progress: Progress, timeout_s: float) -> ReadFile | bytes:
    """A file as it was read, or the answer, where there is one already: an empty one if the file was recalled."""
    progress[SINCE] = time.process_time()  # before the count: else the time of the last file would be this one's
    progress[BEGUN] += 1
    if progress[BEGUN] <= progress[RECALLED]:
        return _NOTHING
    _limit_time(timeout_s)
    return _unless_refused(partial(_read, _order(frame.head), frame.content))


def _read(order: _TaskHeader, content: bytes) -> ReadFile | bytes:
    if order.reads is not None:
        fields, contents = read_body(order.reads, content, order.options)
        return _packed({"fields": fields}, contents)
    source = content.decode("utf-8", "surrogatepass") if order.text else content
    return read_file(source, order.format, order.configs, rounds=order.rounds, sites=order.sites)


def _ended(begun: Sequence[ReadFile | bytes]) -> list[bytes]:
    """The answers, in their order."""
    graphs = iter(_with_graphs([each for each in begun if isinstance(each, ReadFile)]))
    return [next(graphs) if isinstance(each, ReadFile) else each for each in begun]


def _with_graphs(files: Sequence[ReadFile]) -> list[bytes]:
    if len(files) > 1:
        with suppress(MemoryError, RecursionError):  # else each by itself, to see whose fault it is
            return [_result(found) for found in with_graphs(files)]
    return [_unless_refused(partial(_with_graph, file)) for file in files]


def _with_graph(file: ReadFile) -> bytes:
    [found] = with_graphs([file])
    return _result(found)


def _result(found: Parsed | StructureError) -> bytes:
    if isinstance(found, StructureError):
        return _packed({"refused": [found.code, found.detail]})
    return _packed(*to_document(found))


def _unless_refused(work: Callable[[], T]) -> T | bytes:
    """What comes of it, or the answer that says why nothing does."""
    try:
        return work()
    except ServiceError as error:
        return _packed({"answered": [error.code, error.detail]})
    except StructureError as error:
        return _packed({"refused": [error.code, error.detail]})
    except (MemoryError, RecursionError):
        return _packed({"refused": ["unreadable", "reading the file took too much memory: post a plainer one"]})


def _packed(document: dict[str, Any], contents: Sequence[bytes] = ()) -> bytes:
    document["sizes"] = [len(part) for part in contents]
    return b"".join(framed(orjson.dumps(document), contents))


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
    """The processor time that the next file may take."""
    _limit_seconds(math.ceil(time.process_time() + timeout_s) + CPU_SPARE_S)


@lru_cache(maxsize=1)  # the limit is in whole seconds, and stays the same for hundreds of files
def _limit_seconds(most: int) -> None:
    """The processor time of this process; the hard limit stays, so that it may have more later."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
