"""Leases of the entries that a worker holds: renewed, taken over from dead workers, dead-lettered, withdrawn."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog
from redis.exceptions import RedisError

from deepergatgnn.service.lanes import Lane
from deepergatgnn.service.messages import Delivery, ErrorCode, InferenceReply
from deepergatgnn.service.queue.clock import BrokerClock
from deepergatgnn.service.queue.consumer import RequestConsumer
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.service.worker.device_thread import DeviceThread

MAX_TAKEN = 256  # expired entries of a lane at once
DEAD_LETTER: tuple[ErrorCode, str] = (
    "prediction_failed",
    "workers failed on this crystal several times: check the structure",
)
log = structlog.get_logger("worker")


@dataclass(eq=False)
class Leases:
    """Entries that one worker holds, from their delivery to their reply.

    Attributes:
        deliveries: the entries, by their place in the broker.
    """

    settings: Settings
    queue: RequestConsumer
    clock: BrokerClock
    device: DeviceThread
    worker: str
    deliveries: dict[tuple[Lane, bytes], Delivery] = field(default_factory=dict)
    _withdrawn: set[tuple[Lane, bytes]] = field(default_factory=set)
    _renewed_at: float = float("-inf")

    def add(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Hold entries; return those that are new."""
        new = []
        for delivery in deliveries:
            if delivery.place not in self.deliveries:
                self.deliveries[delivery.place] = delivery
                new.append(delivery)
        return new

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """Hold entries no longer: they were answered or dropped."""
        for delivery in deliveries:
            self.deliveries.pop(delivery.place, None)
            self._withdrawn.discard(delivery.place)

    def split_stale(self, batch: Iterable[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
        """Split a batch into the entries to compute and those that expired or were withdrawn."""
        live, stale, now = [], [], self.clock.now()
        for delivery in batch:
            if not delivery.entry.deadline >= now:  # NaN is stale
                metrics.EXPIRED.inc()
                stale.append(delivery)
            elif delivery.place in self._withdrawn:
                metrics.WITHDRAWN.inc()
                stale.append(delivery)
            else:
                live.append(delivery)
        return live, stale

    async def renew(self) -> None:
        """Renew the leases of all entries, if a third of their time has passed."""
        if time.monotonic() - self._renewed_at > self.settings.lease_s / 3:
            await self.queue.renew(list(self.deliveries.values()))
            self._renewed_at = time.monotonic()

    async def take_over(self, accept: Callable[[Sequence[Delivery]], None], stopping: asyncio.Event) -> None:
        """Take over entries whose lease expired, until the worker stops.

        Args:
            accept: takes the entries that are to be computed.
            stopping: ends the loop.
        """
        while not stopping.is_set():
            try:
                # A hung worker would take over its own entries before a worker that can compute them.
                for delivery in [] if self.device.hangs else await self.queue.take_over(MAX_TAKEN):
                    if delivery.place in self.deliveries:
                        continue
                    if delivery.times > self.settings.max_deliveries:
                        await self._dead_letter(delivery)
                    else:
                        metrics.TAKEN_OVER.inc()
                        accept([delivery])
            except (RedisError, OSError) as error:
                log.warning("expired entries cannot be taken over", error=str(error))
            await asyncio.sleep(self.settings.lease_s / 4)

    async def _dead_letter(self, delivery: Delivery) -> None:
        entry = delivery.entry
        await self.queue.dead_letter(delivery, InferenceReply(entry.id, worker=self.worker, error=DEAD_LETTER))
        metrics.DEAD_LETTERS.inc()
        log.error("dead letter", entry=entry.id, request_id=entry.request_id)

    async def follow_withdrawals(self) -> None:
        """Mark entries that the API withdraws, so that they are dropped before they reach the device."""
        while True:
            try:
                async for place in self.queue.withdrawn():
                    if place in self.deliveries:
                        self._withdrawn.add(place)
            except (RedisError, OSError) as error:
                log.warning("withdrawals cannot be read", error=str(error))
            await asyncio.sleep(self.settings.heartbeat_s)
