"""A parse process in which files with a mark do what the parser of a hostile one might."""

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from deepergatgnn.service.parsing import process as parse_process
from deepergatgnn.service.parsing.wire import RequestBody, frame

DIES, DIES_LATER, HANGS = b"#dies\n", b"#dies later\n", b"#hangs\n"  # by its own fault
KILLED, STOPS = b"#killed\n", b"#stops\n"  # by the host
LIMITED = b"#limited\n"  # by the limit that the process has itself
TALKS, OVERSIZED, ANOTHER = b"#talks\n", b"#oversized\n", b"#another\n"  # replies that a parser never sends
SIGNALS = {DIES: signal.SIGSEGV, KILLED: signal.SIGKILL, LIMITED: signal.SIGXCPU, STOPS: signal.SIGSTOP}
COUNTED = b"#counted "  # followed by a folder, in which each reading leaves an empty file
COUNTED_S = 0.25  # of processor time that it takes
_read, _featurize = parse_process.read_file, parse_process.featurize
_fatal: set[int] = set()
_connections: list[int] = []


def counted(folder: Path) -> bytes:
    """The mark of a file whose readings are counted in the folder."""
    return COUNTED + str(folder).encode() + b"\n"


def _read_file(content: bytes, header: Any) -> Any:
    for mark, number in SIGNALS.items():
        if content.startswith(mark):
            os.kill(os.getpid(), number)
    if content.startswith(COUNTED):
        folder = content.partition(b"\n")[0].removeprefix(COUNTED).decode()
        os.close(os.open(f"{folder}/{uuid4().hex}", os.O_CREAT))
        end = time.process_time() + COUNTED_S
        while time.process_time() < end:
            pass
    while content.startswith(HANGS):
        pass
    file = _read(content, header)
    if (reply := _broken_reply(content)) is not None:
        os.write(_connections[-1], reply)
    if content.startswith(ANOTHER):
        return RequestBody([], attention=True, embedding=False, items=[])
    if content.startswith(DIES_LATER):
        _fatal.add(id(file))
    return file


def _broken_reply(content: bytes) -> bytes | None:
    if content.startswith(TALKS):
        return b"".join(frame(b"\x80\x04\x95."))
    return b"\x00" + b"\xff" * 8 if content.startswith(OVERSIZED) else None


def _featurize_files(files: Any) -> Any:
    if any(id(file) in _fatal for file in files):
        os.kill(os.getpid(), signal.SIGSEGV)
    return _featurize(files)


def serve(connection: socket.socket, *arguments: Any) -> None:
    """As `parse_process.serve`."""
    _connections.append(connection.fileno())
    parse_process.read_file, parse_process.featurize = _read_file, _featurize_files
    parse_process.serve(connection, *arguments)
