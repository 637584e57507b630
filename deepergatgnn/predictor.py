"""A loaded checkpoint: crystals in, values with interval, domain score and attention out.

Three rungs: `Predictor.load` → `predict_structures` → `predict_graphs`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepergatgnn.batch import GraphBatch, collate
from deepergatgnn.compilation import compile_network
from deepergatgnn.domain import DomainJudgement, judge
from deepergatgnn.equivalence import merge_equivalent
from deepergatgnn.graph import CrystalGraph, HasCell, build_graph
from deepergatgnn.manifest import Manifest
from deepergatgnn.network import DeeperGATGNN, NetworkOutput
from deepergatgnn.weights import load_artifact


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one crystal.

    Attributes:
        value: in the unit of the manifest's target.
        low, high: ends of the 90 % interval, same unit.
        domain: whether the crystal is like the training set, and why not.
        attention: float32 [N], weight of each atom, >= 0, sums to 1.
    """

    value: float
    low: float
    high: float
    domain: DomainJudgement
    attention: NDArray[np.float32]


class Predictor:
    """One checkpoint on one device.

    Args:
        manifest: what the checkpoint says of itself.
        network: in evaluation mode.
        domain: arrays of the domain score, `mean` [F] and `whitening` [F, F].
        device: where to compute.
    """

    def __init__(
        self,
        manifest: Manifest,
        network: DeeperGATGNN,
        domain: dict[str, Tensor],
        device: torch.device | str = "cpu",
    ) -> None:
        self.manifest = manifest
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self._domain = {key: value.to(self.device) for key, value in domain.items()}
        self._forward: Callable[[GraphBatch], NetworkOutput] = self.network

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> "Predictor":
        """Load and verify a checkpoint folder.

        Raises:
            ArtifactError: if the folder is refused.
        """
        return cls(*load_artifact(Path(folder)), device=device)

    def compiled(self, examples: Sequence[CrystalGraph]) -> Callable[[GraphBatch], NetworkOutput]:
        """Compile the network for batches of any size; takes up to minutes, and changes nothing yet: see `adopt`.

        Args:
            examples: crystals to compile and try it with, at least two.

        Raises:
            RuntimeError: where there is no compiler, or the compiled network gives other values.
        """
        return compile_network(self.network, [collate(part, filled=True) for part in (examples, examples[:1])])

    def adopt(self, forward: Callable[[GraphBatch], NetworkOutput]) -> None:
        """Compute with what `compiled` returned from now on."""
        self._forward = forward

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

    def predict_graphs(self, graphs: Sequence[CrystalGraph], *, max_edges: int = 100_000) -> list[Prediction]:
        """Predict graphs of this checkpoint's featuriser, in their order.

        Args:
            graphs: any number; equivalent atoms may be merged, the answers are the same.
            max_edges: edges in one forward pass, unless a single crystal has more.
        """
        return [
            prediction
            for part in cut(graphs, max_edges)
            for prediction in self._predict(part, collate(part, filled=True))
        ]

    def predict_collated(self, graphs: Sequence[CrystalGraph], batch: GraphBatch) -> list[Prediction]:
        """Predict graphs that were collated before, filled or not, so that several checkpoints share one batch."""
        return self._predict(graphs, batch)

    @torch.inference_mode()
    def _predict(self, graphs: Sequence[CrystalGraph], batch: GraphBatch) -> list[Prediction]:
        output = self._forward(batch.to(self.device))
        values = (
            output.values[: len(graphs), 0].double() * self.manifest.scaler.std + self.manifest.scaler.mean
        ).tolist()
        offsets = (output.crystal_vectors[: len(graphs)] - self._domain["mean"]) @ self._domain["whitening"]
        distances = torch.linalg.vector_norm(offsets, dim=-1).tolist()
        by_atom = (output.attention / batch.multiplicities.to(self.device)).cpu().numpy()
        attention = np.split(by_atom, np.cumsum([graph.n_nodes for graph in graphs]))
        half_width = self.manifest.calibration.half_widths["0.9"]
        return [
            Prediction(
                value=value,
                low=value - half_width,
                high=value + half_width,
                domain=judge(graph, distance, self.manifest.domain),
                attention=weights[graph.classes],
            )
            for graph, value, distance, weights in zip(graphs, values, distances, attention[: len(graphs)], strict=True)
        ]


def cut(graphs: Sequence[CrystalGraph], max_edges: int) -> Iterator[Sequence[CrystalGraph]]:
    """Cut a sequence into runs of at most `max_edges` edges, at least one graph each."""
    start, edges = 0, 0
    for index, graph in enumerate(graphs):
        if index > start and edges + graph.n_links > max_edges:
            yield graphs[start:index]
            start, edges = index, 0
        edges += graph.n_links
    if start < len(graphs):
        yield graphs[start:]
