"""A structure's way through the API process: parse and graph in the pool, queue, answer."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepergatgnn.crystal_graph import GraphConfig
from deepergatgnn.manifest import Manifest
from deepergatgnn.structures import StructureFormat
from service import metrics
from service.catalogue import Catalogue
from service.dispatcher import Dispatcher
from service.entries import ModelAnswer
from service.errors import ServiceError
from service.parsing import Parsed, ParsePool
from service.schemas import (
    AtomWeight,
    DomainVerdict,
    Interval,
    LatencyMs,
    PredictResponse,
    PropertyPrediction,
)

LEVEL = 0.9


@dataclass(frozen=True, eq=False)
class Posted:
    """A request in its one form, from whichever of the three it was posted in.

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


async def predict_crystal(
    posted: Posted,
    request_id: str,
    started: float,
    deadline: float,
    catalogue: Catalogue,
    pool: ParsePool,
    dispatcher: Dispatcher,
) -> PredictResponse:
    """Answer one request.

    Args:
        posted: the request.
        request_id: answers without an id of their own carry it.
        started: `time.perf_counter()` when it came.
        deadline: Unix time.
        catalogue: of the process.
        pool: of the process.
        dispatcher: of the process.

    Raises:
        DeeperGATGNNError: unknown model, refused structure, or a ServiceError.
    """
    try:
        async with asyncio.timeout(max(0.0, deadline - time.time())):
            return await _predict(posted, request_id, started, deadline, catalogue, pool, dispatcher)
    except TimeoutError:
        raise ServiceError(504, "deadline_passed", "the deadline passed before the crystal was computed") from None


async def _predict(
    posted: Posted,
    request_id: str,
    started: float,
    deadline: float,
    catalogue: Catalogue,
    pool: ParsePool,
    dispatcher: Dispatcher,
) -> PredictResponse:
    manifests = catalogue.resolve(posted.models)
    by_config: dict[GraphConfig, list[Manifest]] = {}
    for manifest in manifests:  # several models over one graph, as long as they read the same kind
        by_config.setdefault(manifest.graph, []).append(manifest)
    parsed = await pool.parse(posted.source, posted.format, list(by_config))
    asked = time.perf_counter()
    answers = await dispatcher.ask(
        list(zip(parsed.graphs, by_config.values(), strict=True)), deadline, attention=posted.attention
    )
    waited_ms = (time.perf_counter() - asked) * 1000
    inference_ms = min(waited_ms, max(answer.inference_ms for answer in answers))
    said = {prediction.model: prediction for answer in answers for prediction in answer.predictions}
    predictions = [_prediction(manifest, said[f"{manifest.name}@{manifest.version}"], parsed) for manifest in manifests]
    latency = LatencyMs(
        parse=round(parsed.parse_ms, 3),
        graph=round(parsed.graph_ms, 3),
        queue=round(waited_ms - inference_ms, 3),
        inference=round(inference_ms, 3),
        total=round((time.perf_counter() - started) * 1000 + 0.001, 3),
    )
    _count(parsed, predictions, latency)
    graph = parsed.graphs[0]
    return PredictResponse(
        id=posted.id or request_id,
        formula=parsed.formula,
        reduced_formula=parsed.reduced_formula,
        n_atoms=graph.n_atoms,
        n_edges=graph.n_edges,
        predictions=predictions,
        warnings=list(parsed.warnings),
        latency_ms=latency,
    )


def _prediction(manifest: Manifest, answer: ModelAnswer, parsed: Parsed) -> PropertyPrediction:
    return PropertyPrediction(
        model=manifest.name,
        version=manifest.version,
        property=manifest.target.property,
        value=answer.value,
        unit=manifest.target.unit,
        interval=Interval(level=LEVEL, low=answer.low, high=answer.high),
        domain=DomainVerdict(in_domain=answer.in_domain, score=answer.score, reasons=list(answer.reasons)),
        attention=_weights(parsed, answer.attention) if answer.attention else None,
    )


def _weights(parsed: Parsed, attention: Sequence[float]) -> list[AtomWeight]:
    total = sum(attention)
    return [
        AtomWeight(index=index, element=element, frac_coords=coords, weight=weight / total)
        for index, (element, coords, weight) in enumerate(
            zip(parsed.symbols, parsed.frac_coords, attention, strict=True)
        )
    ]


def _count(parsed: Parsed, predictions: Sequence[PropertyPrediction], latency: LatencyMs) -> None:
    for phase, milliseconds in latency.model_dump().items():
        metrics.PHASE.labels(phase).observe(milliseconds / 1000)
    metrics.STRUCTURES.inc()
    metrics.ATOMS.inc(parsed.graphs[0].n_atoms)
    metrics.EDGES.inc(parsed.graphs[0].n_edges)
    for prediction in predictions:
        if not prediction.domain.in_domain:
            metrics.OUT_OF_DOMAIN.labels(prediction.model).inc()
