"""Checkpoints on a device: batches of requests in, replies out."""

import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
import torch

from deepergatgnn.errors import ArtifactError, DeeperGATGNNError, ModelNotFoundError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.nn.batch import GraphBatch, collate, edges_at_once, split_by_edges
from deepergatgnn.predictor import Prediction, Predictor
from deepergatgnn.service.messages import ErrorCode, InferenceReply, InferenceRequest, ModelOutput
from deepergatgnn.service.scheduling.cost import Cost, CostModel
from deepergatgnn.service.worker.measurements import measure_costs

log = structlog.get_logger("engine")
MAX_LOADED = 16
MAX_REFUSED = 256
REFUSED_S = 30.0  # for which a version that could not be loaded is not read again

BATCH_ERRORS = (RuntimeError, ValueError, IndexError, MemoryError)
Part = tuple[Sequence[int], GraphBatch]  # indices of requests and their collated graphs
Prepared = dict[tuple[int, ...], list[Part]]  # by the indices of the requests for the same model


class ModelUnavailableError(DeeperGATGNNError):
    """A requested version cannot be loaded by this worker."""


class DeviceLostError(DeeperGATGNNError):
    """The device does not compute any more: the worker must end."""


@dataclass
class BatchResult:
    """Replies to a batch.

    Attributes:
        replies: one for each request, in their order.
        out_of_memory: whether the device ran out of memory.
        too_many_edges: edges of the smallest part of several crystals that did not fit into memory; 0 if there is none.
    """

    replies: list[InferenceReply] = field(default_factory=list)
    out_of_memory: bool = False
    too_many_edges: int = 0


class Engine:
    """Loaded checkpoints, each by its identity NAME@VERSION:DIGEST, the least recently used first.

    Args:
        store: source of the checkpoints.
        device: for the computations.
        worker: name in the replies.
    """

    def __init__(self, store: ModelStore, device: torch.device, worker: str) -> None:
        self._store, self._device, self._worker = store, device, worker
        self._predictors: OrderedDict[str, Predictor] = OrderedDict()
        self._costs: dict[str, CostModel] = {}
        self._refused: dict[str, tuple[float, str]] = {}

    @property
    def loaded(self) -> list[str]:
        """Identities of the loaded versions."""
        return list(self._predictors)

    @property
    def predictors(self) -> list[Predictor]:
        """The loaded versions."""
        return list(self._predictors.values())

    @property
    def costs(self) -> dict[str, Cost]:
        """Costs of the loaded versions on this device, by identity."""
        return {identity: model.cost for identity, model in list(self._costs.items())}

    def load(self, reference: str) -> str:
        """Load a version beside those in use: verify it, compute its golden set, measure its costs.

        Returns:
            Its identity.

        Raises:
            ArtifactError, ModelNotFoundError: if it is missing, damaged, or misses its golden values.
            DeviceLostError: if the device is gone.
        """
        try:
            return self._load(reference)
        except (ArtifactError, ModelNotFoundError):
            raise
        except Exception as error:
            self.check_device()
            log.exception("version failed to load", model=reference)
            raise ArtifactError(f"{reference} cannot be loaded: {type(error).__name__}, see the worker's log") from None

    def _load(self, reference: str) -> str:
        version = self._store.version(reference)
        predictor = Predictor.load(self._store.folder(reference), self._device)
        if predictor.manifest != version.manifest:
            raise ArtifactError(f"{reference} changed while it was read: versions are immutable, publish a new one")
        if not predictor.manifest.network.may_merge_atoms:
            raise ArtifactError(f"{reference}: the network sees more than symmetry reduction preserves: not served yet")
        predictor.check_golden()
        self._costs[version.identity] = measure_costs(predictor)
        self._predictors[version.identity] = predictor
        return version.identity

    def evict(self, keep: Sequence[str]) -> None:
        """Drop the least recently used versions over `MAX_LOADED`, but none of `keep`."""
        spare = [identity for identity in self.loaded if identity not in keep]
        for identity in spare[: max(0, len(self._predictors) - MAX_LOADED)]:
            self._predictors.pop(identity, None)
            self._costs.pop(identity, None)

    def check_device(self) -> None:
        """Run a trivial computation: after some errors a GPU fails every one.

        Raises:
            DeviceLostError: if it fails.
        """
        try:
            (torch.ones(1, device=self._device) + 1).item()
        except RuntimeError as error:
            raise DeviceLostError(f"{self._device} does not compute any more: {error}") from error

    def prepare(self, requests: Sequence[InferenceRequest]) -> Prepared:
        """Collate requests and copy them to the device, which may be busy; return less if that fails."""
        prepared: Prepared = {}
        with contextlib.suppress(*BATCH_ERRORS):  # `answer` finds the request at fault
            for rows in dict.fromkeys(_rows_by_model(requests).values()):
                prepared[rows] = self._collate(requests, rows)
        return prepared

    def answer(self, requests: Sequence[InferenceRequest], prepared: Prepared | None = None) -> BatchResult:
        """Answer a batch; a request that breaks it is found by halving and fails alone.

        Args:
            requests: of the batch.
            prepared: result of `prepare` for these requests.
        """
        result = BatchResult()
        self._answer(requests, dict(prepared or {}), result)
        return result

    def _answer(self, requests: Sequence[InferenceRequest], prepared: Prepared, result: BatchResult) -> None:
        started = time.perf_counter()
        try:
            outputs = self._predict(requests, prepared)
        except ModelUnavailableError as error:
            failure: tuple[ErrorCode, str] = ("model_unavailable", str(error))
        except BATCH_ERRORS as error:
            self.check_device()
            if _is_out_of_memory(error):
                self._note_memory(requests, result)
            if len(requests) > 1:
                log.warning("batch failed, halving it", entries=len(requests), error=str(error))
            else:
                [request] = requests
                log.exception("request failed", entry=request.id, request_id=request.request_id)
            failure = (
                "prediction_failed",
                "the model could not compute this crystal: check the structure, or report the request id",
            )
        else:
            elapsed = (time.perf_counter() - started) * 1000
            result.replies += [
                InferenceReply(request.id, tuple(of_request), elapsed, worker=self._worker)
                for request, of_request in zip(requests, outputs, strict=True)
            ]
            return
        if len(requests) == 1:
            result.replies.append(InferenceReply(requests[0].id, worker=self._worker, error=failure))
            return
        middle = len(requests) // 2
        self._answer(requests[:middle], {}, result)
        self._answer(requests[middle:], {}, result)

    def _note_memory(self, requests: Sequence[InferenceRequest], result: BatchResult) -> None:
        result.out_of_memory = True
        if len(requests) > 1:
            result.too_many_edges = sum(request.graph.n_links for request in requests)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _predict(self, requests: Sequence[InferenceRequest], prepared: Prepared) -> list[list[ModelOutput]]:
        """Run every model once over its requests; models of the same requests share collated batches."""
        outputs: list[dict[str, ModelOutput]] = [{} for _ in requests]
        for identity, rows in _rows_by_model(requests).items():
            predictor = self._predictor(identity)
            if rows not in prepared:
                prepared[rows] = self._collate(requests, rows)
            for part, batch in prepared[rows]:
                graphs = [requests[row].graph for row in part]
                started = time.perf_counter()
                attention = [requests[row].attention for row in part]
                embedding = [requests[row].embedding for row in part]
                predictions = predictor.predict_collated(graphs, batch, attention=attention, embedding=embedding)
                edges, atoms = sum(g.n_links for g in graphs), sum(g.n_nodes for g in graphs)
                costs = self._costs.get(identity)
                if costs is not None:  # else evicted meanwhile
                    costs.observe(edges, atoms, len(graphs), time.perf_counter() - started)
                for row, prediction in zip(part, predictions, strict=True):
                    outputs[row][identity] = _model_output(identity, prediction)
        return [
            [of_request[identity] for identity in request.models]
            for request, of_request in zip(requests, outputs, strict=True)
        ]

    def _collate(self, requests: Sequence[InferenceRequest], rows: Sequence[int]) -> list[Part]:
        """Collate rows into parts of the size of one forward pass, on the device."""
        parts, start = [], 0
        for graphs in split_by_edges([requests[row].graph for row in rows], edges_at_once(self._device)):
            parts.append((rows[start : start + len(graphs)], collate(graphs, filled=True).to(self._device)))
            start += len(graphs)
        return parts

    def _predictor(self, identity: str) -> Predictor:
        """Return a checkpoint, loaded on its first use; never one of another digest.

        Raises:
            ModelUnavailableError: if it is missing in the worker's store, or damaged.
        """
        predictor = self._predictors.get(identity)
        if predictor is None:
            since, reason = self._refused.get(identity, (float("-inf"), ""))
            if time.monotonic() - since < REFUSED_S:
                raise ModelUnavailableError(reason)
            try:
                self._load_identity(identity)
            except (ArtifactError, ModelNotFoundError) as error:
                self._refused[identity] = time.monotonic(), str(error)
                while len(self._refused) > MAX_REFUSED:
                    self._refused.pop(next(iter(self._refused)))
                raise ModelUnavailableError(str(error)) from None
            self.evict([identity])
            return self._predictors[identity]
        with contextlib.suppress(KeyError):  # evicted meanwhile
            self._predictors.move_to_end(identity)
        return predictor

    def _load_identity(self, identity: str) -> None:
        reference, _, digest = identity.partition(":")
        remedy = "give the API and its workers the same store"
        try:
            found = self._store.version(reference).identity
        except ModelNotFoundError:
            raise ModelNotFoundError(f"{reference} is not in the store of the worker: {remedy}") from None
        if not digest or found != identity:
            raise ArtifactError(f"{reference} in the store of the worker is not that of the API: {remedy}")
        self.load(reference)


def _rows_by_model(requests: Sequence[InferenceRequest]) -> dict[str, tuple[int, ...]]:
    """Return the indices of the requests for each model."""
    if all(request.models == requests[0].models for request in requests):
        return dict.fromkeys(requests[0].models, tuple(range(len(requests)))) if requests else {}
    identities = dict.fromkeys(identity for request in requests for identity in request.models)
    return {
        identity: tuple(i for i, request in enumerate(requests) if identity in request.models)
        for identity in identities
    }


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _model_output(identity: str, prediction: Prediction) -> ModelOutput:
    numbers = (
        prediction.value,
        prediction.low,
        prediction.high,
        prediction.domain.score,
        *(prediction.probabilities or {}).values(),
    )
    if not all(math.isfinite(number) for number in numbers if number is not None):
        raise ValueError(f"{identity} predicts numbers that are not finite: {numbers}")
    return ModelOutput(
        model=identity,
        value=prediction.value,
        low=prediction.low,
        high=prediction.high,
        in_domain=prediction.domain.in_domain,
        score=prediction.domain.score,
        reasons=prediction.domain.reasons,
        attention=None if prediction.attention is None else tuple(prediction.attention.tolist()),
        attention_reason=prediction.attention_reason,
        embedding=tuple(prediction.embedding.tolist()),
        probabilities=prediction.probabilities,
    )
