"""A structure's way through the API process: parse and graph in the pool, cache, queue, answer."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson

from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.messages import Lane, ModelOutput, PackedGraph
from deepergatgnn.service.parsing.featurize import Parsed
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.service.prediction.catalogue import Catalogue
from deepergatgnn.service.prediction.result_cache import InFlight, Part, ResultCache
from deepergatgnn.service.queue.client import InferenceClient
from deepergatgnn.service.scheduling.admission import Demand, Ticket
from deepergatgnn.service.scheduling.parse_cost import Size, size_of
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.structures import StructureFormat

LEVEL = 0.9
Document = dict[str, Any]


@dataclass(eq=False)
class PredictionInput:
    """A crystal to predict in its one form, from whichever it was posted in.

    Attributes:
        source: file text, or a structure object.
        format: of the text.
        models: NAME or NAME@VERSION; none means all in production.
        attention: whether the weights of atoms are wanted.
        embedding: whether the crystal vectors are wanted.
        id: the client's own.
    """

    source: bytes | str | Mapping[str, Any]
    format: StructureFormat
    models: Sequence[str]
    attention: bool
    embedding: bool
    id: str | None

    @cached_property
    def size(self) -> Size:
        """How much it is, by counting lines."""
        if isinstance(self.source, Mapping):
            return Size.roughly(len(orjson.dumps(self.source)))
        return size_of(self.source.encode("utf-8", "surrogatepass") if isinstance(self.source, str) else self.source)


@dataclass(eq=False)
class _Pending:
    """A crystal on its way to its answers.

    Attributes:
        parts: a graph and the versions that read it, for each featuriser.
        attention: whether the weights of atoms are wanted.
        embedding: whether the crystal vectors are wanted.
        request_id, deadline, lane, ticket: of the request.
        follows: whether it may wait for what others have asked for.
        said: what each version says, so far.
        inference_ms, held_ms: that the workers took for it, on the device and before.
    """

    parts: Sequence[Part]
    attention: bool
    embedding: bool
    request_id: str
    deadline: float
    lane: Lane
    ticket: Ticket
    follows: bool = True
    said: dict[str, ModelOutput] = field(default_factory=dict)
    inference_ms: float = 0.0
    held_ms: float = 0.0


_Followed = list[tuple[InFlight, PackedGraph, str]]


class PredictionPipeline:
    """Answers crystals, one at a time.

    Args:
        catalogue, pool, dispatcher: of the process.
        cache: of results.
    """

    def __init__(self, catalogue: Catalogue, pool: ParsePool, dispatcher: InferenceClient, cache: ResultCache) -> None:
        self.catalogue, self._pool, self._dispatcher, self._cache = catalogue, pool, dispatcher, cache

    def demand(self, models: Sequence[str], size: Size) -> Demand:
        """Predicted seconds of a crystal before it is parsed.

        Raises:
            ModelNotFoundError: unknown model.
        """
        wanted = self.catalogue.resolve(models)
        parsing = self._pool.cost.seconds(size, len(wanted.readers))
        return self._dispatcher.admission.demand([version.identity for version in wanted.versions], size, parsing)

    async def answer(
        self, posted: PredictionInput, *, request_id: str, started: float, deadline: float, lane: Lane, ticket: Ticket
    ) -> Document:
        """The answer for one crystal, as the JSON of `schemas.PredictResponse`.

        Args:
            posted: the crystal.
            request_id: answers without an id of their own carry it.
            started: `time.perf_counter()` when it came.
            deadline: `time.monotonic()`.
            lane: interactive or bulk.
            ticket: of the admitted request that the crystal is part of.

        Raises:
            DeeperGATGNNError: unknown model, refused structure, or a ServiceError.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await self._answer(posted, request_id, started, deadline, lane, ticket)
        except TimeoutError:
            raise ServiceError("deadline_passed", "the deadline passed before the crystal was computed") from None

    async def _answer(
        self, posted: PredictionInput, request_id: str, started: float, deadline: float, lane: Lane, ticket: Ticket
    ) -> Document:
        wanted = self.catalogue.resolve(posted.models)
        try:
            self._dispatcher.ensure_accepting()
            with ticket.parsing():
                parsed = await self._pool.parse(
                    posted.source,
                    posted.format,
                    list(wanted.readers),
                    lane,
                    wanted.layers,
                    sites=posted.attention,
                    flow=ticket.flow,
                )
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                metrics.ABANDONED.labels("deadline" if time.monotonic() >= deadline else "gone").inc()
            ticket.refused()
            raise
        began = time.perf_counter()
        parts = list(zip(parsed.graphs, wanted.readers.values(), strict=True))
        attention = posted.attention or self._cache.enabled
        asked = _Pending(parts, attention, posted.embedding, request_id, deadline, lane, ticket)
        await self._ask(asked)
        now = time.perf_counter()
        waited_ms = (now - began) * 1000
        inference_ms = min(waited_ms, asked.inference_ms)
        latency = {
            "parse": round(parsed.parse_ms, 3),
            "graph": round(parsed.graph_ms, 3),
            "queue": round(waited_ms - inference_ms, 3),
            "inference": round(inference_ms, 3),
            "total": round((now - started) * 1000 + 0.002, 3),
        }
        predictions = [
            _prediction(version.manifest, asked.said[version.identity], parsed, posted) for version in wanted.versions
        ]
        _count(parsed, predictions, latency, asked.held_ms)
        return {
            "id": posted.id or request_id,
            "formula": parsed.formula,
            "reduced_formula": parsed.reduced_formula,
            "n_atoms": parsed.n_atoms,
            "n_edges": parsed.graphs[0].n_edges,
            "cell": parsed.cell,
            "predictions": predictions,
            "warnings": [*parsed.warnings, *_missing_intervals(version.manifest for version in wanted.versions)],
            "latency_ms": latency,
        }

    async def _ask(self, asked: _Pending) -> None:
        """Have each version say something: of the cache where it knows, of who asked before, of the workers."""
        wanted, followed = self._look_up(asked)
        price = self._price(wanted)
        asked.ticket.priced(price)
        try:
            await self._compute(asked, wanted)
            while not await self._follow(asked, followed):
                wanted, followed = self._look_up(asked)
                with self._costing(asked, self._price(wanted)):
                    await self._compute(asked, wanted)
        except BaseException:
            asked.ticket.failed(price)
            raise
        asked.ticket.answered(price)

    def _look_up(self, asked: _Pending) -> tuple[list[Part], _Followed]:
        """Note what the cache knows; what of the rest nobody has asked for, and what somebody has.

        Before others have their turn `_compute` must begin with the former, lest two ask for it.
        """
        wanted: list[Part] = []
        followed: _Followed = []
        for graph, references in asked.parts:
            unknown = []
            for reference in references:
                if reference in asked.said:
                    continue
                if (answer := self._cache.get(graph, reference, embedding=asked.embedding)) is not None:
                    asked.said[reference] = answer
                    continue
                flight = (
                    self._cache.under_way(graph, reference, asked.lane, asked.deadline, embedding=asked.embedding)
                    if asked.follows
                    else None
                )
                if flight is None:
                    unknown.append(reference)
                else:
                    followed.append((flight, graph, reference))
            if unknown:
                wanted.append((graph, unknown))
        return wanted, followed

    def _price(self, wanted: Sequence[Part]) -> float:
        price = self._dispatcher.admission.price
        return sum(price(references, graph.n_links, graph.n_nodes) for graph, references in wanted)

    @contextmanager
    def _costing(self, asked: _Pending, seconds: float) -> Iterator[None]:
        """Count the work of a crystal that was admitted as one that costs nothing, and has to be computed after all."""
        admission, done = self._dispatcher.admission, False
        admission.change(asked.lane, asked.ticket.flow, 0, Demand(0.0, seconds))
        admission.computing.begin(seconds)
        try:
            yield
            done = True
        finally:
            admission.change(asked.lane, asked.ticket.flow, 0, Demand(0.0, -seconds))
            admission.computing.end(seconds, done=done)

    async def _compute(self, asked: _Pending, wanted: Sequence[Part]) -> None:
        """Ask the workers, and let others wait for the same."""
        if not wanted:
            return
        with self._cache.leading(wanted, asked.lane, asked.deadline, embedding=asked.embedding) as flight:
            answers = await self._dispatcher.ask(
                wanted,
                deadline=asked.deadline,
                request_id=asked.request_id,
                attention=asked.attention,
                embedding=asked.embedding,
                lane=asked.lane,
                more=self._dispatcher.admission.unparsed[asked.lane] > 0,
            )
            for (graph, _), answer in zip(wanted, answers, strict=True):
                for prediction in answer.predictions:
                    asked.said[prediction.model] = prediction
                    self._cache.put(graph, prediction, flight)
        asked.inference_ms += max(answer.inference_ms for answer in answers)
        asked.held_ms += max(answer.held_ms for answer in answers)

    async def _follow(self, asked: _Pending, followed: _Followed) -> bool:
        """Wait for what others have asked for; whether all of it came.

        Where a leader gave up, who followed looks for another or becomes it. Where it was told an error, each asks by
        itself, as if nobody had led: following one after the other into the same error would take too long.
        """
        for flight, graph, reference in followed:
            answer = await flight.result(graph, reference)
            if answer is not None:
                asked.said[reference] = answer
            elif flight.failed or flight.results:  # with results, but none for these atoms
                asked.follows = False
        return all(reference in asked.said for _, _, reference in followed)


def _prediction(manifest: Manifest, answer: ModelOutput, parsed: Parsed, posted: PredictionInput) -> Document:
    document: Document = {
        "model": manifest.name,
        "version": manifest.version,
        "property": manifest.target.property,
        "value": answer.value,
        "unit": manifest.target.unit,
        "interval": None if answer.low is None else {"level": LEVEL, "low": answer.low, "high": answer.high},
        "domain": {"in_domain": answer.in_domain, "score": answer.score, "reasons": answer.reasons},
    }
    if answer.probabilities is not None:
        document["probabilities"] = answer.probabilities
    if posted.embedding:
        document["embedding"] = answer.embedding
    if posted.attention:
        total = sum(answer.attention)
        document["attention"] = [
            {"index": index, "element": element, "frac_coords": coords, "weight": weight / total}
            for index, (element, coords, weight) in enumerate(
                zip(parsed.symbols, parsed.frac_coords, answer.attention, strict=True)
            )
        ]
    return document


def _missing_intervals(manifests: Iterable[Manifest]) -> list[str]:
    """A sentence for each version that promises no interval."""
    reasons = [(manifest.reference, manifest.calibration.shortfall()) for manifest in manifests]
    return [f"{reference} gives no 90 % interval: {reason}" for reference, reason in reasons if reason]


def _count(parsed: Parsed, predictions: Sequence[Document], latency: Mapping[str, float], held_ms: float) -> None:
    for phase, milliseconds in latency.items():
        metrics.PHASES.labels(phase).observe(milliseconds / 1000)
    metrics.PHASES.labels("batch_wait").observe(held_ms / 1000)
    metrics.STRUCTURES.inc()
    metrics.ATOMS.inc(parsed.n_atoms)
    metrics.EDGES.inc(parsed.graphs[0].n_edges)
    for prediction in predictions:
        if not prediction["domain"]["in_domain"]:
            metrics.OUT_OF_DOMAIN.labels(prediction["model"]).inc()
