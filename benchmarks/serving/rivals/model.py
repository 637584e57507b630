"""Parser and predictor of the service, for the servers that it is compared with."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.serving.servers import THREADS
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.graphs.symmetry_reduction import reduce_graphs
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Prediction, Predictor
from deepergatgnn.structures import Crystal, read_structure


class DecodedRequest(NamedTuple):
    """Decoded request."""

    crystal: Crystal
    graph: CrystalGraph | None  # None if the graph is built in `predict`
    attention: bool


class Predicted(NamedTuple):
    """Prediction of one crystal."""

    prediction: Prediction
    n_edges: int


class Model:
    """Parser and predictor of the service.

    Args:
        store: folder of the store; empty for the shipped one.
        name: name of the model.
        device: device of the predictor.
    """

    def __init__(self, store: str, name: str, device: str) -> None:
        torch.set_num_threads(THREADS)
        self._predictor = Predictor.load(ModelStore(store or None).folder(name), device)

    def read(self, request: dict[str, Any], *, graph: bool = False) -> DecodedRequest:
        """Read the structure and, if requested, build its graph."""
        crystal = read_structure(request["structure"])
        built = self._graphs([crystal])[0] if graph else None
        return DecodedRequest(crystal, built, request.get("attention") != "none")

    def predict(self, requests: Sequence[DecodedRequest]) -> list[Predicted]:
        """Predict one batch; graphs are built here unless `read` built them."""
        built = [each.graph for each in requests if each.graph is not None]
        graphs = built or self._graphs([each.crystal for each in requests])
        predictions = self._predictor.predict_graphs(graphs)
        return [Predicted(prediction, graph.n_edges) for prediction, graph in zip(predictions, graphs, strict=True)]

    def _graphs(self, crystals: Sequence[Crystal]) -> list[CrystalGraph]:
        """Build the graphs; a refused structure fails the batch."""
        found = reduce_graphs(crystals, self._predictor.manifest.graph)
        graphs = [graph for graph in found if isinstance(graph, CrystalGraph)]
        if len(graphs) < len(found):
            raise ValueError("a structure is refused")
        return graphs

    def answer(self, request: DecodedRequest, predicted: Predicted) -> dict[str, Any]:
        """Build the answer of the service, without its latencies."""
        manifest, crystal, result = self._predictor.manifest, request.crystal, predicted.prediction
        prediction: dict[str, Any] = {
            "model": manifest.name,
            "version": manifest.version,
            "property": manifest.target.property,
            "value": result.value,
            "unit": manifest.target.unit,
            "interval": {"level": 0.9, "low": result.low, "high": result.high},
            "domain": {
                "in_domain": result.domain.in_domain,
                "score": result.domain.score,
                "reasons": list(result.domain.reasons),
            },
        }
        if request.attention:
            rows = zip(crystal.symbols, crystal.frac_coords.tolist(), result.attention.tolist(), strict=True)
            prediction["attention"] = [
                {"index": index, "element": element, "frac_coords": coords, "weight": weight}
                for index, (element, coords, weight) in enumerate(rows)
            ]
        return {
            "formula": crystal.formula,
            "reduced_formula": crystal.reduced_formula,
            "n_atoms": crystal.n_atoms,
            "n_edges": predicted.n_edges,
            "predictions": [prediction],
            "warnings": list(crystal.warnings),
        }
