"""A parse process: tasks come in through a socket, replies go out; it may be killed at any moment.

Files that have arrived together are read one by one, and their graphs are built at once, which costs less.
"""

import ctypes
import math
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import TypeVar

from deepergatgnn.errors import StructureError
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.garbage_collector import tune_garbage_collector
from deepergatgnn.service.parsing import wire
from deepergatgnn.service.parsing.featurize import ReadFile, featurize, read_file
from deepergatgnn.service.parsing.json_bodies import read_body
from deepergatgnn.service.parsing.wire import BEGUN, BUILDING, RECALLED, SINCE, Frame, Frames, Progress, Reply

GROUP_FILES = 8  # at most
GROUP_ATOMS = 256  # after which no other file joins
GROUP_S = 0.01  # of reading, likewise
SPARE_CPU_S = 2  # beyond the limit at which the API kills the process
RECEIVE_BYTES = 256 * 1024
T = TypeVar("T")
Begun = ReadFile | Reply | None  # None: recalled
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # flags of unshare(2)


def serve(connection: socket.socket, progress: Progress, memory_mib: int, niceness: int, timeout_s: float) -> None:
    """Reply to tasks until the API closes the socket.

    Args:
        connection: to the API.
        progress: in shared memory, see `wire`.
        memory_mib: limit of the address space.
        niceness: added to that of the fork server.
        timeout_s: processor time of one task; a process that outlives the API ends soon after it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole process group; the API ends this process
        signal.signal(number, signal.SIG_IGN)
    _confine(memory_mib, niceness)
    tune_garbage_collector()
    frames = Frames()
    with connection:
        connection.setblocking(True)  # noqa: FBT003 - the method's signature
        while (frame := _wait(connection, frames)) is not None:
            group = _begin_group(frame, connection, frames, progress, timeout_s)
            if len(group) > 1:
                progress[SINCE] = time.process_time()
                progress[BUILDING] = 1
            connection.sendall(b"".join(map(wire.reply_frame, _replies(group))))
            progress[SINCE] = time.process_time()
            progress[BUILDING] = 0


def _wait(connection: socket.socket, frames: Frames) -> Frame | None:
    """Wait for the next frame; None if the API has closed the socket."""
    while (frame := frames.take()) is None:
        data = connection.recv(RECEIVE_BYTES)
        if not data:
            return None
        frames.feed(data)
    return frame


def _begin_group(
    frame: Frame, connection: socket.socket, frames: Frames, progress: Progress, timeout_s: float
) -> list[Begun]:
    group = [_begin(frame, progress, timeout_s)]
    deadline = time.monotonic() + GROUP_S
    while not frame.exclusive and _may_grow(group, deadline):
        if not frames:
            with suppress(BlockingIOError):
                frames.feed(connection.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT))
        following = frames.take(grouped=True)
        if following is None:
            break
        group.append(_begin(following, progress, timeout_s))
    return group


def _may_grow(group: Sequence[Begun], deadline: float) -> bool:
    """Whether one more file may join: the first one waits for all."""
    atoms = sum(each.crystal.n_atoms for each in group if isinstance(each, ReadFile))
    return len(group) < GROUP_FILES and atoms < GROUP_ATOMS and time.monotonic() < deadline


def _begin(frame: Frame, progress: Progress, timeout_s: float) -> Begun:
    """Read a task, unless it was recalled."""
    progress[SINCE] = time.process_time()  # before the count: the time of the last task must not count for this one
    progress[BEGUN] += 1
    if progress[BEGUN] <= progress[RECALLED]:
        return None
    _limit_time(timeout_s)
    return _or_refusal(partial(_read, wire.decode_header(bytes(frame.header)), bytes(frame.payload)))


def _read(header: wire.TaskHeader, payload: bytes) -> ReadFile | Reply:
    if isinstance(header, wire.FileHeader):
        return read_file(payload, header)
    return read_body(header.kind, payload, header.options)


def _replies(group: Sequence[Begun]) -> list[Reply | None]:
    replies = iter(_featurize([each for each in group if isinstance(each, ReadFile)]))
    return [next(replies) if isinstance(each, ReadFile) else each for each in group]


def _featurize(files: Sequence[ReadFile]) -> list[Reply]:
    if len(files) > 1:
        with suppress(MemoryError, RecursionError):  # then each alone, to find the file that needs it
            return [_reply(result) for result in featurize(files)]
    return [_or_refusal(lambda file=file: _reply(featurize([file])[0])) for file in files]  # type: ignore[misc]


def _reply(result: wire.ParsedStructure | StructureError) -> Reply:
    return wire.StructureRefusal(result.code, result.detail) if isinstance(result, StructureError) else result


def _or_refusal(work: Callable[[], T]) -> T | Reply:
    try:
        return work()
    except ServiceError as error:
        return wire.RequestRefusal(error.code, error.detail)
    except StructureError as error:
        return wire.StructureRefusal(error.code, error.detail)
    except (MemoryError, RecursionError):
        return wire.StructureRefusal("unreadable", "the parser ran out of memory on this file: simplify it")


def _confine(memory_mib: int, niceness: int) -> None:
    """Limit memory, forbid writing to files, and give up the network where the system allows it."""
    size = memory_mib * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    os.nice(niceness)
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is not None:
        unshare(_NEW_USER | _NEW_NET)  # some systems refuse it with -1


def _limit_time(timeout_s: float) -> None:
    """Limit the processor time of the next task."""
    _limit_seconds(math.ceil(time.process_time() + timeout_s) + SPARE_CPU_S)


@lru_cache(maxsize=1)  # the limit is in whole seconds, and stays the same for hundreds of tasks
def _limit_seconds(seconds: int) -> None:
    """Limit the processor time of this process; the hard limit stays, so that it can be raised later."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds if hard == resource.RLIM_INFINITY else min(seconds, hard), hard))
