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
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.graphs.symmetry_reduction import reduce_graphs
from deepergatgnn.nn.batch import GraphBatch, collate, edges_at_once, split_by_edges
from deepergatgnn.nn.compilation import compile_network
from deepergatgnn.nn.network import DeeperGATGNN, NetworkOutput
from deepergatgnn.structures import as_crystal, crystal_from_arrays
from deepergatgnn.threads import few_threads
from deepergatgnn.uncertainty.domain import DomainAssessment, assess_domain
from deepergatgnn.uncertainty.intervals import interval_ends, spreads, unscale
from deepergatgnn.uncertainty.probabilities import answered_value, class_probabilities

GOLDEN_TOLERANCE = 1e-3  # relative, and absolute below one: devices round differently
Forward = Callable[[GraphBatch], NetworkOutput]
_NOT_WANTED = np.empty(0, dtype=np.float32)


@dataclass(eq=False)  # not frozen: that would take several times as long to make
class Prediction:
    """The answer for one crystal.

    Attributes:
        value: in the unit of the manifest's target.
        low, high: ends of the 90 % interval, same unit; None where the calibration cannot promise one.
        intervals: ends at every promised level, by level such as "0.5".
        spread: what the widths scale with, in the network's units.
        domain: whether the crystal is like the training set, and why not.
        attention: float32 [N], weight of each atom, >= 0, sums to 1; [0] where it was not wanted.
        embedding: float32 [F], the crystal vector: what the head of the first network sees, and what the domain score
            is measured with. Without a unit; comparable among crystals of one version. [0] where it was not wanted.
        warnings: what the reader of the structure did not take literally; empty for graphs.
        probabilities: of each class, by its name, where the checkpoint has classes; they sum to 1. The value is then
            that of the last of two classes, and that of the likeliest of more; there are no intervals, and the spread
            is 0.
    """

    value: float
    low: float | None
    high: float | None
    intervals: dict[str, tuple[float, float]]
    spread: float
    domain: DomainAssessment
    attention: NDArray[np.float32]
    embedding: NDArray[np.float32]
    warnings: tuple[str, ...] = ()
    probabilities: dict[str, float] | None = None


class Predictor:
    """One checkpoint on one device.

    Args:
        manifest: what the checkpoint says of itself.
        networks: members of the ensemble.
        domain: arrays of the domain score, `mean` [F] and `whitening` [F, F], for the first member's crystal vectors.
        device: where to compute.
    """

    def __init__(
        self,
        manifest: Manifest,
        networks: Sequence[DeeperGATGNN],
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
        """Compute the golden set again, as a device must before it answers with this version.

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
            if not np.isfinite([*ends, found.domain.score, *found.attention]).all():
                raise ArtifactError(f"{reference} gives numbers that are not finite for a crystal of its golden set")

    def compiled(self, examples: Sequence[CrystalGraph]) -> list[Forward]:
        """Compile the networks for batches of any size; takes up to minutes, and changes nothing yet: see `adopt`.

        Args:
            examples: crystals to compile and try it with, at least two.

        Raises:
            RuntimeError: where there is no compiler, or a compiled network gives other values.
        """
        batches = [collate(part, filled=True) for part in (examples, examples[:1])]
        with few_threads():  # a compiled network is made for a number of threads
            return [compile_network(network, batches) for network in self.networks]

    def adopt(self, forwards: Sequence[Forward]) -> None:
        """Compute with what `compiled` returned from now on."""
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
        for found in reduce_graphs(crystals, self.manifest.graph):
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
        return np.stack(found) if found else np.empty((0, self.manifest.network.channels), dtype=np.float32)

    def predict_graphs(self, graphs: Sequence[CrystalGraph], *, max_edges: int | None = None) -> list[Prediction]:
        """Predict graphs of this checkpoint's featuriser, in their order.

        Args:
            graphs: any number; equivalent atoms may be merged, the answers are the same.
            max_edges: edges in one forward pass, unless a single crystal has more; what suits the device, if None.
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
        """Predict graphs that were collated before, so that several checkpoints share one batch.

        Args:
            graphs: in the order of the batch.
            batch: of these graphs, filled or not.
            attention: of which of them it is wanted; where not, that of the prediction is empty. All, if None.
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
            return self._computed(graphs, batch, attention, embedding)

    def _computed(
        self, graphs: Sequence[CrystalGraph], batch: GraphBatch, attention: Sequence[bool], embedding: Sequence[bool]
    ) -> list[Prediction]:
        n, manifest, moved = len(graphs), self.manifest, batch.to(self.device)
        said = [forward(moved) for forward in self._forwards]
        vectors = said[0].crystal_vectors[:n]
        offsets = (vectors - self._domain["mean"]) @ self._domain["whitening"]
        columns = manifest.network.targets
        rows = [output.values[:n, column] for output in said for column in range(columns)]
        rows += [output.log_spreads[:n, 0] for output in said]
        rows.append(torch.linalg.vector_norm(offsets, dim=-1))
        numbers = torch.stack(rows).cpu().double().numpy()  # at once: a GPU is waited for at every transfer
        outputs, log_spreads, distances = numbers[: len(said) * columns], numbers[-len(said) - 1 : -1], numbers[-1]
        calibration, domain, scaler = manifest.calibration, manifest.domain, manifest.scaler
        of_crystals = (
            assess_domain(graphs, distances.tolist(), domain),
            _by_crystal(graphs, moved, said, attention),
            _rows_of(vectors, embedding),
        )
        if manifest.target.classes:
            logits = outputs.reshape(len(said), columns, n).transpose(0, 2, 1)
            return _of_classes(manifest, logits, zip(*of_crystals, strict=True))
        middle = outputs.mean(axis=0)
        spread = spreads(log_spreads, outputs, distances / domain.distance_limit, calibration.spread)
        lows, highs = interval_ends(outputs, spread, calibration, scaler).tolist()  # each [L][n]
        by_level = [zip(low, high, strict=True) for low, high in zip(lows, highs, strict=True)]
        levels = calibration.levels
        main, nothing = levels.index(MAIN_LEVEL) if MAIN_LEVEL in levels else None, [None] * n
        fields = (
            unscale(middle, scaler).tolist(),
            nothing if main is None else lows[main],
            nothing if main is None else highs[main],
            [dict(zip(levels, ends, strict=True)) for ends in zip(*by_level, strict=True)] if levels else [{}] * n,
            spread.tolist(),
            *of_crystals,
        )
        return [Prediction(*of_crystal) for of_crystal in zip(*fields, strict=True)]


def _of_classes(
    manifest: Manifest,
    logits: NDArray[np.float64],
    of_crystals: Iterable[tuple[DomainAssessment, NDArray[np.float32], NDArray[np.float32]]],
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
    graphs: Sequence[CrystalGraph], batch: GraphBatch, said: Sequence[NetworkOutput], wanted: Sequence[bool]
) -> list[NDArray[np.float32]]:
    """Mean attention of the members over the atoms of each graph, [N] where it is wanted and [0] elsewhere."""
    if not any(wanted):
        return [_NOT_WANTED] * len(graphs)
    mean = torch.stack([output.attention for output in said]).mean(dim=0) / batch.multiplicities
    weights, first, found = mean.cpu().numpy(), 0, []
    for graph, asked in zip(graphs, wanted, strict=True):
        last = first + graph.n_nodes
        found.append(weights[first:last][graph.node_of_atom] if asked else _NOT_WANTED)
        first = last
    return found


def _rows_of(vectors: Tensor, wanted: Sequence[bool]) -> list[NDArray[np.float32]]:
    """Each crystal vector [F] that is wanted, and [0] for the others."""
    if not any(wanted):
        return [_NOT_WANTED] * len(wanted)
    return [row if asked else _NOT_WANTED for row, asked in zip(vectors.float().cpu().numpy(), wanted, strict=True)]
