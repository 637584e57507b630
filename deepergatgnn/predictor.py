"""A loaded checkpoint: crystals in, values with interval, domain score and attention out.

Three rungs: `Predictor.load` → `predict_structures` → `predict_graphs`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepergatgnn.batch import GraphBatch, collate, cut, edges_at_once
from deepergatgnn.compilation import compile_network
from deepergatgnn.crystal_graph import CrystalGraph
from deepergatgnn.domain import DomainJudgement, judge
from deepergatgnn.equivalence import merge_equivalent
from deepergatgnn.graph import HasCell, build_graph
from deepergatgnn.intervals import half_widths, spreads, unscale
from deepergatgnn.manifest import Manifest
from deepergatgnn.network import DeeperGATGNN, NetworkOutput
from deepergatgnn.weights import load_artifact

Forward = Callable[[GraphBatch], NetworkOutput]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one crystal.

    Attributes:
        value: in the unit of the manifest's target.
        low, high: ends of the 90 % interval, same unit.
        intervals: ends at every calibrated level, by level such as "0.5".
        spread: what the widths scale with, in the network's units.
        domain: whether the crystal is like the training set, and why not.
        attention: float32 [N], weight of each atom, >= 0, sums to 1.
    """

    value: float
    low: float
    high: float
    intervals: dict[str, tuple[float, float]]
    spread: float
    domain: DomainJudgement
    attention: NDArray[np.float32]


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
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> "Predictor":
        """Load and verify a checkpoint folder.

        Raises:
            ArtifactError: if the folder is refused.
        """
        return cls(*load_artifact(Path(folder)), device=device)

    def compiled(self, examples: Sequence[CrystalGraph]) -> list[Forward]:
        """Compile the networks for batches of any size; takes up to minutes, and changes nothing yet: see `adopt`.

        Args:
            examples: crystals to compile and try it with, at least two.

        Raises:
            RuntimeError: where there is no compiler, or a compiled network gives other values.
        """
        batches = [collate(part, filled=True) for part in (examples, examples[:1])]
        return [compile_network(network, batches) for network in self.networks]

    def adopt(self, forwards: Sequence[Forward]) -> None:
        """Compute with what `compiled` returned from now on."""
        self._forwards = forwards

    @property
    def is_compiled(self) -> bool:
        """Whether it computes with compiled networks."""
        return self._forwards is not self.networks

    def predict_structure(self, crystal: HasCell) -> Prediction:
        """Predict one crystal.

        Raises:
            StructureError: if no graph can be built from it.
        """
        return self.predict_structures([crystal])[0]

    def predict_structures(self, crystals: Sequence[HasCell]) -> list[Prediction]:
        """Predict crystals, in their order.

        Raises:
            StructureError: if no graph can be built from one of them.
        """
        return self.predict_graphs(
            [merge_equivalent(build_graph(crystal, self.manifest.graph)) for crystal in crystals]
        )

    def predict_graphs(self, graphs: Sequence[CrystalGraph], *, max_edges: int | None = None) -> list[Prediction]:
        """Predict graphs of this checkpoint's featuriser, in their order.

        Args:
            graphs: any number; equivalent atoms may be merged, the answers are the same.
            max_edges: edges in one forward pass, unless a single crystal has more; what suits the device, if None.
        """
        return [
            prediction
            for part in cut(graphs, max_edges or edges_at_once(self.device))
            for prediction in self._predict(part, collate(part, filled=True))
        ]

    def predict_collated(self, graphs: Sequence[CrystalGraph], batch: GraphBatch) -> list[Prediction]:
        """Predict graphs that were collated before, filled or not, so that several checkpoints share one batch."""
        return self._predict(graphs, batch)

    @torch.inference_mode()
    def _predict(self, graphs: Sequence[CrystalGraph], batch: GraphBatch) -> list[Prediction]:
        n, manifest, moved = len(graphs), self.manifest, batch.to(self.device)
        said = [forward(moved) for forward in self._forwards]
        offsets = (said[0].crystal_vectors[:n] - self._domain["mean"]) @ self._domain["whitening"]
        distances = torch.linalg.vector_norm(offsets, dim=-1).cpu().double().numpy()
        attention = torch.stack([output.attention for output in said]).mean(dim=0) / moved.multiplicities
        by_crystal = np.split(attention.cpu().numpy(), np.cumsum([graph.n_nodes for graph in graphs]))
        outputs = torch.stack([output.values[:n, 0] for output in said]).cpu().double().numpy()
        log_spreads = torch.stack([output.log_spreads[:n, 0] for output in said]).cpu().double().numpy()
        middle = outputs.mean(axis=0)
        calibration = manifest.calibration
        spread = spreads(log_spreads, outputs, distances / manifest.domain.distance_limit, calibration.spread)
        ends = {}
        for level in calibration.factors:
            half = half_widths(spread, calibration, level)
            ends[level] = unscale(np.stack([middle - half, middle + half], axis=1), manifest.scaler).tolist()
        return [
            Prediction(
                value=value,
                low=ends["0.9"][index][0],
                high=ends["0.9"][index][1],
                intervals={level: tuple(pairs[index]) for level, pairs in ends.items()},
                spread=float(spread[index]),
                domain=judge(graph, float(distances[index]), manifest.domain),
                attention=by_crystal[index][graph.classes],
            )
            for index, (graph, value) in enumerate(zip(graphs, unscale(middle, manifest.scaler).tolist(), strict=True))
        ]
