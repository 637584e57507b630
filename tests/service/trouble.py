"""A parse process in which files with a mark do what the parser of a hostile one might."""

import os
import signal
from typing import Any

from service import parse_process

DIES, HANGS, DIES_LATER = b"#dies\n", b"#hangs\n", b"#dies later\n"
_read, _build = parse_process.read_file, parse_process.with_graphs
_fatal: set[int] = set()


def _read_file(source: bytes | str, *rest: Any, **options: Any) -> Any:
    content = source if isinstance(source, bytes) else source.encode()
    if content.startswith(DIES):
        os.kill(os.getpid(), signal.SIGKILL)
    if content.startswith(HANGS):
        signal.pause()
    file = _read(source, *rest, **options)
    if content.startswith(DIES_LATER):
        _fatal.add(id(file))
    return file


def _with_graphs(files: Any) -> Any:
    if any(id(file) in _fatal for file in files):
        os.kill(os.getpid(), signal.SIGKILL)
    return _build(files)


def serve(*arguments: Any) -> None:
    """As `parse_process.serve`."""
    parse_process.read_file, parse_process.with_graphs = _read_file, _with_graphs
    parse_process.serve(*arguments)
