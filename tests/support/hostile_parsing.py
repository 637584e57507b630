"""A parse process in which files with a mark do what the parser of a hostile one might."""

import os
import signal
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from deepergatgnn.service.parsing import process as parse_process

DIES, DIES_LATER, HANGS = b"#dies\n", b"#dies later\n", b"#hangs\n"  # by its own fault
KILLED, STOPS = b"#killed\n", b"#stops\n"  # by the host
LIMITED = b"#limited\n"  # by the limit that the process has itself
COUNTED = b"#counted "  # followed by a folder, in which each reading leaves an empty file
COUNTED_S = 0.25  # of processor time that it takes
_read, _build = parse_process.read_file, parse_process.with_graphs
_fatal: set[int] = set()


def counted(folder: Path) -> bytes:
    """The mark of a file whose readings are counted in the folder."""
    return COUNTED + str(folder).encode() + b"\n"


def _read_file(source: bytes | str, *rest: Any, **options: Any) -> Any:
    content = source if isinstance(source, bytes) else source.encode()
    if content.startswith(DIES):
        os.kill(os.getpid(), signal.SIGSEGV)
    if content.startswith(KILLED):
        os.kill(os.getpid(), signal.SIGKILL)
    if content.startswith(LIMITED):
        os.kill(os.getpid(), signal.SIGXCPU)
    if content.startswith(COUNTED):
        folder = content.partition(b"\n")[0].removeprefix(COUNTED).decode()
        os.close(os.open(f"{folder}/{uuid4().hex}", os.O_CREAT))
        end = time.process_time() + COUNTED_S
        while time.process_time() < end:
            pass
    if content.startswith(STOPS):
        os.kill(os.getpid(), signal.SIGSTOP)
    while content.startswith(HANGS):
        pass
    file = _read(source, *rest, **options)
    if content.startswith(DIES_LATER):
        _fatal.add(id(file))
    return file


def _with_graphs(files: Any) -> Any:
    if any(id(file) in _fatal for file in files):
        os.kill(os.getpid(), signal.SIGSEGV)
    return _build(files)


def serve(*arguments: Any) -> None:
    """As `parse_process.serve`."""
    parse_process.read_file, parse_process.with_graphs = _read_file, _with_graphs
    parse_process.serve(*arguments)
