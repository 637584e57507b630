"""A structure's way through the API process: parse and graph in the pool, cache, queue, answer."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepergatgnn.crystal_graph import GraphConfig
from deepergatgnn.manifest import Manifest
from deepergatgnn.structures import StructureFormat
from service import metrics
from service.admission import Ticket
from service.cache import ResultCache
from service.catalogue import Catalogue
from service.dispatcher import Dispatcher
from service.entries import Lane, ModelAnswer
from service.errors import ServiceError
from service.parse_pool import ParsePool
from service.parsing import PackedGraph, Parsed

LEVEL = 0.9
Document = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Posted:
    """A crystal to predict in its one form, from whichever it was posted in.

    Attributes:
        source: file text, or a structure object.
        format: of the text.
        models: NAME or NAME@VERSION; none means all in production.
        attention: whether the weights of atoms are wanted.
        id: the client's own.
    """

    source: bytes | str | Mapping[str, Any]
    format: StructureFormat
    models: Sequence[str]
    attention: bool
    id: str | None


class Oracle:
    """Answers crystals, one at a time.

    Args:
        catalogue, pool, dispatcher: of the process.
        cache: of results.
    """

    def __init__(self, catalogue: Catalogue, pool: ParsePool, dispatcher: Dispatcher, cache: ResultCache) -> None:
        self.catalogue, self._pool, self._dispatcher, self._cache = catalogue, pool, dispatcher, cache

    async def answer(
        self, posted: Posted, *, request_id: str, started: float, deadline: float, lane: Lane, ticket: Ticket
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
            raise ServiceError(504, "deadline_passed", "the deadline passed before the crystal was computed") from None

    async def _answer(
        self, posted: Posted, request_id: str, started: float, deadline: float, lane: Lane, ticket: Ticket
    ) -> Document:
        manifests = self.catalogue.resolve(posted.models)
        by_config: dict[GraphConfig, list[str]] = {}
        for manifest in manifests:  # several models over one graph, as long as they read the same kind
            by_config.setdefault(manifest.graph, []).append(manifest.reference)
        layers = max(manifest.network.layers for manifest in manifests)
        try:
            self._dispatcher.go_on()
            parsed = await self._pool.parse(posted.source, posted.format, list(by_config), lane, layers)
        except BaseException:
            ticket.refused()
            raise
        asked = time.perf_counter()
        said, inference_ms, held_ms = await self._ask(
            list(zip(parsed.graphs, by_config.values(), strict=True)), posted, request_id, deadline, lane, ticket
        )
        now = time.perf_counter()
        waited_ms = (now - asked) * 1000
        inference_ms = min(waited_ms, inference_ms)
        latency = {
            "parse": round(parsed.parse_ms, 3),
            "graph": round(parsed.graph_ms, 3),
            "queue": round(waited_ms - inference_ms, 3),
            "inference": round(inference_ms, 3),
            "total": round((now - started) * 1000 + 0.002, 3),
        }
        predictions = [
            _prediction(manifest, said[manifest.reference], parsed, attention=posted.attention)
            for manifest in manifests
        ]
        _count(parsed, predictions, latency, held_ms)
        return {
            "id": posted.id or request_id,
            "formula": parsed.formula,
            "reduced_formula": parsed.reduced_formula,
            "n_atoms": parsed.n_atoms,
            "n_edges": parsed.graphs[0].n_edges,
            "cell": parsed.cell,
            "predictions": predictions,
            "warnings": parsed.warnings,
            "latency_ms": latency,
        }

    async def _ask(
        self,
        parts: Sequence[tuple[PackedGraph, Sequence[str]]],
        posted: Posted,
        request_id: str,
        deadline: float,
        lane: Lane,
        ticket: Ticket,
    ) -> tuple[dict[str, ModelAnswer], float, float]:
        """What each version says: of the cache where it knows, of the workers for the rest; ms computed and held."""
        said: dict[str, ModelAnswer] = {}
        wanted: list[tuple[PackedGraph, list[str]]] = []
        for graph, references in parts:
            kept = {reference: self._cache.get(graph, reference) for reference in references}
            said |= {reference: answer for reference, answer in kept.items() if answer is not None}
            if unknown := [reference for reference, answer in kept.items() if answer is None]:
                wanted.append((graph, unknown))
        admission = self._dispatcher.admission
        price = sum(admission.price(models, graph.n_links, graph.n_nodes) for graph, models in wanted)
        ticket.priced(price)
        if not wanted:
            ticket.answered(price)
            return said, 0.0, 0.0
        try:
            answers = await self._dispatcher.ask(
                wanted,
                deadline=deadline,
                request_id=request_id,
                attention=posted.attention or self._cache.enabled,
                lane=lane,
                more=ticket.unparsed > 0,
            )
        except BaseException:
            ticket.failed(price)
            raise
        ticket.answered(price)
        for (graph, _), answer in zip(wanted, answers, strict=True):
            for prediction in answer.predictions:
                said[prediction.model] = prediction
                self._cache.put(graph, prediction)
        return said, max(answer.inference_ms for answer in answers), max(answer.held_ms for answer in answers)


def _prediction(manifest: Manifest, answer: ModelAnswer, parsed: Parsed, *, attention: bool) -> Document:
    document: Document = {
        "model": manifest.name,
        "version": manifest.version,
        "property": manifest.target.property,
        "value": answer.value,
        "unit": manifest.target.unit,
        "interval": {"level": LEVEL, "low": answer.low, "high": answer.high},
        "domain": {"in_domain": answer.in_domain, "score": answer.score, "reasons": answer.reasons},
    }
    if attention:
        total = sum(answer.attention)
        document["attention"] = [
            {"index": index, "element": element, "frac_coords": coords, "weight": weight / total}
            for index, (element, coords, weight) in enumerate(
                zip(parsed.symbols, parsed.frac_coords, answer.attention, strict=True)
            )
        ]
    return document


def _count(parsed: Parsed, predictions: Sequence[Document], latency: Mapping[str, float], held_ms: float) -> None:
    for phase, milliseconds in latency.items():
        metrics.PHASE.labels(phase).observe(milliseconds / 1000)
    metrics.PHASE.labels("batch_wait").observe(held_ms / 1000)
    metrics.STRUCTURES.inc()
    metrics.ATOMS.inc(parsed.n_atoms)
    metrics.EDGES.inc(parsed.graphs[0].n_edges)
    for prediction in predictions:
        if not prediction["domain"]["in_domain"]:
            metrics.OUT_OF_DOMAIN.labels(prediction["model"]).inc()
