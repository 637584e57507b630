"""Dependencies of the endpoints: the parts of one API process."""

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from deepergatgnn.service.http.rate_limits import ANONYMOUS
from deepergatgnn.service.lanes import Lane
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.service.prediction.catalogue import Catalogue
from deepergatgnn.service.prediction.pipeline import PredictionPipeline
from deepergatgnn.service.queue.client import InferenceClient
from deepergatgnn.service.queue.cluster import ClusterState
from deepergatgnn.service.scheduling.admission import Admission
from deepergatgnn.service.scheduling.fairness import Flow, flow_of
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry.tracing import Tracing


@dataclass(frozen=True)
class Dependencies:
    """Parts of one API process that endpoints use."""

    settings: Settings
    catalogue: Catalogue
    inference: InferenceClient
    cluster: ClusterState
    admission: Admission
    parse_pool: ParsePool
    pipeline: PredictionPipeline
    tracing: Tracing

    async def start(self) -> None:
        """Connect to the broker and start the parse processes."""
        await self.inference.start()
        await self.cluster.start()
        await self.parse_pool.warm()

    def check_early(self, lane: Lane, connection: str) -> None:
        """Check whether a request may be read at all, before anything is known of it but its connection.

        Raises:
            ServiceError: 503 not ready, 429 too much work is waiting.
        """
        self.cluster.ensure_available()
        self.admission.check(lane, connection)

    async def stop(self) -> None:
        """Refuse new work, then close every part."""
        self.inference.draining = True
        await self.cluster.stop()
        await self.inference.stop()
        self.parse_pool.close()
        self.tracing.close()


def dependencies_of(request: Request) -> Dependencies:
    """Return the dependencies of the application that serves a request."""
    return cast("Dependencies", request.app.state.dependencies)


def flow_of_request(request: Request) -> Flow:
    """Return the flow of fair queueing that a request belongs to: that of its key, or of its address."""
    caller = request.state.caller
    return flow_of(request.scope, None if caller is ANONYMOUS else caller.name)
