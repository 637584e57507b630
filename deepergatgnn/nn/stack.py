"""The loop over the layers of a body, with normalization and skips. Legend: N nodes, E edges, F channels."""

from typing import Any

from torch import Tensor, nn

from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.neighbourhood import Neighbourhood
from deepergatgnn.nn.normalization import DifferentiableGroupNorm, WeightedBatchNorm


class Stack(nn.Module):
    """Layers of one body: x ← x + norm(layer(x)), without the x where skips are off.

    Args:
        layer: class of the body, with `of(config, edge_size)`.
        config: of the network.
        edge_size: features of an edge.
    """

    def __init__(self, layer: Any, config: NetworkConfig, edge_size: int) -> None:
        super().__init__()
        self.skip = config.skip
        self.layers = nn.ModuleList(layer.of(config, edge_size) for _ in range(config.layers))
        norms = config.layers if config.normalization != "none" else 0
        self.norms = nn.ModuleList(_normalization(config) for _ in range(norms))

    def forward(self, x: Tensor, e: Tensor, neighbourhood: Neighbourhood) -> Tensor:
        """Nodes [N, F], edges [E, edge_size] → nodes [N, F]."""
        for index, layer in enumerate(self.layers):
            gathered = layer(x, e, neighbourhood)
            if self.norms:
                gathered = self.norms[index](gathered, neighbourhood.multiplicities)
            x = x + gathered if self.skip else gathered
        return x


def _normalization(config: NetworkConfig) -> nn.Module:
    if config.normalization == "batch":
        return WeightedBatchNorm(config.channels)
    return DifferentiableGroupNorm(config.channels, config.groups, config.group_scale)
