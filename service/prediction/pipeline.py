"""From a structure to its answer in the API process: parse pool, result cache, inference queue, answer."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.lanes import Lane
from deepergatgnn.service.messages import ModelOutput, PackedGraph
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.service.parsing.wire import BodyItem, ParsedStructure, RequestBody
from deepergatgnn.service.prediction.answers import atom_weights, missing_intervals, property_prediction
from deepergatgnn.service.prediction.catalogue import Catalogue, ResolvedModels
from deepergatgnn.service.prediction.result_cache import InFlight, Part, ResultCache, of_one_cell
from deepergatgnn.service.queue.client import InferenceClient
from deepergatgnn.service.scheduling.admission import Admission, Crystal, Demand, Ticket
from deepergatgnn.service.scheduling.fairness import Flow
from deepergatgnn.service.scheduling.parse_cost import Size, size_of
from deepergatgnn.service.schemas import PredictResponse, PropertyPrediction
from deepergatgnn.service.telemetry import metrics
from deepergatgnn.structures import StructureFormat


@dataclass(eq=False)
class PredictionInput:
    """A structure and what to predict of it.

    Attributes:
        source: content of the file; JSON of a structure object.
        models: NAME or NAME@VERSION; all in production if empty.
        attention, embedding: whether to return the weights of the atoms, and the crystal vectors.
        id: the client's own.
    """

    source: bytes
    format: StructureFormat
    models: Sequence[str]
    attention: bool
    embedding: bool
    id: str | None

    @classmethod
    def of(cls, body: RequestBody, item: BodyItem) -> "PredictionInput":
        """Return the input of one item of a JSON body."""
        return cls(bytes(item.content), item.format, body.models, body.attention, body.embedding, item.id)

    @cached_property
    def size(self) -> Size:
        """Estimated size, from counts of lines."""
        return size_of(self.source)


@dataclass(eq=False)
class PendingPrediction:
    """A parsed structure whose model outputs are being collected.

    Attributes:
        follows: whether it may wait for identical structures in flight.
        outputs: of each version, so far.
        inference_ms, held_ms: time on the device, and in the worker before.
    """

    parts: Sequence[Part]
    attention: bool
    embedding: bool
    request_id: str
    deadline: float
    lane: Lane
    crystal: Crystal
    follows: bool = True
    outputs: dict[str, ModelOutput] = field(default_factory=dict)
    inference_ms: float = 0.0
    held_ms: float = 0.0


_Followed = list[tuple[InFlight, PackedGraph, str]]


class PredictionPipeline:
    """Predicts structures, one at a time.

    Args:
        catalogue, pool, client, admission, cache: of the process.
    """

    def __init__(
        self, catalogue: Catalogue, pool: ParsePool, client: InferenceClient, admission: Admission, cache: ResultCache
    ) -> None:
        self.catalogue, self._pool, self._client, self._cache = catalogue, pool, client, cache
        self._admission = admission

    def demand(self, models: Sequence[str], size: Size) -> Demand:
        """Predict the seconds of a structure before it is parsed.

        Raises:
            ModelNotFoundError: unknown model.
        """
        resolved = self.catalogue.resolve(models)
        parsing = self._pool.cost.seconds(size, len(resolved.identities))
        return self._admission.demand([version.identity for version in resolved.versions], size, parsing)

    async def answer(
        self, given: PredictionInput, *, request_id: str, started: float, deadline: float, lane: Lane, ticket: Ticket
    ) -> PredictResponse:
        """Answer for one structure.

        Args:
            given: the structure.
            request_id: id of an answer whose structure has none.
            started: `time.perf_counter()` at its arrival.
            deadline: of `time.monotonic()`.
            lane: interactive or bulk.
            ticket: of the admitted request that the structure is part of.

        Raises:
            DeeperGATGNNError: unknown model, refused structure, or a ServiceError.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                models = self.catalogue.resolve(given.models)
                with ticket.crystal() as crystal:
                    parsed = await self._parse(given, models, deadline, lane, ticket.flow, crystal)
                    began = time.perf_counter()
                    pending = PendingPrediction(
                        self._parts(parsed, models),
                        given.attention or self._cache.enabled,
                        given.embedding,
                        request_id,
                        deadline,
                        lane,
                        crystal,
                    )
                    await self._collect(pending)
        except TimeoutError:
            raise ServiceError("deadline_passed", "the deadline passed before the crystal was computed") from None
        now = time.perf_counter()
        waited_ms = (now - began) * 1000
        inference_ms = min(waited_ms, pending.inference_ms)
        response: PredictResponse = {
            "id": given.id or request_id,
            "formula": parsed.formula,
            "reduced_formula": parsed.reduced_formula,
            "n_atoms": parsed.n_atoms,
            "n_edges": parsed.graphs[0].n_edges,
            "cell": parsed.cell,
            "predictions": [
                _prediction(version.manifest, pending.outputs[version.identity], parsed, given)
                for version in models.versions
            ],
            "warnings": [*parsed.warnings, *missing_intervals(version.manifest for version in models.versions)],
            "latency_ms": {
                "parse": round(parsed.parse_ms, 3),
                "graph": round(parsed.graph_ms, 3),
                "queue": round(waited_ms - inference_ms, 3),
                "inference": round(inference_ms, 3),
                "total": round((now - started) * 1000 + 0.002, 3),
            },
        }
        _count(response, pending.held_ms)
        return response

    async def _parse(
        self, given: PredictionInput, models: ResolvedModels, deadline: float, lane: Lane, flow: Flow, crystal: Crystal
    ) -> ParsedStructure:
        try:
            self._client.ensure_accepting()
            with crystal.parsing():
                return await self._pool.parse(
                    given.source,
                    given.format,
                    list(models.identities),
                    lane,
                    models.layers,
                    sites=given.attention,
                    flow=flow,
                )
        except asyncio.CancelledError:
            metrics.ABANDONED.labels("deadline" if time.monotonic() >= deadline else "gone").inc()
            raise

    def _parts(self, parsed: ParsedStructure, models: ResolvedModels) -> list[Part]:
        """Return the graphs and their versions; of versions whose results hold for one cell only, in parts apart."""
        parts: list[Part] = []
        cell_bound = models.cell_bound if self._cache.enabled else frozenset()
        for graph, identities in zip(parsed.graphs, models.identities.values(), strict=True):
            if bound := [identity for identity in identities if identity in cell_bound]:
                parts.append((of_one_cell(graph), bound))
            if others := [identity for identity in identities if identity not in cell_bound]:
                parts.append((graph, others))
        return parts

    async def _collect(self, pending: PendingPrediction) -> None:
        """Collect the output of every version: from the cache, an identical request in flight, or the workers."""
        while True:
            missing, followed = self._look_up(pending)
            # After the first pass: the cost of a structure whose expected result in flight did not arrive.
            pending.crystal.price(self._price(missing))
            await self._compute(pending, missing)
            if await self._follow(pending, followed):
                return

    def _look_up(self, pending: PendingPrediction) -> tuple[list[Part], _Followed]:
        """Take outputs from the cache; return what no request computes yet, and the requests to follow.

        `_compute` must begin with the former before the event loop runs anything else, lest it be computed twice.
        """
        cache, missing, followed = self._cache, list[Part](), _Followed()
        for graph, references in pending.parts:
            unknown = []
            for reference in references:
                if reference in pending.outputs:
                    continue
                if (output := cache.get(graph, reference, embedding=pending.embedding)) is not None:
                    pending.outputs[reference] = output
                elif pending.follows and (
                    in_flight := cache.in_flight(
                        graph, reference, pending.lane, pending.deadline, embedding=pending.embedding
                    )
                ):
                    followed.append((in_flight, graph, reference))
                else:
                    unknown.append(reference)
            if unknown:
                missing.append((graph, unknown))
        return missing, followed

    def _price(self, parts: Sequence[Part]) -> float:
        price = self._admission.price
        return sum(price(references, graph.n_links, graph.n_nodes) for graph, references in parts)

    async def _compute(self, pending: PendingPrediction, parts: Sequence[Part]) -> None:
        """Request outputs from the workers; identical structures may follow."""
        if not parts:
            return
        with self._cache.lead(parts, pending.lane, pending.deadline, embedding=pending.embedding) as in_flight:
            replies = await self._client.ask(
                parts,
                deadline=pending.deadline,
                request_id=pending.request_id,
                attention=pending.attention,
                embedding=pending.embedding,
                lane=pending.lane,
                more=self._admission.lanes[pending.lane].unparsed > 0,
            )
            for (graph, _), reply in zip(parts, replies, strict=True):
                for output in reply.predictions:
                    pending.outputs[output.model] = output
                    self._cache.put(graph, output, in_flight)
        pending.inference_ms += max(reply.inference_ms for reply in replies)
        pending.held_ms += max(reply.held_ms for reply in replies)

    async def _follow(self, pending: PendingPrediction, followed: _Followed) -> bool:
        """Wait for requests in flight; return whether all of their outputs came.

        If a leader is cancelled, a follower leads next. If it fails, its followers compute by themselves, since
        following one failing leader after the other would take too long.
        """
        for in_flight, graph, reference in followed:
            output = await in_flight.result(graph, reference)
            if output is not None:
                pending.outputs[reference] = output
            elif in_flight.failed or in_flight.results:  # results, but none for these atoms
                pending.follows = False
        return all(reference in pending.outputs for _, _, reference in followed)


def _prediction(
    manifest: Manifest, output: ModelOutput, parsed: ParsedStructure, given: PredictionInput
) -> PropertyPrediction:
    prediction = property_prediction(
        manifest,
        value=output.value,
        low=output.low,
        high=output.high,
        in_domain=output.in_domain,
        score=output.score,
        reasons=output.reasons,
        probabilities=output.probabilities,
    )
    if given.embedding:
        prediction["embedding"] = output.embedding
    if not given.attention:
        return prediction
    if output.attention is None:
        prediction["attention"] = None
        prediction["attention_reason"] = output.attention_reason or "the network of this model has no attention"
    else:
        prediction["attention"] = atom_weights(parsed.symbols, parsed.frac_coords, output.attention)
    return prediction


def _count(response: PredictResponse, held_ms: float) -> None:
    for phase, milliseconds in cast("dict[str, float]", response["latency_ms"]).items():
        metrics.PHASES.labels(phase).observe(milliseconds / 1000)
    metrics.PHASES.labels("batch_wait").observe(held_ms / 1000)
    metrics.STRUCTURES.inc()
    metrics.ATOMS.inc(response["n_atoms"])
    metrics.EDGES.inc(response["n_edges"])
    for prediction in response["predictions"]:
        if not prediction["domain"]["in_domain"]:
            metrics.OUT_OF_DOMAIN.labels(prediction["model"]).inc()
