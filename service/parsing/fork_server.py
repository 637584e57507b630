"""Start of parse processes, which a fork server forks, and the end of that server."""

import multiprocessing
import os
import signal
import socket
import threading
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from typing import NamedTuple

from deepergatgnn.service.parsing.wire import Progress

STOP_S = 2.0  # for the fork server, once its processes are killed
_starting = threading.Lock()  # multiprocessing keeps a list of its processes that is not made for threads


class StartedProcess(NamedTuple):
    """A parse process, its progress in shared memory, and the API's end of the socket to it."""

    process: ForkServerProcess
    progress: Progress
    connection: socket.socket


def run_parser(connection: socket.socket, progress: Progress, memory_mib: int, niceness: int, timeout_s: float) -> None:
    """Run the main loop of a parse process; only there is it imported."""
    from deepergatgnn.service.parsing.process import serve  # noqa: PLC0415 - the API does not need it

    serve(connection, progress, memory_mib, niceness, timeout_s)


def start_process(memory_mib: int, niceness: int, timeout_s: float) -> StartedProcess:
    """Start a parse process; the first start takes seconds, as the fork server imports for all, others milliseconds."""
    ours, theirs = socket.socketpair()
    context = multiprocessing.get_context("forkserver")
    # The main module too: otherwise every process imports it before its first file.
    context.set_forkserver_preload(["deepergatgnn.service.parsing.preload", "__main__"])
    progress: Progress = context.RawArray("d", 4)
    arguments = theirs, progress, memory_mib, niceness, timeout_s
    process = context.Process(target=run_parser, args=arguments, daemon=True)
    with theirs, _starting:
        process.start()
    ours.setblocking(False)  # noqa: FBT003 - the method's signature
    return StartedProcess(process, progress, ours)


def stop_fork_server() -> None:
    """Stop the fork server after its processes were killed; it lives as long as one of them."""
    server = forkserver._forkserver  # noqa: SLF001
    pid: int | None = getattr(server, "_forkserver_pid", None)
    if pid is None:
        return
    # `_stop` blocks the event loop: a server that does not end in time is killed.
    timer = threading.Timer(STOP_S, os.kill, (pid, signal.SIGKILL))
    timer.daemon = True
    timer.start()
    server._stop()  # type: ignore[attr-defined]  # noqa: SLF001
    timer.cancel()
