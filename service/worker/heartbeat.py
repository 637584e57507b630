"""Heartbeat of a worker: it stops while the device hangs, and the process ends if the device stays hung."""

import asyncio
import os
import time
from dataclasses import astuple, dataclass

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from deepergatgnn.service.messages import WorkerHeartbeat
from deepergatgnn.service.queue.clock import BrokerClock
from deepergatgnn.service.queue.consumer import RequestConsumer
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry.worker_metrics import worker_report
from deepergatgnn.service.worker.device_thread import DeviceThread
from deepergatgnn.service.worker.engine import Engine
from deepergatgnn.service.worker.leases import Leases
from deepergatgnn.service.worker.model_loader import ModelLoader

IDLE_S = 1.0  # after which an idle device is probed
DEAD_AFTER = 6.0  # times `stuck_s`; nothing gentler than the end of its process frees a thread that hangs in a device
log = structlog.get_logger("worker")


@dataclass(eq=False)
class Heartbeat:
    """Sends heartbeats and renews leases as long as the device responds."""

    settings: Settings
    client: "Redis"
    clock: BrokerClock
    queue: RequestConsumer
    device: DeviceThread
    engine: Engine
    loader: ModelLoader
    leases: Leases
    worker: str
    _probe: "asyncio.Task[None] | None" = None

    async def run(self) -> None:
        """Send heartbeats without end.

        Raises:
            DeviceLostError: if the idle device has failed.
        """
        interval_s, hung_s = self.settings.heartbeat_s, 0.0
        while True:
            try:
                if await self._responds():
                    hung_s = 0.0
                    await self._send()
                else:
                    hung_s += interval_s  # counted by turns of this loop, since the process may have been suspended
                    if hung_s > DEAD_AFTER * self.settings.stuck_s:
                        log.critical("device does not respond: exiting, so that another worker takes over")
                        os._exit(os.EX_SOFTWARE)
            except (RedisError, OSError) as error:
                log.warning("no heartbeat", error=str(error))
            await asyncio.sleep(interval_s)

    async def _send(self) -> None:
        state = WorkerHeartbeat(
            worker=self.worker,
            device=str(self.device.device),
            models=tuple(self.engine.loaded),
            failed=dict(self.loader.failed),
            costs={identity: astuple(cost) for identity, cost in self.engine.costs.items()},
        )
        await self.clock.measure(self.client)
        await self.queue.heartbeat(state, worker_report(), self.clock.now() + 3 * self.settings.heartbeat_s)
        await self.leases.renew()

    async def _responds(self) -> bool:
        """Probe the device if it is idle; return whether it responds."""
        device = self.device
        if device.computing_since is None and time.monotonic() - device.responded_at > IDLE_S and self._probe is None:
            self._probe = asyncio.create_task(device.run(self.engine.check_device))
        if self._probe is not None:
            done, _ = await asyncio.wait({self._probe}, timeout=self.settings.heartbeat_s)
            if not done:
                return False
            self._probe.result()
            self._probe, device.responded_at = None, time.monotonic()
        return not device.hangs
