"""What the routes of one API process share."""

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from service.catalogue import Catalogue
from service.dispatcher import Dispatcher
from service.fairness import Flow, flow_of
from service.parse_pool import ParsePool
from service.prediction import Oracle
from service.rates import ANONYMOUS
from service.settings import Settings
from service.tracing import Tracing

PARTS = "parts"  # their name in the state of a request


@dataclass(frozen=True)
class State:
    """The parts of the process that routes use."""

    settings: Settings
    catalogue: Catalogue
    dispatcher: Dispatcher
    pool: ParsePool
    oracle: Oracle
    tracing: Tracing


def state_of(request: Request) -> State:
    """The parts, as the lifespan of the application gives them to every request."""
    return cast("State", request.scope["state"][PARTS])


def flow_of_request(request: Request) -> Flow:
    """Whose turn it takes: that of its key, or of its address."""
    caller = request.state.caller
    return flow_of(request.scope, None if caller is ANONYMOUS else caller.name)
