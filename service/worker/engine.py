"""Checkpoints on the device: batches of entries in, answers out. The only part of the service that knows torch."""

import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import torch

from deepergatgnn.errors import ArtifactError, DeeperGATGNNError, ModelNotFoundError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.nn.batch import GraphBatch, collate, edges_at_once, split_by_edges
from deepergatgnn.predictor import Prediction, Predictor
from deepergatgnn.service.messages import InferenceReply, InferenceRequest, ModelOutput
from deepergatgnn.service.scheduling.cost import Cost
from deepergatgnn.service.scheduling.cost_model import CostModel
from deepergatgnn.service.worker.cost_calibration import calibrated, edges_that_fit, golden_graphs
from deepergatgnn.threads import measured

log = structlog.get_logger("engine")
LOADED_AT_MOST = 16
UNSOUND_AT_MOST = 256  # versions of which it is remembered
UNSOUND_S = 30.0  # so long a version that was refused is not read again
SMALL_BATCH = 8  # crystals by which numbers of threads are compared


Part = tuple[Sequence[int], GraphBatch]
Prepared = dict[tuple[int, ...], list[Part]]  # by the entries that want the same models


class ModelUnavailableError(DeeperGATGNNError):
    """A version that the API asks for cannot answer here; nothing is wrong with the crystal."""


class DeviceLostError(DeeperGATGNNError):
    """The device of a worker is gone."""


@dataclass(frozen=True)
class Computed:
    """What became of a batch.

    Attributes:
        answers: one for each entry, in their order.
        out_of_memory: whether the device ran out of memory on the way.
        too_many_edges: of the least part of several crystals that the device's memory did not hold; 0 if there is none.
    """

    answers: list[InferenceReply]
    out_of_memory: bool
    too_many_edges: int


class Engine:
    """The checkpoints of a store on one device, each known by its identity: NAME@VERSION:DIGEST.

    Args:
        store: where they come from.
        device: where they compute.
        worker: name that signs the answers.

    Attributes:
        failed: why a model, by NAME or NAME@VERSION, does not answer though it is in production.
    """

    def __init__(self, store: ModelStore, device: torch.device, worker: str) -> None:
        self._store, self._device, self._worker = store, device, worker
        self._predictors: OrderedDict[str, Predictor] = OrderedDict()
        self._costs: dict[str, CostModel] = {}
        self._unsound: dict[str, tuple[float, str]] = {}
        self.failed: dict[str, str] = {}
        self._out_of_memory, self._too_many_edges = False, 0

    @property
    def loaded(self) -> list[str]:
        """Identities of what is on the device."""
        return list(self._predictors)

    @property
    def costs(self) -> dict[str, Cost]:
        """What each loaded version costs on this device, by its identity."""
        return {identity: model.cost for identity, model in list(self._costs.items())}

    def load_production(self) -> None:
        """Load the production version of every model, or the last one before it that is sound.

        Raises:
            ArtifactError: if no model at all can be loaded.
        """
        for name in self._store.names():
            try:
                versions = self._store.preferred(name)
            except ModelNotFoundError as error:
                self._fail(name, error)
                continue
            for version in versions:
                try:
                    self.load(f"{name}@{version}")
                except (ArtifactError, ModelNotFoundError) as error:
                    self._fail(f"{name}@{version}", error)
                else:
                    break
        if not self._predictors:
            problems = "; ".join(self.failed.values())
            raise ArtifactError(f"no model could be loaded from the store: {problems or 'it is empty'}")

    def _fail(self, which: str, error: DeeperGATGNNError) -> None:
        self.failed[which] = str(error)
        log.warning("model not loaded", model=which, error=str(error))

    def follow(self) -> tuple[list[str], list[str]]:
        """See what is in production now.

        Returns:
            Identities of the versions in production that can be read, and NAME@VERSION of those not loaded yet.
        """
        wanted, missing, failed = [], [], {}
        for name in self._store.names():
            which = name
            try:
                which = f"{name}@{self._store.production(name)}"
                identity = self._store.version(which).identity
            except (ArtifactError, ModelNotFoundError) as error:
                failed[which] = str(error)
                continue
            wanted.append(identity)
            if identity not in self._predictors:
                missing.append(which)
                if which in self.failed:
                    failed[which] = self.failed[which]
        self.failed = failed
        return wanted, missing

    def load(self, reference: str) -> str:
        """Put a version on the device, beside those that answer: verify it, compute its golden set, time it.

        Returns:
            Its identity.

        Raises:
            ArtifactError, ModelNotFoundError: if it is not there, damaged, or does not give its golden values.
            DeviceLostError: if the device is gone.
        """
        try:
            identity = self._load(reference)
        except (ArtifactError, ModelNotFoundError):
            raise
        except Exception as error:
            self._check_device()
            log.exception("a version cannot be loaded", model=reference)
            raise ArtifactError(f"{reference} cannot be loaded: {type(error).__name__}, see the worker's log") from None
        self.failed.pop(reference, None)
        return identity

    def _load(self, reference: str) -> str:
        version = self._store.version(reference)
        predictor = Predictor.load(self._store.folder(reference), self._device)
        if predictor.manifest != version.manifest:
            raise ArtifactError(f"{reference} changed while it was read: a version never changes, publish a new one")
        predictor.check_golden()
        self._costs[version.identity] = calibrated(predictor)
        self._predictors[version.identity] = predictor
        return version.identity

    def seconds_by_threads(self, counts: Sequence[int]) -> dict[int, float]:
        """Median seconds of a small batch of golden crystals, by number of threads; nothing without a model."""
        predictor = next(iter(self._predictors.values()), None)
        if predictor is None:
            return {}
        graphs = (golden_graphs(predictor.manifest) * SMALL_BATCH)[:SMALL_BATCH]
        batch = collate(graphs, filled=True).to(self._device)
        return measured(lambda: predictor.predict_collated(graphs, batch), counts)

    def edge_capacity(self, at_most: int) -> int:
        """Edges of a batch that fit into the device's memory with a fifth of it to spare, `at_most` on a CPU."""
        predictors = list(self._predictors.values())
        return min([at_most, *(edges_that_fit(predictor) for predictor in predictors)])

    def forget_spare(self, keep: Sequence[str]) -> None:
        """Make room: of the versions that are not to be kept, drop those unused for longest."""
        spare = [identity for identity in self.loaded if identity not in keep]
        for identity in spare[: max(0, len(self._predictors) - LOADED_AT_MOST)]:
            self._predictors.pop(identity, None)
            self._costs.pop(identity, None)

    def compile_loaded(self) -> bool:
        """Compile what is loaded, beside the eager networks that go on answering, and then use it.

        Takes up to minutes; meant for a thread of its own.

        Returns:
            Whether compiled networks are in use; if not, nothing has changed.
        """
        compiled = []
        for predictor in list(self._predictors.values()):
            if predictor.is_compiled:
                continue
            examples = golden_graphs(predictor.manifest)
            try:
                compiled.append((predictor, predictor.compiled(examples)))
            except Exception as error:  # noqa: BLE001 - whatever a compiler says, the eager network is as right
                log.warning("not compiled, the eager networks go on", error=str(error).partition("\n")[0])
                return False
        for predictor, forward in compiled:
            predictor.adopt(forward)
        return True

    def canary(self) -> None:
        """Compute something small, to see that the device answers.

        Raises:
            DeviceLostError: it does not.
        """
        self._check_device()

    def prepare(self, entries: Sequence[InferenceRequest]) -> Prepared:
        """Collate entries and bring them to the device, which may be computing others; nothing, if that fails."""
        prepared: Prepared = {}
        with contextlib.suppress(RuntimeError, ValueError, IndexError, MemoryError):  # `answer` finds whose fault it is
            for rows in dict.fromkeys(_wanted(entries).values()):
                prepared[rows] = self._collated(entries, rows)
        return prepared

    def answer(self, entries: Sequence[InferenceRequest], prepared: Prepared | None = None) -> Computed:
        """Answer entries, in their order; an entry that breaks its batch is found by halving and fails alone.

        Args:
            entries: of one batch.
            prepared: of `prepare` for these entries.
        """
        self._out_of_memory, self._too_many_edges = False, 0
        answers = self._answer(entries, dict(prepared or {}))
        return Computed(answers, self._out_of_memory, self._too_many_edges)

    def _answer(self, entries: Sequence[InferenceRequest], prepared: Prepared) -> list[InferenceReply]:
        started = time.perf_counter()
        try:
            predictions = self._predict(entries, prepared)
        except ModelUnavailableError as error:
            if len(entries) > 1:
                return self._halves(entries)
            return [self._failure(entries[0], ("model_unavailable", str(error)))]
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            self._check_device()
            if _is_out_of_memory(error):
                self._out_of_memory = True
                if len(entries) > 1:
                    self._too_many_edges = sum(entry.graph.n_links for entry in entries)
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
            if len(entries) > 1:
                log.warning("a batch failed, halving it", entries=len(entries), error=str(error))
                return self._halves(entries)
            log.exception("an entry cannot be computed", entry=entries[0].id, request_id=entries[0].request_id)
            detail = "the model could not compute this crystal: check the structure, or report the request id"
            return [self._failure(entries[0], ("prediction_failed", detail))]
        elapsed = (time.perf_counter() - started) * 1000
        return [
            InferenceReply(entry.id, tuple(of_entry), elapsed, worker=self._worker)
            for entry, of_entry in zip(entries, predictions, strict=True)
        ]

    def _check_device(self) -> None:
        """Return if the device still computes: after some errors of a GPU nothing does any more.

        Raises:
            DeviceLostError: it does not; the worker must end, and its entries go to another.
        """
        try:
            (torch.ones(1, device=self._device) + 1).item()
        except RuntimeError as error:
            raise DeviceLostError(f"{self._device} does not compute any more: {error}") from error

    def _halves(self, entries: Sequence[InferenceRequest]) -> list[InferenceReply]:
        middle = len(entries) // 2
        return self._answer(entries[:middle], {}) + self._answer(entries[middle:], {})

    def _failure(self, entry: InferenceRequest, error: tuple[int, str, str]) -> InferenceReply:
        return InferenceReply(entry.id, worker=self._worker, error=error)

    def _predict(self, entries: Sequence[InferenceRequest], shared: Prepared) -> list[list[ModelOutput]]:
        """Every model once over the entries that want it; entries that share models share collated batches."""
        answers: list[dict[str, ModelOutput]] = [{} for _ in entries]
        for identity, rows in _wanted(entries).items():
            predictor = self._predictor(identity)
            if rows not in shared:
                shared[rows] = self._collated(entries, rows)
            for part, batch in shared[rows]:
                graphs = [entries[row].graph for row in part]
                started = time.perf_counter()
                attention = [entries[row].attention for row in part]
                embedding = [entries[row].embedding for row in part]
                predictions = predictor.predict_collated(graphs, batch, attention=attention, embedding=embedding)
                edges, atoms = sum(g.n_links for g in graphs), sum(g.n_nodes for g in graphs)
                costs = self._costs.get(identity)
                if costs is not None:  # else forgotten meanwhile, to make room
                    costs.observe(edges, atoms, len(graphs), time.perf_counter() - started)
                for row, prediction in zip(part, predictions, strict=True):
                    answers[row][identity] = _model_answer(identity, prediction)
        return [
            [of_entry[identity] for identity in entry.models] for entry, of_entry in zip(entries, answers, strict=True)
        ]

    def _collated(self, entries: Sequence[InferenceRequest], rows: Sequence[int]) -> list[Part]:
        """Parts of the rows that suit one forward pass, each with its batch on the device."""
        parts, start = [], 0
        for graphs in split_by_edges([entries[row].graph for row in rows], edges_at_once(self._device)):
            parts.append((rows[start : start + len(graphs)], collate(graphs, filled=True).to(self._device)))
            start += len(graphs)
        return parts

    def _predictor(self, identity: str) -> Predictor:
        """A checkpoint on the device, loaded and checked on its first use; never one of another digest.

        Raises:
            ModelUnavailableError: if it is not in the worker's store, or not sound.
        """
        predictor = self._predictors.get(identity)
        if predictor is None:
            since, reason = self._unsound.get(identity, (float("-inf"), ""))
            if time.monotonic() - since < UNSOUND_S:
                raise ModelUnavailableError(reason)
            try:
                self._load_asked(identity)
            except (ArtifactError, ModelNotFoundError) as error:
                self._unsound[identity] = time.monotonic(), str(error)
                while len(self._unsound) > UNSOUND_AT_MOST:
                    self._unsound.pop(next(iter(self._unsound)))
                raise ModelUnavailableError(str(error)) from None
            self.forget_spare([identity])
            return self._predictors[identity]
        with contextlib.suppress(KeyError):  # forgotten meanwhile
            self._predictors.move_to_end(identity)
        return predictor

    def _load_asked(self, identity: str) -> None:
        reference, _, digest = identity.partition(":")
        remedy = "give the API and its workers the same store"
        try:
            found = self._store.version(reference).identity
        except ModelNotFoundError:
            raise ModelNotFoundError(f"{reference} is not in the store of the worker: {remedy}") from None
        if not digest or found != identity:
            raise ArtifactError(f"{reference} in the store of the worker is not that of the API: {remedy}")
        self.load(reference)


def _wanted(entries: Sequence[InferenceRequest]) -> dict[str, tuple[int, ...]]:
    """The entries, by their places, that want each version."""
    if all(entry.models == entries[0].models for entry in entries):
        return dict.fromkeys(entries[0].models, tuple(range(len(entries)))) if entries else {}
    identities = dict.fromkeys(identity for entry in entries for identity in entry.models)
    return {
        identity: tuple(i for i, entry in enumerate(entries) if identity in entry.models) for identity in identities
    }


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _model_answer(identity: str, prediction: Prediction) -> ModelOutput:
    numbers = (
        prediction.value,
        prediction.low,
        prediction.high,
        prediction.domain.score,
        *(prediction.probabilities or {}).values(),
    )
    if not all(math.isfinite(number) for number in numbers if number is not None):
        raise ValueError(f"{identity} gives numbers that are not finite: {numbers}")
    return ModelOutput(
        model=identity,
        value=prediction.value,
        low=prediction.low,
        high=prediction.high,
        in_domain=prediction.domain.in_domain,
        score=prediction.domain.score,
        reasons=prediction.domain.reasons,
        attention=tuple(prediction.attention.tolist()),
        embedding=tuple(prediction.embedding.tolist()),
        probabilities=prediction.probabilities,
    )
