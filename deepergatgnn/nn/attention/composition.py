"""Global attention that sees the composition. Legend: N nodes, B crystals, F channels, C elements."""

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own habit
from torch import Tensor, nn

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.batch import GraphBatch
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.neighbourhood import softmax_over_atoms


def composition(batch: GraphBatch, size: int) -> Tensor:
    """Fraction of each element in each crystal, [B, C]; rows sum to 1; element Z in column Z - 1."""
    counts = batch.multiplicities.new_zeros(batch.n_crystals * size)
    counts = counts.index_add(0, batch.crystals * size + batch.atomic_numbers - 1, batch.multiplicities)
    return counts.view(batch.n_crystals, size) / batch.n_atoms.unsqueeze(-1)


class CompositionAttention(nn.Module):
    """Weight of every atom in its crystal, GI M-1 (GATGNN, Table 1 and Fig. 2, doi:10.1039/D0CP01474E).

    The composition joins the features of each atom; two fully connected layers and one output channel follow,
    then a softmax over the atoms of the crystal.

    Args:
        config: of the network.
        graph: of the featuriser.
    """

    def __init__(self, config: NetworkConfig, graph: GraphConfig) -> None:
        super().__init__()
        self.channels, self.composition_size = config.channels, graph.max_atomic_number
        self.first = nn.Linear(self.channels + self.composition_size, self.channels)
        self.second = nn.Linear(self.channels, self.channels)
        self.output = nn.Linear(self.channels, 1)

    def forward(self, x: Tensor, batch: GraphBatch) -> Tensor:
        """Attention weights.

        Shapes:
            x: [N, F] nodes.
            output: [N], of all the atoms of a node together; >= 0, summing to 1 over each crystal.
        """
        compositions = composition(batch, self.composition_size)
        W_x, W_c = torch.split(self.first.weight, [self.channels, self.composition_size], dim=-1)
        per_crystal = F.linear(compositions, W_c, self.first.bias)  # [B, F]
        hidden = F.softplus(F.linear(x, W_x) + per_crystal[batch.crystals])
        hidden = F.softplus(self.second(hidden))
        return softmax_over_atoms(self.output(hidden).squeeze(-1), batch)
