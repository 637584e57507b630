"""A loaded checkpoint: crystals in, values with interval, domain score and attention out.

Three rungs: `Predictor.load` → `predict_structures` → `predict_graphs`.

    predictor = Predictor.load("bulk-modulus")
    prediction = predictor.predict_structure(Structure.from_file("ZrO2.cif"))
    prediction.value, predictor.unit  # 2.27, "log10(GPa)"
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepergatgnn.checkpoints.locations import checkpoint_folder
from deepergatgnn.checkpoints.manifest import MAIN_LEVEL, Manifest
from deepergatgnn.checkpoints.weights import load_artifact
from deepergatgnn.device import device_named
from deepergatgnn.errors import ArtifactError, StructureError
from deepergatgnn.graphs.build import build_graphs
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.graphs.symmetry_reduction import reduce_graphs
from deepergatgnn.nn.batch import GraphBatch, collate, edges_at_once, split_by_edges
from deepergatgnn.nn.compilation import compile_network
from deepergatgnn.nn.crystal_model import CrystalModel, NetworkOutput
from deepergatgnn.structures import as_crystal, crystal_from_arrays
from deepergatgnn.threads import few_threads
from deepergatgnn.uncertainty.domain import DomainAssessment, assess_domain
from deepergatgnn.uncertainty.intervals import interval_ends, predicted_scales, unscale
from deepergatgnn.uncertainty.probabilities import answered_value, class_probabilities

GOLDEN_TOLERANCE = 1e-3  # relative, and absolute below one: devices round differently
Forward = Callable[[GraphBatch], NetworkOutput]
_NOT_REQUESTED = np.empty(0, dtype=np.float32)


@dataclass(eq=False)  # not frozen, which would make construction several times slower
class Prediction:
    """Prediction for one crystal.

    Attributes:
        value: in the unit of the manifest's target.
        low, high: ends of the 90 % interval, same unit; None where the calibration cannot promise one.
        intervals: ends at every promised level, by level such as "0.5".
        predicted_scale: of the error, in the network's units, before calibration; interval widths are proportional.
        domain: whether the crystal is like the training set, and why not.
        attention: float32 [N], weight of each atom, >= 0, sums to 1; [0] where it was not requested; None where the
            network has no global attention.
        embedding: float32 [P], the crystal vector: what the head of the first network sees, and what the domain score
            is measured with. Without a unit; comparable among crystals of one version. [0] where it was not requested.
        warnings: of the reader of the structure, where it deviated from the file; empty for graphs.
        probabilities: of each class, by its name, where the checkpoint has classes; they sum to 1. The value is then
            that of the last of two classes, and that of the likeliest of more; there are no intervals, and the
            predicted scale is 0.
        attention_reason: why there is no attention; None where there is.
    """

    value: float
    low: float | None
    high: float | None
    intervals: dict[str, tuple[float, float]]
    predicted_scale: float
    domain: DomainAssessment
    attention: NDArray[np.float32] | None
    embedding: NDArray[np.float32]
    warnings: tuple[str, ...] = ()
    probabilities: dict[str, float] | None = None
    attention_reason: str | None = None


class Predictor:
    """One checkpoint on one device.

    Args:
        manifest: of the checkpoint.
        networks: members of the ensemble.
        domain: arrays of the domain score, `mean` [F] and `whitening` [F, F], for the first member's crystal vectors.
        device: where to compute.
    """

    def __init__(
        self,
        manifest: Manifest,
        networks: Sequence[CrystalModel],
        domain: dict[str, Tensor],
        device: torch.device | str = "cpu",
    ) -> None:
        self.manifest = manifest
        self.device = torch.device(device)
        self.networks = [network.to(self.device).eval() for network in networks]
        self._domain = {key: value.to(self.device) for key, value in domain.items()}
        self._forwards: Sequence[Forward] = self.networks

    @classmethod
    def load(
        cls, source: Path | str, device: torch.device | str = "cpu", *, store: Path | str | None = None
    ) -> "Predictor":
        """Load and verify a checkpoint.

        Args:
            source: NAME (its production version) or NAME@VERSION of the store; or the folder of a checkpoint.
            device: where to compute: cpu, cuda, cuda:N, or auto for a GPU where there is one.
            store: folder of checkpoints; that of DEEPERGATGNN_MODEL_STORE, else those shipped, if not given.

        Raises:
            ModelNotFoundError: if there is no such version.
            ArtifactError: if the folder is refused.
            ConfigError: if there is no such device.
        """
        place = device if isinstance(device, torch.device) else device_named(device)
        return cls(*load_artifact(checkpoint_folder(source, store)), device=place)

    @property
    def unit(self) -> str:
        """Unit of `Prediction.value`, such as log10(GPa)."""
        return self.manifest.target.unit

    def check_golden(self) -> None:
        """Compute the golden set again and compare it, as a device must before it serves this version.

        Raises:
            ArtifactError: if it is empty, cannot be computed, or gives other values than when it was published.
        """
        reference, golden = self.manifest.reference, self.manifest.golden
        if not golden:
            raise ArtifactError(f"{reference} has no golden set: train and publish it again")
        try:
            crystals = [crystal_from_arrays(each.lattice, each.species, each.frac_coords) for each in golden]
            predictions = self.predict_structures(crystals)
        except (StructureError, ValueError, IndexError) as error:
            raise ArtifactError(f"{reference} cannot compute its golden set: {error}") from None
        for known, found in zip(golden, predictions, strict=True):
            if not abs(found.value - known.value) <= GOLDEN_TOLERANCE * max(1.0, abs(known.value)):
                raise ArtifactError(
                    f"{reference} gives {found.value} for a crystal of its golden set, not {known.value}"
                )
            ends = [end for end in (found.low, found.high) if end is not None]
            weights = () if found.attention is None else found.attention
            if not np.isfinite([*ends, found.domain.score, *weights]).all():
                raise ArtifactError(f"{reference} gives numbers that are not finite for a crystal of its golden set")

    def compiled(self, examples: Sequence[CrystalGraph]) -> list[Forward]:
        """Compile the networks for batches of any size, which takes up to minutes; `adopt` then uses the result.

        Args:
            examples: crystals to compile with and to check the result on, at least two.

        Raises:
            RuntimeError: if there is no compiler, or a compiled network gives other values.
        """
        batches = [collate(part, filled=True) for part in (examples, examples[:1])]
        with few_threads():  # a compiled network is made for a number of threads
            return [compile_network(network, batches) for network in self.networks]

    def adopt(self, forwards: Sequence[Forward]) -> None:
        """Use the compiled networks that `compiled` returned from now on."""
        self._forwards = forwards

    @property
    def is_compiled(self) -> bool:
        """Whether it computes with compiled networks."""
        return self._forwards is not self.networks

    def predict_structure(self, structure: Any) -> Prediction:
        """Predict one crystal.

        Args:
            structure: a pymatgen `Structure`, an ASE `Atoms`, a `Crystal`, the text or the path of a CIF, POSCAR,
                extxyz or JSON file, or a mapping; see `structures.as_crystal`. Lengths are in Å. It is not changed.

        Returns:
            Value and interval in `unit`; attention [N] in the order of its atoms; embedding [F].

        Raises:
            TypeError, OSError: if it is none of these, or the file cannot be read.
            StructureError: if it is refused, or no graph can be built from it.
        """
        return self.predict_structures([structure])[0]

    def predict_structures(self, structures: Sequence[Any]) -> list[Prediction]:
        """Predict crystals, in their order; see `predict_structure`.

        Raises:
            TypeError, OSError, StructureError: for one of them, as `predict_structure`; then none is predicted.
        """
        crystals = [as_crystal(structure) for structure in structures]
        graphs = []
        build = reduce_graphs if self.manifest.network.may_merge_atoms else build_graphs
        for found in build(crystals, self.manifest.graph):
            if isinstance(found, StructureError):
                raise found
            graphs.append(found)
        predictions = self.predict_graphs(graphs)
        for prediction, crystal in zip(predictions, crystals, strict=True):
            prediction.warnings = crystal.warnings
        return predictions

    def embed_structures(self, structures: Sequence[Any]) -> NDArray[np.float32]:
        """Crystal vectors, for clustering, search or another model.

        Args:
            structures: as for `predict_structures`.

        Returns:
            float32 [B, F], in their order; see `Prediction.embedding`.

        Raises:
            TypeError, OSError, StructureError: as `predict_structures`.
        """
        found = [prediction.embedding for prediction in self.predict_structures(structures)]
        return np.stack(found) if found else np.empty((0, self.manifest.network.vector_size), dtype=np.float32)

    def predict_graphs(self, graphs: Sequence[CrystalGraph], *, max_edges: int | None = None) -> list[Prediction]:
        """Predict graphs of this checkpoint's featuriser, in their order.

        Args:
            graphs: any number; equivalent atoms may be merged, the answers are the same.
            max_edges: of one forward pass, unless a single crystal has more; the default of the device, if None.
        """
        return [
            prediction
            for part in split_by_edges(graphs, max_edges or edges_at_once(self.device))
            for prediction in self.predict_collated(part, collate(part, filled=True))
        ]

    def predict_collated(
        self,
        graphs: Sequence[CrystalGraph],
        batch: GraphBatch,
        *,
        attention: Sequence[bool] | None = None,
        embedding: Sequence[bool] | None = None,
    ) -> list[Prediction]:
        """Predict graphs that are collated already, so that several checkpoints share one batch.

        Args:
            graphs: in the order of the batch.
            batch: of these graphs, filled or not.
            attention: whether it is requested, for each graph; else that of the prediction is empty. All, if None.
            embedding: likewise.
        """
        every = [True] * len(graphs)
        return self._predict(
            graphs, batch, every if attention is None else attention, every if embedding is None else embedding
        )

    def _predict(
        self, graphs: Sequence[CrystalGraph], batch: GraphBatch, attention: Sequence[bool], embedding: Sequence[bool]
    ) -> list[Prediction]:
        with few_threads(), torch.inference_mode():
            predictions = self._computed(graphs, batch, attention, embedding)
        if reason := self.manifest.network.attention_reason:
            for prediction in predictions:
                prediction.attention_reason = reason
        return predictions

    def _computed(
        self, graphs: Sequence[CrystalGraph], batch: GraphBatch, attention: Sequence[bool], embedding: Sequence[bool]
    ) -> list[Prediction]:
        n, manifest, moved = len(graphs), self.manifest, batch.to(self.device)
        of_members = [forward(moved) for forward in self._forwards]
        vectors = of_members[0].crystal_vectors[:n]
        offsets = (vectors - self._domain["mean"]) @ self._domain["whitening"]
        columns = manifest.network.targets
        rows = [output.values[:n, column] for output in of_members for column in range(columns)]
        rows += [output.log_scales[:n, 0] for output in of_members]
        count = len(of_members)
        rows.append(torch.linalg.vector_norm(offsets, dim=-1))
        numbers = torch.stack(rows).cpu().double().numpy()  # at once: a GPU is waited for at every transfer
        outputs, log_scales, distances = numbers[: count * columns], numbers[-count - 1 : -1], numbers[-1]
        calibration, domain, scaler = manifest.calibration, manifest.domain, manifest.scaler
        of_crystals = (
            assess_domain(graphs, distances.tolist(), domain),
            _by_crystal(graphs, moved, of_members, attention),
            _rows_of(vectors, embedding),
        )
        if manifest.target.classes:
            logits = outputs.reshape(count, columns, n).transpose(0, 2, 1)
            return _of_classes(manifest, logits, zip(*of_crystals, strict=True))
        middle = outputs.mean(axis=0)
        scales = predicted_scales(log_scales, outputs, distances / domain.distance_limit, calibration.spread)
        lows, highs = interval_ends(outputs, scales, calibration, scaler).tolist()  # each [L][n]
        by_level = [zip(low, high, strict=True) for low, high in zip(lows, highs, strict=True)]
        levels = calibration.levels
        main, nothing = levels.index(MAIN_LEVEL) if MAIN_LEVEL in levels else None, [None] * n
        fields = (
            unscale(middle, scaler).tolist(),
            nothing if main is None else lows[main],
            nothing if main is None else highs[main],
            [dict(zip(levels, ends, strict=True)) for ends in zip(*by_level, strict=True)] if levels else [{}] * n,
            scales.tolist(),
            *of_crystals,
        )
        return [Prediction(*of_crystal) for of_crystal in zip(*fields, strict=True)]


def _of_classes(
    manifest: Manifest,
    logits: NDArray[np.float64],
    of_crystals: Iterable[tuple[DomainAssessment, NDArray[np.float32] | None, NDArray[np.float32]]],
) -> list[Prediction]:
    """Predictions of a checkpoint with classes from its members' outputs [members, n, C]."""
    found = class_probabilities(logits, manifest.calibration.temperature or 1.0)
    return [
        Prediction(
            value, None, None, {}, 0.0, *others, probabilities=dict(zip(manifest.target.classes, row, strict=True))
        )
        for value, row, others in zip(answered_value(found).tolist(), found.tolist(), of_crystals, strict=True)
    ]


def _by_crystal(
    graphs: Sequence[CrystalGraph], batch: GraphBatch, outputs: Sequence[NetworkOutput], requested: Sequence[bool]
) -> Sequence[NDArray[np.float32] | None]:
    """Mean attention of the members over the atoms of each graph, [N] where it is requested and [0] elsewhere."""
    weights_of_members = [output.attention for output in outputs if output.attention is not None]
    if not weights_of_members:
        return [None] * len(graphs)
    if not any(requested):
        return [_NOT_REQUESTED] * len(graphs)
    mean = torch.stack(weights_of_members).mean(dim=0) / batch.multiplicities
    weights, first, found = mean.cpu().numpy(), 0, []
    for graph, is_requested in zip(graphs, requested, strict=True):
        last = first + graph.n_nodes
        found.append(weights[first:last][graph.node_of_atom] if is_requested else _NOT_REQUESTED)
        first = last
    return found


def _rows_of(vectors: Tensor, requested: Sequence[bool]) -> list[NDArray[np.float32]]:
    """Each crystal vector [P] that is requested, and [0] for the others."""
    if not any(requested):
        return [_NOT_REQUESTED] * len(requested)
    rows = vectors.float().cpu().numpy()
    return [row if is_requested else _NOT_REQUESTED for row, is_requested in zip(rows, requested, strict=True)]
