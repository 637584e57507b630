"""A whole service in one command: broker if none is named, worker processes, the API; ends as one."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import time
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
from deepergatgnn.service.tasks import lasting
from deepergatgnn.service.telemetry.logs import configure_logs

RESTART_S = (0.2, 10.0)  # pause before a worker that died is replaced: at first, at most
LONG_LIFE_S = 30.0
WRONG_SETTINGS = 2  # exit status of a command
UNUSABLE = os.EX_CONFIG  # status of a worker that its settings keep from working
TOLD_BEFORE_S = 1.0  # the end of the time that requests have to finish
log = structlog.get_logger("supervisor")


def run(settings: Settings, workers: int | None, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: of the service.
        workers: worker processes to run here; None: one with the embedded broker, none with a broker of one's own.
        announce: told the address once a worker is ready, or at once where none runs here.

    Raises:
        ConfigError: if the address is taken, or no broker can be started.
        SystemExit: if no worker can work with these settings.
    """
    configure_logs(settings.log_level, settings.log_format)
    # Whatever Python this process starts imports nothing from the folder that it was started in.
    os.environ["PYTHONSAFEPATH"] = "1"
    with ExitStack() as stack:
        broker, folder = None, short_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        processes.current_process()._config["tempdir"] = str(folder)  # type: ignore[attr-defined]  # noqa: SLF001 - sockets
        if settings.redis_url is None:
            count = 1 if workers is None else workers
            broker = EmbeddedBroker(folder)
            stack.callback(broker.stop)  # last of all: answers go through it
            broker.start()
            url = broker.url
        else:
            url, count = settings.redis_url.get_secret_value(), workers or 0
            connect(url)  # a URL that cannot be read ends the command here
        listener = stack.enter_context(_listen(settings.host, settings.port))
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn stops at these and then raises them again: that must not end this process before the rest.
            signal.signal(number, lambda *_: None)
        if not uvloop.run(_serve(settings, url, count, listener, announce, broker)):
            raise SystemExit(WRONG_SETTINGS)  # the worker has said why


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # an answer does not wait for an acknowledgement
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else "it is no name"
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}; name another --host or --port") from None
    listener.set_inheritable(False)
    return listener


class _Server(uvicorn.Server):
    """A server that says on SIGTERM that it is going, and goes a little later."""

    def __init__(self, config: uvicorn.Config, dependencies: Dependencies) -> None:
        super().__init__(config)
        self._dependencies = dependencies
        self._grace_s, self._drain_s = dependencies.settings.drain_grace_s, dependencies.settings.drain_s
        self._leaving = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: not ready any more, but all else as before for the time of grace; a second signal ends that."""
        if sig == signal.SIGINT or self._leaving or not self._grace_s or not self.started:
            super().handle_exit(sig, frame)
            return
        self._leaving = True
        self._dependencies.cluster.leaving = True
        loop = asyncio.get_running_loop()
        loop.call_later(self._grace_s, super().handle_exit, sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests finish; those that cannot are told so before their connections are closed."""
        told_s = max(0.0, self._drain_s - TOLD_BEFORE_S)
        cut = asyncio.get_running_loop().call_later(told_s, self._dependencies.inference.abort)
        try:
            await super().shutdown(sockets)
        finally:
            cut.cancel()


async def _serve(
    settings: Settings,
    url: str,
    count: int,
    listener: socket.socket,
    announce: Callable[[str], None],
    broker: EmbeddedBroker | None,
) -> bool:
    """Serve; whether a worker could work with the settings, where any was to."""
    keys, limits = ApiKeys.of(settings), ConnectionLimits.of(settings)
    dependencies = create_dependencies(settings, url)
    config = uvicorn.Config(
        create_app(dependencies, keys),
        http=limits.protocol(),
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=ceil(settings.header_timeout_s),
        timeout_graceful_shutdown=int(settings.drain_s),
        server_header=False,
        proxy_headers=False,  # who sent a request is of no interest here
        lifespan="on",
    )
    server = _Server(config, dependencies)
    ready = asyncio.Event()
    keepers = [asyncio.create_task(_keep_worker(settings, url, ready)) for _ in range(count)]
    host, port = listener.getsockname()[:2]

    async def announce_when_ready() -> None:
        while not server.started or (count and not dependencies.cluster.workers):  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.05)
        ready.set()
        announce(f"http://{host}:{port}")

    async def end_without_workers() -> None:
        await asyncio.wait(keepers, return_when=asyncio.FIRST_EXCEPTION)
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event, and would not tidy up after itself
            await asyncio.sleep(0.05)
        server.should_exit = True

    beside = [asyncio.create_task(announce_when_ready()), asyncio.create_task(limits.watch()), *keepers]
    if keepers:
        beside.append(asyncio.create_task(end_without_workers()))
    if broker is not None:
        beside.append(asyncio.create_task(lasting(broker.keep)))
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in beside:
            task.cancel()
        ended = await asyncio.gather(*beside, return_exceptions=True)
    return not any(isinstance(outcome, ConfigError) for outcome in ended)


async def _keep_worker(settings: Settings, url: str, ready: asyncio.Event) -> None:
    """One worker process, replaced whenever it dies; stopped when cancelled.

    Raises:
        ConfigError: if it cannot work with these settings, before any worker was ready.
    """
    environment = worker_environment(settings, url)
    pause = RESTART_S[0]
    while True:
        born = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "deepergatgnn.service.worker.worker",
            env=environment,
            stdin=asyncio.subprocess.PIPE,  # the worker ends when it is closed, by whatever
            # A group of its own: a Ctrl-C reaches it through its supervisor, not from the terminal. No session of its
            # own: Linux shares the processor between sessions first, and it would wait for parsers of low priority.
            preexec_fn=os.setpgrp,
        )
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            await _stop(process)
            raise
        if status == UNUSABLE and not ready.is_set():
            raise ConfigError("no worker can work with these settings")
        pause = RESTART_S[0] if time.monotonic() - born > LONG_LIFE_S else min(2 * pause, RESTART_S[1])
        log.warning("worker ended, starting another", status=status, pause_s=pause)
        await asyncio.sleep(pause)


def worker_environment(settings: Settings, url: str) -> dict[str, str]:
    """The environment of a worker: every setting as it is here, wherever it came from, and the broker in use."""
    inherited = {name: value for name, value in os.environ.items() if not is_setting(name)}
    broker = {
        "DEEPERGATGNN_REDIS_URL": url,
        "DEEPERGATGNN_PARENT": str(os.getpid()),
        "DEEPERGATGNN_BROKER_EMBEDDED": str(settings.redis_url is None),
    }
    return inherited | settings.environment() | broker


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End a worker: one that is not ready yet by the signal, else by the end of its input."""
    with contextlib.suppress(ProcessLookupError, ConnectionError):
        process.send_signal(signal.SIGTERM)
        assert process.stdin is not None  # noqa: S101 - it was asked for
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), 10)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
