"""Pooling by the global attention. Legend: N nodes, B crystals, F channels."""

from torch import Tensor, nn

from deepergatgnn.nn.batch import GraphBatch
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.neighbourhood import weighted_sum_over_atoms


class WeightedPooling(nn.Module):
    """Σ over atoms of attention times features. Intensive, because the weights sum to 1."""

    def __init__(self, _config: NetworkConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, weights: Tensor, batch: GraphBatch) -> Tensor:
        """Nodes [N, F], weights [N] → [B, F]."""
        return weighted_sum_over_atoms(x, weights, batch)
