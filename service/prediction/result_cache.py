"""Model outputs by crystal and version: a repeated crystal, in whatever cell, costs a worker nothing.

Identical crystals in flight share one computation: the first request leads, the others follow.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from msgspec.structs import replace

from deepergatgnn.service.lanes import Lane
from deepergatgnn.service.messages import ModelOutput, PackedGraph
from deepergatgnn.service.telemetry import metrics

LEADER_SHARE = 0.5  # of a follower's remaining time that its leader must have left
Key = tuple[str, str]  # digest of a crystal, NAME@VERSION:DIGEST
Part = tuple[PackedGraph, Sequence[str]]  # a graph, and the versions that it is an input of


def of_one_cell(graph: PackedGraph) -> PackedGraph:
    """Return a graph whose results hold for the identical graph only.

    For networks that see more of a crystal than `crystal_digest` does, such as positions.
    """
    digest = hashlib.sha256(graph.content).hexdigest()
    atoms = [str(index) for index in range(len(graph.colours))]
    return PackedGraph(graph.content, graph.n_nodes, graph.n_links, graph.n_edges, digest=digest, colours=atoms)


@dataclass(frozen=True)
class Result:
    """An output for a crystal in any of its cells.

    Attributes:
        output: its attention is empty, or None if the network has none.
        weights: attention of an atom times the number of atoms, by the atom's colour: the same in every cell.
    """

    output: ModelOutput
    weights: dict[str, float]

    @classmethod
    def of(cls, graph: PackedGraph, output: ModelOutput) -> "Result":
        """Return the result of an output whose attention is in the order of the graph's posted atoms."""
        if output.attention is None:
            return cls(output, {})
        n_atoms = len(graph.colours)
        weights = {colour: weight * n_atoms for colour, weight in zip(graph.colours, output.attention, strict=True)}
        return cls(replace(output, attention=()), weights)

    def for_cell(self, graph: PackedGraph) -> ModelOutput | None:
        """Return the output for a cell, its attention in the order of the posted atoms; None if the atoms differ."""
        if self.output.attention is None:
            return self.output
        if not all(colour in self.weights for colour in graph.colours):
            return None
        n_atoms = len(graph.colours)
        return replace(self.output, attention=tuple(self.weights[colour] / n_atoms for colour in graph.colours))


@dataclass(eq=False)
class InFlight:
    """A request to the workers, the leader's, which others may follow.

    Attributes:
        lane, deadline: of the leader; the deadline is of `time.monotonic()`.
        embedding: whether the results have crystal vectors.
        results: of the request.
        failed: whether it failed, rather than being cancelled.
        done: set at its end.
    """

    lane: Lane
    deadline: float
    embedding: bool = False
    results: dict[Key, Result] = field(default_factory=dict)
    failed: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def result(self, graph: PackedGraph, reference: str) -> ModelOutput | None:
        """Wait for the end, and return the output of a version for a cell of the crystal; None if there is none."""
        await self.done.wait()
        result = self.results.get((graph.digest, reference))
        output = None if result is None else result.for_cell(graph)
        if output is not None:
            metrics.CACHE.labels("shared").inc()
        return output


class ResultCache:
    """Least recently used results, and requests in flight.

    Args:
        size: maximum number of results; 0 keeps and shares none.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._results: OrderedDict[Key, Result] = OrderedDict()
        self._in_flight: dict[Key, InFlight] = {}

    @property
    def enabled(self) -> bool:
        """Whether results are kept."""
        return self._size > 0

    def get(self, graph: PackedGraph, reference: str, *, embedding: bool = False) -> ModelOutput | None:
        """Return the output of a version for a crystal, its attention in the order of the posted atoms.

        Args:
            graph: of the crystal.
            reference: of the version.
            embedding: whether the output must have the crystal vector.
        """
        result = self._results.get((graph.digest, reference))
        output = None if result is None or (embedding and not result.output.embedding) else result.for_cell(graph)
        if output is not None:
            metrics.CACHE.labels("hit").inc()
            self._results.move_to_end((graph.digest, reference))
        return output

    def put(self, graph: PackedGraph, output: ModelOutput, in_flight: InFlight | None = None) -> None:
        """Keep an output, also for the followers of a request; its attention must have been requested."""
        if not self._size or output.attention == ():
            return
        key, result = (graph.digest, output.model), Result.of(graph, output)
        if in_flight is not None:
            in_flight.results[key] = result
        if not output.embedding and (before := self._results.get(key)) is not None:
            result = Result(replace(result.output, embedding=before.output.embedding), result.weights)
        self._results[key] = result
        self._results.move_to_end(key)
        while len(self._results) > self._size:
            self._results.popitem(last=False)

    def in_flight(
        self, graph: PackedGraph, reference: str, lane: Lane, deadline: float, *, embedding: bool = False
    ) -> InFlight | None:
        """Return the request that computes the output of a version for a crystal, if it may be followed.

        An interactive request does not follow a bulk one, none follows a leader with a much earlier deadline, and one
        that needs the crystal vector none that does not.
        """
        leader = self._in_flight.get((graph.digest, reference))
        if leader is None or (lane.priority < leader.lane.priority) or (embedding and not leader.embedding):
            return None
        now = time.monotonic()
        return leader if leader.deadline - now >= LEADER_SHARE * (deadline - now) else None

    @contextmanager
    def lead(
        self, parts: Sequence[Part], lane: Lane, deadline: float, *, embedding: bool = False
    ) -> Iterator[InFlight]:
        """Let others follow the request that is made within the block."""
        leader = InFlight(lane, deadline, embedding)
        keys = [(graph.digest, reference) for graph, references in parts for reference in references]
        if self._size:
            metrics.CACHE.labels("miss").inc(len(keys))
            self._in_flight |= dict.fromkeys(keys, leader)
        try:
            yield leader
        except Exception:  # not a cancellation
            leader.failed = True
            raise
        finally:
            for key in keys:
                if self._in_flight.get(key) is leader:  # a request that could not follow replaces it
                    del self._in_flight[key]
            leader.done.set()
