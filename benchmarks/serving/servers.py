"""Servers under load, each started as its users start it, on a free port, with one torch thread."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from deepergatgnn.commands.main import main; main()"]
THREADS = 1
START_S = 180.0
TICKS = os.sysconf("SC_CLK_TCK")
# Eager networks on every side: compilation would use the cores that are measured.
ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": str(THREADS),
    "DEEPERGATGNN_THREADS": str(THREADS),
    "DEEPERGATGNN_COMPILE_AFTER_S": "0",
}


@dataclass(frozen=True)
class Server:
    """Running server.

    Attributes:
        address: its URL.
        process: its main process.
    """

    address: str
    process: "subprocess.Popen[str]"

    def cpu_s(self) -> Counter[str]:
        """Return the CPU seconds used so far by each kind of process."""
        used: Counter[str] = Counter()
        for pid in _tree(self.process.pid):
            try:
                numbers = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            # Including children that ended: parse processes are replaced from time to time.
            used[_role(pid == self.process.pid, command)] += sum(map(int, numbers[11:15])) / TICKS  # type: ignore[assignment]
        return used

    def answers(self) -> bool:
        """Return whether the server is ready for requests."""
        return _healthy(self.address, "/readyz") or _healthy(self.address, "/health")

    def signal(self, number: int) -> None:
        """Send a signal to all its processes."""
        for pid in _tree(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


@contextmanager
def resting(servers: Sequence[Server]) -> Iterator[None]:
    """Stop servers while another one is measured, because idle servers use processor time.

    LitServe's processes poll their queues, which takes an eighth of a core.
    """
    for server in servers:
        server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            server.signal(signal.SIGCONT)
        for server in servers:
            end = time.monotonic() + START_S
            while not server.answers() and time.monotonic() < end:
                time.sleep(0.1)


def _role(first: bool, command: str) -> str:
    if first:
        return "api"
    return "worker" if "worker" in command else "broker" if "valkey" in command else "others"


def _tree(pid: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            continue
    tree = [pid]
    for known in tree:
        tree += [child for child, parent in parents.items() if parent == known]
    return tree


@contextmanager
def started(command: Sequence[str], **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a process with its children until the block ends."""
    process = subprocess.Popen(  # noqa: S603 - our own commands
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=os.environ | ENVIRONMENT | environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # children that the server left
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@contextmanager
def service(workers: int = 1, **environment: str) -> Iterator[Server]:
    """Run `deepergatgnn serve` with an embedded broker."""
    with started([*COMMAND, "serve", "--port", "0", "--workers", str(workers)], **environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"ready on (\S+)", line):
                break
        else:
            raise RuntimeError(f"`deepergatgnn serve` ended with {process.wait()} before it was ready")
        yield Server(found[1], process)


@contextmanager
def rival(module: str, *arguments: str, **environment: str) -> Iterator[Server]:
    """Run another server, `python -m benchmarks.serving.rivals.MODULE PORT ...`, and wait until /health answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", f"benchmarks.serving.rivals.{module}", str(port), *arguments]
    with started(command, **environment) as process:
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + START_S
        while not _healthy(address, "/health"):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{module} did not start; run `{' '.join(command[1:])}` to see the reason")
            time.sleep(0.1)
        yield Server(address, process)


def _healthy(address: str, path: str) -> bool:
    where = urlsplit(address)
    assert where.hostname is not None
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()
