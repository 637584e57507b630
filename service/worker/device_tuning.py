"""Tuning of a worker to its device: threads on a CPU, edges of a batch on a GPU, compiled networks."""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress

import structlog

from deepergatgnn.predictor import Predictor
from deepergatgnn.service.scheduling.batching import EdgeLimit
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.service.worker.device_thread import DeviceThread
from deepergatgnn.service.worker.engine import Engine
from deepergatgnn.service.worker.measurements import golden_graphs, measure_edge_capacity, measure_threads
from deepergatgnn.threads import available_cores, candidates, fastest, set_threads, torch_threads

COMPILER = "compile"  # name of the thread
THREADS_S = 60.0  # between comparisons of numbers of threads
log = structlog.get_logger("worker")


class DeviceTuner:
    """Measures what is best on the device, again while the load of the host and the loaded versions change.

    Attributes:
        threads: that compute; 0 until they were chosen, and on a GPU.
        edge_limit: edges of a batch that fit into memory.
    """

    def __init__(self, settings: Settings, engine: Engine, device: DeviceThread) -> None:
        self.threads = 0
        self.edge_limit = EdgeLimit(settings.batch_edges)
        self._settings, self._engine, self._device = settings, engine, device
        self._max_threads = torch_threads()

    async def measure_memory(self) -> None:
        """Measure the edges of a batch that fit beside the loaded versions."""
        capacities = await self._device.run(lambda: list(map(measure_edge_capacity, self._engine.predictors)))
        self.edge_limit = EdgeLimit(min([self._settings.batch_edges, *capacities]))

    async def choose_threads(self) -> None:
        """Set the threads of the settings, or those that are fastest beside the other load of the host."""
        before, seconds = self.threads, dict[int, float]()
        if self._device.device.type == "cpu":
            counts = [] if self._settings.threads else candidates(available_cores(), self._max_threads)
            predictors = self._engine.predictors[:1]
            if len(counts) > 1 and predictors:
                seconds = await self._device.run(lambda: measure_threads(predictors[0], counts))
            self.threads = self._settings.threads or (fastest(seconds) if seconds else 1)
            await self._device.run(lambda: set_threads(self.threads))
        metrics.THREADS.set(self.threads)
        if self.threads != before:
            measured_s = {str(count): round(each, 4) for count, each in seconds.items()}
            log.info("threads", threads=self.threads, measured_s=measured_s)

    async def follow_load(self) -> None:
        """Choose the threads again from time to time, since the other load of the host changes."""
        while not self._settings.threads:
            await asyncio.sleep(THREADS_S)
            await self.choose_threads()

    async def compile(self) -> None:
        """Compile the networks of a worker that lives long enough, in a thread beside the computations."""
        tried: set[str] = set()
        while self._settings.compile_after_s:
            await asyncio.sleep(self._settings.compile_after_s)
            loaded = self._engine.loaded
            if not tried.issuperset(loaded):
                tried.update(loaded)
                done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                # A daemon, since a worker that fails must not wait for a compiler before it exits.
                arguments = (self._engine.predictors, done)
                threading.Thread(target=_compile_networks, args=arguments, name=COMPILER, daemon=True).start()
                if await done:
                    log.info("compiled", models=loaded)


def _compile_networks(predictors: Sequence[Predictor], done: "asyncio.Future[bool]") -> None:
    compiled = compile_networks(predictors)
    with suppress(RuntimeError):  # the worker has stopped and closed its event loop
        done.get_loop().call_soon_threadsafe(done.set_result, compiled)


def compile_networks(predictors: Sequence[Predictor]) -> bool:
    """Compile networks, which takes minutes, while their eager forms answer; then use the compiled ones.

    Returns:
        Whether compiled networks are in use; if False, nothing has changed.
    """
    compiled = []
    for predictor in predictors:
        if predictor.is_compiled:
            continue
        try:
            compiled.append((predictor, predictor.compiled(golden_graphs(predictor.manifest))))
        except Exception as error:  # noqa: BLE001 - a compiler raises many types, and the eager network still answers
            log.warning("compilation failed, keeping the eager networks", error=str(error).partition("\n")[0])
            return False
    for predictor, forward in compiled:
        predictor.adopt(forward)
    return True
