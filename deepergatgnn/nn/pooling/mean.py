"""Mean pooling. Legend: N nodes, B crystals, F channels."""

from torch import Tensor, nn

from deepergatgnn.nn.batch import GraphBatch
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.neighbourhood import mean_over_atoms


class MeanPooling(nn.Module):
    """Mean over the atoms of a crystal."""

    def __init__(self, _config: NetworkConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, _weights: Tensor | None, batch: GraphBatch) -> Tensor:
        """Nodes [N, F] → [B, F]."""
        return mean_over_atoms(x, batch)
