"""The gated convolution of CGCNN. Legend: N nodes, E edges, F channels, K edge features."""

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own habit
from torch import Tensor, nn

from deepergatgnn.nn.config import CGCNNConfig, NetworkConfig
from deepergatgnn.nn.neighbourhood import Neighbourhood, mean_over_neighbours, sum_over_neighbours


class CGCNNLayer(nn.Module):
    r"""Gated convolution (Xie and Grossman, Eq. 5, doi:10.1103/PhysRevLett.120.145301).

    .. math:: m_i = \sum_j σ(z_{ij} W_f + b_f) ∘ softplus(z_{ij} W_s + b_s), \quad z_{ij} = [x_i ; x_j ; e_{ij}]

    The same function as `torch_geometric.nn.CGConv`, which returns x + m, with the same parameter names. The columns
    of W are split among x_i, x_j and e, so that z is never written.

    Args:
        channels: F.
        edge_size: K.
        aggregation: "sum" or "mean" over the neighbours.
        residual: return x + m instead of m.
    """

    def __init__(self, channels: int, edge_size: int, aggregation: str = "mean", *, residual: bool = False) -> None:
        super().__init__()
        self.channels, self.edge_size = channels, edge_size
        self.aggregation, self.residual = aggregation, residual
        self.lin_f = nn.Linear(2 * channels + edge_size, channels)
        self.lin_s = nn.Linear(2 * channels + edge_size, channels)

    @classmethod
    def of(cls, config: NetworkConfig, edge_size: int) -> "CGCNNLayer":
        """The layer of a network."""
        options = config.body
        assert isinstance(options, CGCNNConfig)  # noqa: S101 - the registry pairs both
        return cls(config.channels, edge_size, options.aggregation, residual=options.residual)

    def forward(self, x: Tensor, e: Tensor, neighbourhood: Neighbourhood) -> Tensor:
        """Gather the gated messages of the neighbours.

        Shapes:
            x: [N, F] nodes.
            e: [E, K] edges.
            output: [N, F].
        """
        weight, bias = torch.cat([self.lin_f.weight, self.lin_s.weight]), torch.cat([self.lin_f.bias, self.lin_s.bias])
        W_i, W_j, W_e = torch.split(weight, [self.channels, self.channels, self.edge_size], dim=-1)  # [2F, .] each
        x_i, x_j = F.linear(x, W_i, bias)[neighbourhood.receivers], F.linear(x, W_j)[neighbourhood.senders]
        gate, core = torch.split(x_i + x_j + F.linear(e, W_e), self.channels, dim=-1)  # [E, F] each
        gather = mean_over_neighbours if self.aggregation == "mean" else sum_over_neighbours
        gathered = gather(gate.sigmoid() * F.softplus(core), neighbourhood)
        return x + gathered if self.residual else gathered

    def extra_repr(self) -> str:
        """Sizes, as in PyTorch's own layers."""
        return f"{self.channels}, edge_size={self.edge_size}, aggregation={self.aggregation}"
