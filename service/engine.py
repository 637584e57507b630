"""Checkpoints on the device: batches of entries in, answers out. The only part of the service that knows torch."""

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence

import torch

from deepergatgnn.artifact import read_manifest
from deepergatgnn.batch import GraphBatch, collate
from deepergatgnn.equivalence import merge_equivalent
from deepergatgnn.errors import ArtifactError, DeeperGATGNNError, ModelNotFoundError
from deepergatgnn.graph import build_graph
from deepergatgnn.predictor import Prediction, Predictor
from deepergatgnn.structures import crystal_from_arrays
from model_store import ModelStore
from service.entries import Answer, Entry, ModelAnswer

log = logging.getLogger(__name__)
LOADED_AT_MOST = 16
GOLDEN_TOLERANCE = 1e-3


class DeviceLostError(DeeperGATGNNError):
    """The device of a worker is gone."""


class Engine:
    """The checkpoints of a store on one device.

    Args:
        store: where they come from.
        device: where they compute.
        worker: name that signs the answers.
    """

    def __init__(self, store: ModelStore, device: torch.device, worker: str) -> None:
        self._store, self._device, self._worker = store, device, worker
        self._predictors: OrderedDict[str, Predictor] = OrderedDict()

    @property
    def loaded(self) -> list[str]:
        """NAME@VERSION of what is on the device."""
        return list(self._predictors)

    def load_production(self) -> None:
        """Load the production version of every model and compute its golden set, which also warms the device.

        Raises:
            ArtifactError: if none of them can be loaded.
        """
        problems = []
        for name in self._store.names():
            try:
                self._predictor(f"{name}@{self._store.production(name)}")
            except (ArtifactError, ModelNotFoundError) as error:
                problems.append(str(error))
                log.warning("model not loaded: %s", error)
        if not self._predictors:
            raise ArtifactError(f"no model could be loaded from the store: {'; '.join(problems) or 'it is empty'}")

    def compile_loaded(self) -> bool:
        """Compile what is loaded, beside the eager networks that go on answering, and then use it.

        Takes up to minutes; meant for a thread of its own.

        Returns:
            Whether compiled networks are in use; if not, nothing has changed.
        """
        compiled = []
        for predictor in list(self._predictors.values()):
            crystals = [crystal_from_arrays(g.lattice, g.species, g.frac_coords) for g in predictor.manifest.golden]
            examples = [merge_equivalent(build_graph(crystal, predictor.manifest.graph)) for crystal in crystals]
            try:
                compiled.append((predictor, predictor.compiled(examples)))
            except Exception as error:  # noqa: BLE001 - whatever a compiler says, the eager network is as right
                log.warning("not compiled, the eager networks go on: %s", str(error).partition("\n")[0])
                return False
        for predictor, forward in compiled:
            predictor.adopt(forward)
        return True

    def answer(self, entries: Sequence[Entry]) -> list[Answer]:
        """Answer entries, in their order; an entry that breaks its batch is found by halving and fails alone."""
        started = time.perf_counter()
        try:
            predictions = self._predict(entries)
        except (ModelNotFoundError, ArtifactError) as error:
            if len(entries) > 1:
                return self._halves(entries)
            return [self._failure(entries[0], (404, "unknown_model", str(error)))]
        except (RuntimeError, ValueError, IndexError) as error:
            self._check_device()
            if len(entries) > 1:
                log.warning("a batch of %d failed, halving it: %s", len(entries), error)
                return self._halves(entries)
            log.exception("entry %s cannot be computed", entries[0].id)
            detail = "the model could not compute this crystal: check the structure, or report the request id"
            return [self._failure(entries[0], (500, "prediction_failed", detail))]
        elapsed = (time.perf_counter() - started) * 1000
        return [
            Answer(entry.id, tuple(of_entry), elapsed, self._worker)
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

    def _halves(self, entries: Sequence[Entry]) -> list[Answer]:
        middle = len(entries) // 2
        return self.answer(entries[:middle]) + self.answer(entries[middle:])

    def _failure(self, entry: Entry, error: tuple[int, str, str]) -> Answer:
        return Answer(entry.id, worker=self._worker, error=error)

    def _predict(self, entries: Sequence[Entry]) -> list[list[ModelAnswer]]:
        """Every model once over the entries that want it; entries that share models share a collated batch."""
        wanted: dict[str, tuple[int, ...]] = {}
        for reference in dict.fromkeys(reference for entry in entries for reference in entry.models):
            wanted[reference] = tuple(i for i, entry in enumerate(entries) if reference in entry.models)
        batches: dict[tuple[int, ...], GraphBatch] = {}
        answers: list[dict[str, ModelAnswer]] = [{} for _ in entries]
        for reference, rows in wanted.items():
            graphs = [entries[row].graph for row in rows]
            if rows not in batches:
                batches[rows] = collate(graphs, filled=True).to(self._device)
            for row, prediction in zip(
                rows, self._predictor(reference).predict_collated(graphs, batches[rows]), strict=True
            ):
                answers[row][reference] = _answer(reference, prediction, attention=entries[row].attention)
        return [
            [of_entry[reference] for reference in entry.models]
            for entry, of_entry in zip(entries, answers, strict=True)
        ]

    def _predictor(self, reference: str) -> Predictor:
        """A checkpoint on the device, loaded and checked on its first use."""
        if reference in self._predictors:
            self._predictors.move_to_end(reference)
            return self._predictors[reference]
        folder = self._store.folder(reference)
        manifest = read_manifest(folder)
        predictor = Predictor.load(folder, self._device)
        crystals = [crystal_from_arrays(g.lattice, g.species, g.frac_coords) for g in manifest.golden]
        for golden, prediction in zip(manifest.golden, predictor.predict_structures(crystals), strict=True):
            if not abs(prediction.value - golden.value) <= GOLDEN_TOLERANCE * max(1.0, abs(golden.value)):
                raise ArtifactError(
                    f"{reference} gives {prediction.value} for a crystal of its golden set, not {golden.value}"
                )
        self._predictors[reference] = predictor
        while len(self._predictors) > LOADED_AT_MOST:
            self._predictors.popitem(last=False)
        return predictor


def _answer(reference: str, prediction: Prediction, *, attention: bool) -> ModelAnswer:
    return ModelAnswer(
        model=reference,
        value=prediction.value,
        low=prediction.low,
        high=prediction.high,
        in_domain=prediction.domain.in_domain,
        score=prediction.domain.score,
        reasons=prediction.domain.reasons,
        attention=tuple(prediction.attention.tolist()) if attention else (),
    )
