"""Weighted fair queueing between clients, and between the connections of each."""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from ipaddress import IPv6Network
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Flow(NamedTuple):
    """Origin of a request.

    Attributes:
        client: name of the key; the address where no key is required.
        connection: of that client.
    """

    client: str
    connection: str = ""


INTERNAL = Flow("")  # of the service itself


def connection_of(scope: Mapping[str, Any]) -> str:
    """Return the peer's address and port, of an ASGI scope."""
    return "{}:{}".format(*scope.get("client") or ("", 0))


def flow_of(scope: Mapping[str, Any], key: str | None) -> Flow:
    """Return the flow of a request.

    An IPv6 address counts by its first 64 bits, since a host chooses the others for itself.

    Args:
        scope: of ASGI.
        key: name of the key; None where no key is required.
    """
    address = (scope.get("client") or ("", 0))[0]
    if ":" in address:
        address = str(IPv6Network((address.partition("%")[0], 64), strict=False))
    return Flow(address if key is None else f"key {key}", connection_of(scope))


class FairQueue(Generic[T]):
    """Queue in which each client has the same share of the server, and each connection the same share of its client's.

    Self-clocked fair queueing (Golestani, INFOCOM 1994): an item is tagged with the virtual time at which it would end
    if all clients in the queue shared the server equally; the item with the least tag is next.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Flow, T]] = []
        self._waiting: dict[str, Counter[str]] = {}  # items by client and connection
        self._ends: dict[Flow, float] = {}  # tag of the last item of each flow
        self._now = 0.0
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, flow: Flow, seconds: float, item: T) -> None:
        """Add an item that occupies the server for some seconds."""
        connections = self._waiting.setdefault(flow.client, Counter())
        connections[flow.connection] += 1
        end = max(self._now, self._ends.get(flow, 0.0)) + seconds * len(connections)
        self._ends[flow] = end
        heapq.heappush(self._heap, (end, next(self._numbers), flow, item))

    def pop(self, eligible: Callable[[T], bool] = lambda _: True) -> T | None:
        """Remove and return the next eligible item, or None."""
        passed_over = []
        found: T | None = None
        while self._heap:
            first = heapq.heappop(self._heap)
            end, _, flow, item = first
            if eligible(item):
                self._now = max(self._now, end)
                self._remove(flow)
                found = item
                break
            passed_over.append(first)
        for each in passed_over:
            heapq.heappush(self._heap, each)
        if not self._heap:
            self._ends = {flow: end for flow, end in self._ends.items() if end > self._now}
        return found

    def charge(self, flow: Flow, seconds: float) -> None:
        """Delay the next item of a flow by the seconds for which its last one exceeded the prediction."""
        self._ends[flow] = max(self._now, self._ends.get(flow, 0.0)) + seconds

    def _remove(self, flow: Flow) -> None:
        connections = self._waiting[flow.client]
        connections[flow.connection] -= 1
        if not connections[flow.connection]:
            del connections[flow.connection]
        if not connections:
            del self._waiting[flow.client]
