"""One crystal through parser and predictor, for the servers that ours is compared with."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.load.servers import THREADS
from deepergatgnn.crystal_graph import CrystalGraph
from deepergatgnn.equivalence import merge_equivalent
from deepergatgnn.graph import build_graph
from deepergatgnn.predictor import Prediction, Predictor
from deepergatgnn.structures import Crystal, read_structure
from model_store import ModelStore


class Asked(NamedTuple):
    """A request that was read."""

    crystal: Crystal
    graph: CrystalGraph
    attention: bool


class Model:
    """The same parser and predictor as the service's.

    Args:
        store: folder of the store; empty for the shipped one.
        name: of the model.
        device: where it computes.
    """

    def __init__(self, store: str, name: str, device: str) -> None:
        torch.set_num_threads(THREADS)
        self._predictor = Predictor.load(ModelStore(store or None).folder(name), device)

    def read(self, request: dict[str, Any]) -> Asked:
        """Text → graph."""
        crystal = read_structure(request["structure"])
        graph = merge_equivalent(build_graph(crystal, self._predictor.manifest.graph))
        return Asked(crystal, graph, request.get("attention") != "none")

    def predict(self, asked: Sequence[Asked]) -> list[Prediction]:
        """Graphs → predictions, as one batch."""
        return self._predictor.predict_graphs([each.graph for each in asked])

    def answer(self, asked: Asked, said: Prediction) -> dict[str, Any]:
        """What the service answers, without its latencies."""
        manifest, crystal = self._predictor.manifest, asked.crystal
        prediction: dict[str, Any] = {
            "model": manifest.name,
            "version": manifest.version,
            "property": manifest.target.property,
            "value": said.value,
            "unit": manifest.target.unit,
            "interval": {"level": 0.9, "low": said.low, "high": said.high},
            "domain": {
                "in_domain": said.domain.in_domain,
                "score": said.domain.score,
                "reasons": list(said.domain.reasons),
            },
        }
        if asked.attention:
            rows = zip(crystal.symbols, crystal.frac_coords.tolist(), said.attention.tolist(), strict=True)
            prediction["attention"] = [
                {"index": index, "element": element, "frac_coords": coords, "weight": weight}
                for index, (element, coords, weight) in enumerate(rows)
            ]
        return {
            "formula": crystal.formula,
            "reduced_formula": crystal.reduced_formula,
            "n_atoms": asked.graph.n_atoms,
            "n_edges": asked.graph.n_edges,
            "predictions": [prediction],
            "warnings": list(crystal.warnings),
        }
