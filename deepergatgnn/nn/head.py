"""From crystal vectors to values. Legend: B crystals, P numbers of a crystal vector, T outputs."""

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own habit
from torch import Tensor, nn

from deepergatgnn.nn.config import NetworkConfig

LOG_SCALE_RANGE = (-7.0, 4.0)  # from a thousandth of the targets' standard deviation to fifty of them


class Head(nn.Module):
    """Hidden layers, then one linear layer for the values and one for the logarithms of their predicted scales.

    Args:
        config: of the network.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        options = config.head
        width = options.width or config.channels
        sizes = [config.vector_size, *[width] * options.layers]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.dropout = nn.Dropout(config.dropout)
        self.values = nn.Linear(sizes[-1], config.targets)
        self.scales = nn.Linear(sizes[-1], config.targets) if config.spread else None
        self.activation = F.softplus if options.activation == "softplus" else F.relu

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Crystal vectors [B, P] → values and logarithms of predicted scales [B, T] each; 0 without the latter."""
        hidden = vectors
        for layer in self.hidden:
            hidden = self.activation(layer(hidden))
        hidden = self.dropout(hidden)
        values = self.values(hidden)
        # Detached: learning the scale of an error must not change the value.
        log_scales = torch.zeros_like(values) if self.scales is None else self.scales(hidden.detach())
        return values, log_scales.clamp(*LOG_SCALE_RANGE)
