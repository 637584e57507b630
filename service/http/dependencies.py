"""What the routes of one API process share."""

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from deepergatgnn.service.http.rate_limits import ANONYMOUS
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.service.prediction.catalogue import Catalogue
from deepergatgnn.service.prediction.pipeline import PredictionPipeline
from deepergatgnn.service.queue.client import InferenceClient
from deepergatgnn.service.queue.cluster import ClusterState
from deepergatgnn.service.scheduling.admission import Admission
from deepergatgnn.service.scheduling.fairness import Flow, flow_of
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry.tracing import Tracing

PARTS = "parts"  # their name in the state of a request


@dataclass(frozen=True)
class State:
    """The parts of the process that routes use."""

    settings: Settings
    catalogue: Catalogue
    dispatcher: InferenceClient
    cluster: ClusterState
    admission: Admission
    pool: ParsePool
    oracle: PredictionPipeline
    tracing: Tracing


def state_of(request: Request) -> State:
    """The parts, as the lifespan of the application gives them to every request."""
    return cast("State", request.scope["state"][PARTS])


def flow_of_request(request: Request) -> Flow:
    """Whose turn it takes: that of its key, or of its address."""
    caller = request.state.caller
    return flow_of(request.scope, None if caller is ANONYMOUS else caller.name)
