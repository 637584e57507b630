"""Results kept by crystal and version, so that what was asked before, in whatever cell, costs a worker nothing.

What was asked before and is not answered yet is waited for: identical crystals under way share one computation.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from msgspec.structs import replace

from deepergatgnn.service.lanes import Lane
from deepergatgnn.service.messages import ModelOutput, PackedGraph
from deepergatgnn.service.telemetry import metrics

PATIENCE = 0.5  # share of one's own time that a leader must have left: who soon gives up holds nobody back
Key = tuple[str, str]  # digest of a crystal, NAME@VERSION
Part = tuple[PackedGraph, Sequence[str]]  # a graph and the versions that read it


@dataclass(frozen=True)
class Result:
    """An answer for a crystal in any of its cells.

    Attributes:
        answer: without attention; with the crystal vector, if anybody wanted it.
        weights: what an atom weighs times the number of atoms, by the colour of the atom: the same in every cell.
    """

    answer: ModelOutput
    weights: dict[str, float]

    @classmethod
    def of(cls, graph: PackedGraph, answer: ModelOutput) -> "Result":
        """The result of an answer whose attention is in the order of the atoms posted with the graph."""
        n_atoms = len(graph.colours)
        weights = {colour: weight * n_atoms for colour, weight in zip(graph.colours, answer.attention, strict=True)}
        return cls(replace(answer, attention=()), weights)

    def for_cell(self, graph: PackedGraph) -> ModelOutput | None:
        """The answer for a cell, its attention in the order of the posted atoms; none if it has other atoms."""
        if not all(colour in self.weights for colour in graph.colours):
            return None
        n_atoms = len(graph.colours)
        return replace(self.answer, attention=tuple(self.weights[colour] / n_atoms for colour in graph.colours))


@dataclass(eq=False)
class InFlight:
    """What somebody, the leader, has asked the workers for, and others may wait for.

    Attributes:
        lane, deadline: of the leader; the deadline is of `time.monotonic()`.
        embedding: whether the crystal vectors come with the results.
        results: what came of it.
        failed: whether the leader was told an error, rather than gave up.
        landed: set when it is over, whichever way.
    """

    lane: Lane
    deadline: float
    embedding: bool = False
    results: dict[Key, Result] = field(default_factory=dict)
    failed: bool = False
    landed: asyncio.Event = field(default_factory=asyncio.Event)

    async def result(self, graph: PackedGraph, reference: str) -> ModelOutput | None:
        """The answer of a version for a cell of the crystal, once the flight is over; none if it came to nothing."""
        await self.landed.wait()
        found = self.results.get((graph.digest, reference))
        answer = None if found is None else found.for_cell(graph)
        if answer is not None:
            metrics.CACHE.labels("shared").inc()
        return answer


class ResultCache:
    """The results used last, and the flights under way.

    Args:
        size: results at most; 0 keeps none, and shares none.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Key, Result] = OrderedDict()
        self._flights: dict[Key, InFlight] = {}

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._size > 0

    def get(self, graph: PackedGraph, reference: str, *, embedding: bool = False) -> ModelOutput | None:
        """The answer of a version for a crystal, its attention in the order of the posted atoms.

        Args:
            graph: of the crystal.
            reference: of the version.
            embedding: whether an answer without the crystal vector is none.
        """
        found = self._kept.get((graph.digest, reference))
        answer = None if found is None or (embedding and not found.answer.embedding) else found.for_cell(graph)
        if answer is not None:
            metrics.CACHE.labels("hit").inc()
            self._kept.move_to_end((graph.digest, reference))
        return answer

    def put(self, graph: PackedGraph, answer: ModelOutput, flight: InFlight | None = None) -> None:
        """Keep an answer with attention, and have who waits for the flight told."""
        if not self._size or not answer.attention:
            return
        key, result = (graph.digest, answer.model), Result.of(graph, answer)
        if flight is not None:
            flight.results[key] = result
        if not answer.embedding and (before := self._kept.get(key)) is not None:
            result = Result(replace(result.answer, embedding=before.answer.embedding), result.weights)
        self._kept[key] = result
        self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def under_way(
        self, graph: PackedGraph, reference: str, lane: Lane, deadline: float, *, embedding: bool = False
    ) -> InFlight | None:
        """The flight that brings the answer of a version for a crystal, if who wants it in that lane may wait for it.

        An interactive crystal does not wait behind bulk work, none for a leader who gives up long before itself, and
        who wants the crystal vector for none who does not.
        """
        flight = self._flights.get((graph.digest, reference))
        if flight is None or lane.priority < flight.lane.priority or (embedding and not flight.embedding):
            return None
        now = time.monotonic()
        return flight if flight.deadline - now >= PATIENCE * (deadline - now) else None

    @contextmanager
    def leading(
        self, parts: Sequence[Part], lane: Lane, deadline: float, *, embedding: bool = False
    ) -> Iterator[InFlight]:
        """Let others wait for what is asked for within the block, in that lane; the flight is over when it ends."""
        flight = InFlight(lane, deadline, embedding)
        keys = [(graph.digest, reference) for graph, references in parts for reference in references]
        if self._size:
            metrics.CACHE.labels("miss").inc(len(keys))
            self._flights |= dict.fromkeys(keys, flight)
        try:
            yield flight
        except Exception:  # a leader who leaves, or whose time is up, is cancelled, which is none
            flight.failed = True
            raise
        finally:
            for key in keys:
                if self._flights.get(key) is flight:  # else somebody who did not wait for it leads another one
                    del self._flights[key]
            flight.landed.set()
