"""From atoms to the crystal: global attention that sees the composition, then a weighted sum.

Legend: N nodes, B crystals, F channels, C elements.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own habit
from torch import Tensor, nn

from deepergatgnn.nn.batch import GraphBatch
from deepergatgnn.nn.segments import segment_softmax, segment_sum


def composition(batch: GraphBatch, size: int) -> Tensor:
    """Fraction of each element in each crystal, [B, C]; rows sum to 1; element Z in column Z - 1."""
    counts = batch.multiplicities.new_zeros(batch.n_crystals * size)
    counts = counts.index_add(0, batch.crystals * size + batch.atomic_numbers - 1, batch.multiplicities)
    return counts.view(batch.n_crystals, size) / batch.n_atoms.unsqueeze(-1)


class GlobalAttention(nn.Module):
    """Weight of every atom in its crystal, GI M-1 (GATGNN, Table 1 and Fig. 2, doi:10.1039/D0CP01474E).

    The composition joins each atom's features; two fully connected layers and one output channel follow,
    then a softmax over the atoms of the crystal.

    Args:
        channels: F.
        composition_size: C.
    """

    def __init__(self, channels: int, composition_size: int) -> None:
        super().__init__()
        self.channels = channels
        self.first = nn.Linear(channels + composition_size, channels)
        self.second = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, 1)

    def forward(self, x: Tensor, compositions: Tensor, batch: GraphBatch) -> Tensor:
        """Attention weights.

        Shapes:
            x: [N, F] nodes.
            compositions: [B, C].
            output: [N], of all the atoms of a node together; >= 0, summing to 1 over each crystal.
        """
        W_x, W_c = torch.split(self.first.weight, [self.channels, compositions.shape[-1]], dim=-1)
        per_crystal = F.linear(compositions, W_c, self.first.bias)  # [B, F]
        hidden = F.softplus(F.linear(x, W_x) + per_crystal[batch.crystals])
        hidden = F.softplus(self.second(hidden))
        score = self.output(hidden).squeeze(-1)
        return segment_softmax(score + batch.multiplicities.log(), batch.crystals, batch.n_crystals)


def attention_sum(x: Tensor, weights: Tensor, batch: GraphBatch) -> Tensor:
    """Crystal vectors: Σ over atoms of weight times features. Intensive, because the weights sum to 1.

    Shapes:
        x: [N, F]. weights: [N].
        output: [B, F].
    """
    return segment_sum(weights.unsqueeze(-1) * x, batch.crystals, batch.n_crystals)
