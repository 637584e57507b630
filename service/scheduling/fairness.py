"""Whose turn it is: weighted fair queueing between clients, and between the connections of each. Pure."""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from ipaddress import IPv6Network
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Flow(NamedTuple):
    """Whose a request is.

    Attributes:
        client: name of the key; where none is asked for, the address that the request came from.
        connection: of that client; the requests of one wait for each other.
    """

    client: str
    connection: str = ""


NOBODY = Flow("")  # of what the service does by itself


def connection_of(scope: Mapping[str, Any]) -> str:
    """Address and port of the other end of a connection, of its ASGI scope."""
    return "{}:{}".format(*scope.get("client") or ("", 0))


def flow_of(scope: Mapping[str, Any], key: str | None) -> Flow:
    """The flow of a request, of its ASGI scope and the name of its key, if one was asked for.

    IPv6 addresses count by their first 64 bits, the rest of which a host chooses for itself.
    """
    address = (scope.get("client") or ("", 0))[0]
    if ":" in address:
        address = str(IPv6Network((address.partition("%")[0], 64), strict=False))
    return Flow(address if key is None else f"key {key}", connection_of(scope))


class FairLine(Generic[T]):
    """Items that wait, each with the seconds that it will take.

    Self-clocked fair queueing (Golestani, INFOCOM 1994): an item is tagged with the time at which it would end if every
    client with something in the line had the same share of the server, and the least tag is next. Who sends much, or
    what takes long, waits for its own; connections share what their client has, so that more of them get no more.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Flow, T]] = []
        self._waiting: dict[str, Counter[str]] = {}
        self._ends: dict[Flow, float] = {}  # tag of the last item of each
        self._now = 0.0
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, flow: Flow, seconds: float, item: T) -> None:
        """Add an item that will take so long."""
        connections = self._waiting.setdefault(flow.client, Counter())
        connections[flow.connection] += 1
        end = max(self._now, self._ends.get(flow, 0.0)) + seconds * len(connections)
        self._ends[flow] = end
        heapq.heappush(self._heap, (end, next(self._numbers), flow, item))

    def pop(self, may_go: Callable[[T], bool] = lambda _: True) -> T | None:
        """Take the next item of those that may go; none if there is none."""
        passed_over = []
        found: T | None = None
        while self._heap:
            first = heapq.heappop(self._heap)
            end, _, flow, item = first
            if may_go(item):
                self._now = max(self._now, end)
                self._left(flow)
                found = item
                break
            passed_over.append(first)
        for each in passed_over:
            heapq.heappush(self._heap, each)
        if not self._heap:
            self._ends = {flow: end for flow, end in self._ends.items() if end > self._now}
        return found

    def charge(self, flow: Flow, seconds: float) -> None:
        """Count what an item took beyond what was predicted, or less, towards what its flow sends next."""
        self._ends[flow] = max(self._now, self._ends.get(flow, 0.0)) + seconds

    def _left(self, flow: Flow) -> None:
        connections = self._waiting[flow.client]
        connections[flow.connection] -= 1
        if not connections[flow.connection]:
            del connections[flow.connection]
        if not connections:
            del self._waiting[flow.client]
