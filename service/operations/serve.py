"""A whole service in one command: the API, its worker processes, and a broker unless one is given."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from math import ceil
from multiprocessing import process as processes
from types import FrameType

import structlog
import uvicorn
import uvloop

from deepergatgnn.errors import ConfigError
from deepergatgnn.service.http.api_keys import ApiKeys
from deepergatgnn.service.http.app import create_app, create_dependencies
from deepergatgnn.service.http.dependencies import Dependencies
from deepergatgnn.service.http.protocol import ConnectionLimits
from deepergatgnn.service.operations.broker import EmbeddedBroker, short_folder
from deepergatgnn.service.queue.redis_client import connect
from deepergatgnn.service.settings import Settings, is_setting
from deepergatgnn.service.tasks import Backoff, cancel_all, restart_on_failure
from deepergatgnn.service.telemetry.logs import configure_logs

POLL_S = 0.05
STOP_S = 10.0
ABORT_BEFORE_S = 1.0  # before the end of `drain_s`, requests get an error while their connections are still open
EX_USAGE = 2
log = structlog.get_logger("supervisor")


def run(settings: Settings, workers: int | None, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: of the service.
        workers: number of worker processes; None: one with the embedded broker, none with another.
        announce: called with the address once a worker is ready, or at once without workers.

    Raises:
        ConfigError: if the address is taken, or no broker can be started.
        SystemExit: if no worker can work with these settings.
    """
    configure_logs(settings.log_level, settings.log_format)
    os.environ["PYTHONSAFEPATH"] = "1"  # child processes import nothing from the working directory
    with ExitStack() as stack:
        broker, folder = None, short_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        # The sockets of multiprocessing lie in a folder with a short path, too.
        processes.current_process()._config["tempdir"] = str(folder)  # type: ignore[attr-defined]  # noqa: SLF001
        if settings.redis_url is None:
            count = 1 if workers is None else workers
            broker = EmbeddedBroker(folder)
            stack.callback(broker.stop)  # after all else: the last answers pass through it
            broker.start()
            url = broker.url
        else:
            url, count = settings.redis_url.get_secret_value(), workers or 0
            connect(url)  # raises a ConfigError if redis-py cannot read the URL
        listener = stack.enter_context(_listen(settings.host, settings.port))
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn handles these and raises them again when it has stopped, before the rest has.
            signal.signal(number, lambda *_: None)
        if not uvloop.run(_serve(settings, url, count, listener, announce, broker)):
            raise SystemExit(EX_USAGE)  # the worker has printed the reason


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else "the host name is invalid"
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}; name another --host or --port") from None
    listener.set_inheritable(False)
    return listener


class _Server(uvicorn.Server):
    """A server that reports on SIGTERM that it stops, and stops after a time of grace."""

    def __init__(self, config: uvicorn.Config, dependencies: Dependencies) -> None:
        super().__init__(config)
        self.dependencies = dependencies
        self._grace_s, self._drain_s = dependencies.settings.drain_grace_s, dependencies.settings.drain_s
        self._leaving = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM, report unreadiness and stop after the grace; a second signal or SIGINT stops at once."""
        if sig == signal.SIGINT or self._leaving or not self._grace_s or not self.started:
            super().handle_exit(sig, frame)
            return
        self._leaving = True
        self.dependencies.cluster.leaving = True
        asyncio.get_running_loop().call_later(self._grace_s, super().handle_exit, sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests finish; those that take too long get an error before their connections are closed."""
        abort_s = max(0.0, self._drain_s - ABORT_BEFORE_S)
        abort = asyncio.get_running_loop().call_later(abort_s, self.dependencies.inference.abort)
        try:
            await super().shutdown(sockets)
        finally:
            abort.cancel()


async def _until(condition: Callable[[], object]) -> None:
    """Poll a state of uvicorn, which has no event for it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)


async def _serve(
    settings: Settings,
    url: str,
    count: int,
    listener: socket.socket,
    announce: Callable[[str], None],
    broker: EmbeddedBroker | None,
) -> bool:
    """Serve; return whether a worker could work with the settings, or none was started."""
    limits = ConnectionLimits.of(settings)
    server = _create_server(settings, url, limits)
    ready = asyncio.Event()
    keepers = [asyncio.create_task(_keep_worker(settings, url, ready)) for _ in range(count)]

    async def announce_when_ready() -> None:
        await _until(lambda: server.started and (not count or server.dependencies.cluster.workers))
        ready.set()
        host, port = listener.getsockname()[:2]
        announce(f"http://{host}:{port}")

    async def stop_without_workers() -> None:
        await asyncio.wait(keepers, return_when=asyncio.FIRST_EXCEPTION)
        await _until(lambda: server.started)  # else uvicorn would not clean up
        server.should_exit = True

    background = [announce_when_ready(), limits.watch()]
    if keepers:
        background.append(stop_without_workers())
    if broker is not None:
        background.append(restart_on_failure(broker.keep))
    tasks = [asyncio.create_task(each) for each in background]
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in keepers:
            task.cancel()
        outcomes = await asyncio.gather(*keepers, return_exceptions=True)
        await cancel_all(tasks)
    return not any(isinstance(outcome, ConfigError) for outcome in outcomes)


def _create_server(settings: Settings, url: str, limits: ConnectionLimits) -> _Server:
    dependencies = create_dependencies(settings, url)
    config = uvicorn.Config(
        create_app(dependencies, ApiKeys.of(settings)),
        http=limits.protocol(),
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=ceil(settings.header_timeout_s),
        timeout_graceful_shutdown=int(settings.drain_s),
        server_header=False,
        proxy_headers=False,  # the address of the client is not used
        lifespan="on",
    )
    return _Server(config, dependencies)


async def _keep_worker(settings: Settings, url: str, ready: asyncio.Event) -> None:
    """Run a worker process and restart it whenever it exits; stop it when cancelled.

    Raises:
        ConfigError: if it cannot work with these settings, before any worker was ready.
    """
    command = [sys.executable, "-P", "-m", "deepergatgnn.service.worker", str(os.getpid())]
    if settings.redis_url is None:
        command.append("--owns-broker")
    environment = worker_environment(settings, url)
    backoff = Backoff(0.2, 10.0)
    while True:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.PIPE,  # the worker stops when it is closed, also by the death of this process
            # A process group keeps a Ctrl-C in the terminal from it. A session would be too much: Linux shares the
            # processor between sessions first, and the worker would wait for parse processes of lower priority.
            preexec_fn=os.setpgrp,
        )
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            await _stop(process)
            raise
        if status == os.EX_CONFIG and not ready.is_set():
            raise ConfigError("no worker can work with these settings")
        log.warning("worker exited, restarting it", status=status)
        await backoff.wait()


def worker_environment(settings: Settings, url: str) -> dict[str, str]:
    """Return the environment of a worker: all settings of this process, whatever their source, and the broker."""
    inherited = {name: value for name, value in os.environ.items() if not is_setting(name)}
    return inherited | settings.environment() | {"DEEPERGATGNN_REDIS_URL": url}


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Stop a worker: by the signal while it starts, later by the end of its standard input."""
    with contextlib.suppress(ProcessLookupError, ConnectionError):
        process.send_signal(signal.SIGTERM)
        assert process.stdin is not None  # noqa: S101 - a pipe
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
