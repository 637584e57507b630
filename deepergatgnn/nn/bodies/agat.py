"""Augmented graph attention, the layer of GATGNN and DeeperGATGNN. Legend: N nodes, E edges, F channels, H heads."""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own habit
from torch import Tensor, nn

from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.neighbourhood import Neighbourhood, softmax_over_neighbours, weighted_sum_over_neighbours
from deepergatgnn.nn.normalization import WeightedBatchNorm


class AGATLayer(nn.Module):
    r"""Augmented graph attention: the edge joins both of its ends (GATGNN, Eqs. 1-3, doi:10.1039/D0CP01474E).

    .. math::
        h_i = g([x_i ; e_{ij}] W), \quad h_j = g([x_j ; e_{ij}] W), \quad
        α_{ij} = softmax_j\, g(BN(g(a^T [h_i ; h_j]))), \quad
        x_i' = \frac{1}{H} \sum_h \sum_j α_{ij}^h h_j^h + b

    with g = softplus and the softmax over the edges of atom i. [x ; e] W = x W_x + e W_e, so W_x works on
    N rows instead of 2 E, e W_e serves both ends, and no concatenation is written. At 64 channels and 4 heads,
    W 32,768 + attention 512 + batch norm 8 + bias 64 parameters.

    Args:
        channels: F, of atoms and of edges.
        heads: H.
    """

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.channels, self.heads = channels, heads
        self.weight = nn.Parameter(torch.empty(2 * channels, heads * channels))  # W
        self.attention = nn.Parameter(torch.empty(heads, 2 * channels))  # a
        self.bias = nn.Parameter(torch.empty(channels))  # b
        self.norm = WeightedBatchNorm(heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights (Glorot); the bias cancels softplus(0) = log 2, the message of a zero input.

        Messages are positive. With a bias of zero every layer would add the same positive vector to all atoms, whose
        sum grows exponentially with depth (to 6e4 after 50 layers) and hides the differences between atoms.
        """
        nn.init.xavier_uniform_(self.weight)
        nn.init.xavier_uniform_(self.attention)
        nn.init.constant_(self.bias, -math.log(2))

    @classmethod
    def of(cls, config: NetworkConfig, edge_size: int) -> "AGATLayer":  # noqa: ARG003 - edges have as many channels
        """The layer of a network."""
        return cls(config.channels, config.heads)

    def forward(self, x: Tensor, e: Tensor, neighbourhood: Neighbourhood) -> Tensor:
        """Attend to the neighbours.

        Shapes:
            x: [N, F] nodes.
            e: [E, F] edges.
            output: [N, F].
        """
        W_x, W_e = torch.split(self.weight, self.channels)
        x_W, e_W = x @ W_x, e @ W_e  # [N, H*F], [E, H*F]
        h_i = F.softplus(x_W[neighbourhood.receivers] + e_W).view(-1, self.heads, self.channels)  # [E, H, F]
        h_j = F.softplus(x_W[neighbourhood.senders] + e_W).view(-1, self.heads, self.channels)
        a_i, a_j = torch.split(self.attention, self.channels, dim=-1)  # [H, F] each
        score = F.softplus((h_i * a_i).sum(dim=-1) + (h_j * a_j).sum(dim=-1))  # [E, H]
        score = F.softplus(self.norm(score, neighbourhood.edge_weights))
        alpha = softmax_over_neighbours(score, neighbourhood) / self.heads
        message = torch.einsum("eh,ehf->ef", alpha, h_j)
        return weighted_sum_over_neighbours(message, neighbourhood) + self.bias

    def extra_repr(self) -> str:
        """Sizes, as in PyTorch's own layers."""
        return f"{self.channels}, heads={self.heads}"
