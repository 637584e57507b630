"""The augmented graph-attention layer and the radial basis. Tensors only.

Legend: N atoms, E edges, F channels, H heads, K Gaussians.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own habit
from torch import Tensor, nn

from deepergatgnn.graphs.angular_features import surroundings_size
from deepergatgnn.nn.normalization import WeightedBatchNorm
from deepergatgnn.nn.segments import segment_softmax, segment_sum

_LEAST = -80.0  # an exponent whose power is still a normal float32


class GaussianBasis(nn.Module):
    """Expands a distance in Gaussians on a fixed grid, exp(-(d - μ_k)² / 2σ²), σ the grid's spacing.

    Source: Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018), doi:10.1103/PhysRevLett.120.145301.
    """

    centres: Tensor

    def __init__(self, cutoff: float, gaussians: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.0, cutoff, gaussians), persistent=False)
        self.coefficient = -0.5 * ((gaussians - 1) / cutoff) ** 2

    def forward(self, distances: Tensor) -> Tensor:
        """Distances [E] in Å → [E, K]."""
        exponents = self.coefficient * (distances.unsqueeze(-1) - self.centres) ** 2
        return torch.exp(exponents.clamp(min=_LEAST))  # as good as 0, and where it underflows `exp` is slow


class SurroundingsEmbedding(nn.Module):
    """Two layers on the standardised angular surroundings of each node.

    Args:
        orders: of the surroundings.
        channels: F.
    """

    def __init__(self, orders: int, channels: int) -> None:
        super().__init__()
        size = surroundings_size(orders)
        self.norm = WeightedBatchNorm(size)
        self.first = nn.Linear(size, channels)
        self.second = nn.Linear(channels, channels)

    def forward(self, surroundings: Tensor, multiplicities: Tensor) -> Tensor:
        """Surroundings [N, A] of nodes that stand for `multiplicities` [N] atoms each → [N, F]."""
        hidden = F.silu(self.first(self.norm(surroundings, multiplicities)))
        embedded: Tensor = self.second(hidden)
        return embedded


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
        """Draw new weights (Glorot); the bias takes away softplus(0), what a neighbour says that says nothing.

        Messages are positive. From a bias of zero every layer therefore adds the same positive vector to all atoms,
        their sum grows exponentially with depth (to 6e4 after 50 layers), and what tells atoms apart drowns in it.
        """
        nn.init.xavier_uniform_(self.weight)
        nn.init.xavier_uniform_(self.attention)
        nn.init.constant_(self.bias, -math.log(2))

    def forward(
        self,
        x: Tensor,
        e: Tensor,
        receivers: Tensor,
        senders: Tensor,
        log_counts: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Gather from the neighbours.

        Shapes:
            x: [N, F] nodes.
            e: [E, F] edges.
            receivers, senders: [E], node i and its neighbour j.
            log_counts: [E], logarithm of the equal edges of one atom that an edge stands for; 0, if not given.
            weights: [E], edges of the whole crystal that an edge stands for; 1, if not given.
            output: [N, F].
        """
        W_x, W_e = torch.split(self.weight, self.channels)
        x_W, e_W = x @ W_x, e @ W_e  # [N, H*F], [E, H*F]
        h_i = F.softplus(x_W[receivers] + e_W).view(-1, self.heads, self.channels)  # [E, H, F]
        h_j = F.softplus(x_W[senders] + e_W).view(-1, self.heads, self.channels)
        a_i, a_j = torch.split(self.attention, self.channels, dim=-1)  # [H, F] each
        score = F.softplus((h_i * a_i).sum(dim=-1) + (h_j * a_j).sum(dim=-1))  # [E, H]
        score = F.softplus(self.norm(score, weights))
        if log_counts is not None:
            score = score + log_counts.unsqueeze(-1)
        alpha = segment_softmax(score, receivers, x.shape[0]) / self.heads
        message = torch.einsum("eh,ehf->ef", alpha, h_j)
        out = segment_sum(message, receivers, x.shape[0])
        return out + self.bias

    def extra_repr(self) -> str:
        """Sizes, as in PyTorch's own layers."""
        return f"{self.channels}, heads={self.heads}"
