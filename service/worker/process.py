"""Parts of a worker process, and its life: start, run, stop."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from uuid import uuid4

import structlog
import uvloop
from redis.exceptions import AuthenticationError, RedisError

from deepergatgnn.device import device_named
from deepergatgnn.errors import ArtifactError, ConfigError
from deepergatgnn.model_store import open_models
from deepergatgnn.service.garbage_collector import tune_garbage_collector
from deepergatgnn.service.lanes import LANES
from deepergatgnn.service.queue.clock import BrokerClock
from deepergatgnn.service.queue.consumer import RequestConsumer
from deepergatgnn.service.queue.redis_client import connect
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.tasks import PAUSE_S, run_until_done
from deepergatgnn.service.telemetry.logs import configure_logs
from deepergatgnn.service.telemetry.worker_metrics import serve_worker_metrics
from deepergatgnn.service.worker.device_thread import DeviceThread
from deepergatgnn.service.worker.device_tuning import COMPILER, DeviceTuner
from deepergatgnn.service.worker.engine import Engine
from deepergatgnn.service.worker.heartbeat import Heartbeat
from deepergatgnn.service.worker.leases import Leases
from deepergatgnn.service.worker.model_loader import ModelLoader
from deepergatgnn.service.worker.worker import Worker
from deepergatgnn.threads import set_threads

SWITCH_S = 2e-4  # the device's thread takes Python's lock for every operation, and should not wait 5 ms for it
# Niceness on a CPU. Parse processes have the same one, and the API a lower one: it feeds both, and what is parsed
# meanwhile shares the next batch, in which 64 crystals cost a tenth each of what one alone does.
NICENESS = 5
WARN_AGAIN_S = 30.0
STDIN = 0
log = structlog.get_logger("worker")


class WorkerParts:
    """The parts of one worker on one device."""

    def __init__(self, settings: Settings, url: str) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        structlog.contextvars.bind_contextvars(worker=name)
        store = open_models(settings.model_store, settings.models)
        self.settings = settings
        self.stopping = asyncio.Event()
        self.client, self.clock = connect(url), BrokerClock()
        self.queue = RequestConsumer(self.client, name, settings.lease_s)
        self.device = DeviceThread(device_named(settings.device), settings.stuck_s)
        self.engine = Engine(store, self.device.device, name)
        self.loader = ModelLoader(store, self.engine)
        self.tuner = DeviceTuner(settings, self.engine, self.device)
        self.leases = Leases(settings, self.queue, self.clock, self.device, name)
        self.worker = Worker(settings, self.queue, self.engine, self.device, self.tuner, self.leases, self.stopping)
        self.heartbeat = Heartbeat(
            settings, self.client, self.clock, self.queue, self.device, self.engine, self.loader, self.leases, name
        )


async def work(parts: WorkerParts, supervisor: int | None = None, *, owns_broker: bool = False) -> None:
    """Work until SIGTERM or SIGINT, or until the supervisor ends; then finish the entries that the worker holds."""
    settings, stopping, worker = parts.settings, parts.stopping, parts.worker
    # A signal may have reached all processes of a service: a worker with a supervisor stops after the API.
    grace_s = 0.0 if supervisor is None else settings.drain_grace_s + settings.drain_s
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, loop.call_later, grace_s, stopping.set)
    await _start(parts)
    readers = [asyncio.create_task(worker.read(lane)) for lane in LANES]
    tasks = [
        *readers,
        worker.write(),
        parts.heartbeat.run(),
        parts.leases.take_over(worker.accept, stopping),
        parts.leases.follow_withdrawals(),
        parts.loader.follow_store(parts.tuner.measure_memory),
        parts.tuner.follow_load(),
        parts.tuner.compile(),
    ]
    if supervisor is not None:
        tasks.append(_follow_supervisor(parts, supervisor, owns_broker=owns_broker))
    try:
        await run_until_done(worker.compute(readers), *tasks)
    finally:
        try:
            async with asyncio.timeout(2):
                await parts.queue.leave()
        except (RedisError, OSError):
            log.warning("broker unavailable at shutdown")
        await parts.client.aclose()
    log.info("stopped")


async def _start(parts: WorkerParts) -> None:
    await parts.device.run(lambda: set_threads(parts.settings.threads or 1))
    try:
        await parts.device.run(parts.loader.load_production)
    except ArtifactError as error:  # reported to the API; a version that is promoted later is loaded
        log.error("no model loaded", error=str(error))  # noqa: TRY400 - the fault is in the store
    await parts.tuner.choose_threads()
    await parts.tuner.measure_memory()
    await _join_queue(parts)
    tune_garbage_collector()
    sys.setswitchinterval(SWITCH_S)
    log.info("ready", device=str(parts.device.device), models=parts.engine.loaded)


async def _join_queue(parts: WorkerParts) -> None:
    """Create the consumer groups and measure the clock, as soon as the broker answers.

    Raises:
        ConfigError: if the broker refuses the name or password.
    """
    warned_at = float("-inf")
    while not parts.stopping.is_set():
        try:
            await parts.queue.create_groups()
            await parts.clock.measure(parts.client)
            break
        except AuthenticationError as error:
            raise ConfigError(f"the broker of DEEPERGATGNN_REDIS_URL refuses its name or password: {error}") from None
        except (RedisError, OSError) as error:
            if time.monotonic() - warned_at > WARN_AGAIN_S:
                warned_at = time.monotonic()
                log.warning("waiting for the broker", error=str(error))
            await asyncio.sleep(PAUSE_S)


async def _follow_supervisor(parts: WorkerParts, supervisor: int, *, owns_broker: bool) -> None:
    """Stop when the supervisor closes standard input, which also happens when it is killed.

    Only Linux ends the embedded broker of a killed supervisor; elsewhere this worker does.
    """
    closed, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(STDIN, closed.set)  # readable at its end only: nothing is ever written
    try:
        await closed.wait()
    finally:
        loop.remove_reader(STDIN)
    parts.stopping.set()
    while True:
        await asyncio.sleep(1)
        if os.getppid() != supervisor and owns_broker:
            log.warning("supervisor gone, stopping its broker")
            with suppress(RedisError, OSError):
                await parts.client.shutdown(nosave=True)
            return


def run(settings: Settings, url: str, supervisor: int | None = None, *, owns_broker: bool = False) -> None:
    """Run a worker in this process.

    Args:
        settings: of the service.
        url: of the broker.
        supervisor: id of the `serve` process that started this one; None without one.
        owns_broker: whether an embedded broker should end with the supervisor.

    Raises:
        ConfigError: if it cannot work with these settings.
    """
    configure_logs(settings.log_level, settings.log_format)
    serve_worker_metrics(settings.metrics_port)
    parts = WorkerParts(settings, url)
    if parts.device.device.type == "cpu":
        os.nice(NICENESS)
    uvloop.run(work(parts, supervisor, owns_broker=owns_broker))
    if any(thread.name.startswith(COMPILER) for thread in threading.enumerate()):
        # A compiler cannot be interrupted, and would crash while the interpreter shuts down; nothing is left to save.
        os._exit(0)
