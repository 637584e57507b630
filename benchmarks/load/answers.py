"""One crystal through parser and predictor, for the servers that ours is compared with."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.load.servers import THREADS
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.graphs.symmetry_reduction import reduce_graphs
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Prediction, Predictor
from deepergatgnn.structures import Crystal, read_structure


class Asked(NamedTuple):
    """A request that was read."""

    crystal: Crystal
    graph: CrystalGraph | None  # where it was built already
    attention: bool


class Said(NamedTuple):
    """What is said of it."""

    prediction: Prediction
    n_edges: int


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

    def read(self, request: dict[str, Any], *, graph: bool = False) -> Asked:
        """Text → structure, and on to its graph if wanted."""
        crystal = read_structure(request["structure"])
        built = self._graphs([crystal])[0] if graph else None
        return Asked(crystal, built, request.get("attention") != "none")

    def predict(self, asked: Sequence[Asked]) -> list[Said]:
        """Structures → graphs, unless they are there → predictions, as one batch."""
        built = [each.graph for each in asked if each.graph is not None]
        graphs = built or self._graphs([each.crystal for each in asked])
        predictions = self._predictor.predict_graphs(graphs)
        return [Said(said, graph.n_edges) for said, graph in zip(predictions, graphs, strict=True)]

    def _graphs(self, crystals: Sequence[Crystal]) -> list[CrystalGraph]:
        """Graphs of structures; one that is refused fails all."""
        found = reduce_graphs(crystals, self._predictor.manifest.graph)
        graphs = [graph for graph in found if isinstance(graph, CrystalGraph)]
        if len(graphs) < len(found):
            raise ValueError("a structure is refused")
        return graphs

    def answer(self, asked: Asked, answered: Said) -> dict[str, Any]:
        """What the service answers, without its latencies."""
        manifest, crystal, said = self._predictor.manifest, asked.crystal, answered.prediction
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
            "n_atoms": crystal.n_atoms,
            "n_edges": answered.n_edges,
            "predictions": [prediction],
            "warnings": list(crystal.warnings),
        }
