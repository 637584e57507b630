"""From atoms to the crystal: global attention that sees the composition, then a weighted sum.

Legend: N atoms, B crystals, F channels, C elements.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own habit
from torch import Tensor, nn
from torch_geometric.utils import scatter, softmax


def composition(atomic_numbers: Tensor, crystals: Tensor, n_atoms: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Fraction of each element in each crystal.

    Shapes:
        atomic_numbers, crystals: [N].
        n_atoms: [B].
        output: [B, C], rows sum to 1; element Z in column Z - 1.
    """
    n_crystals = n_atoms.shape[0]
    counts = torch.zeros(n_crystals * size, dtype=dtype, device=atomic_numbers.device)
    counts.index_add_(0, crystals * size + atomic_numbers - 1, torch.ones_like(atomic_numbers, dtype=dtype))
    return counts.view(n_crystals, size) / n_atoms.unsqueeze(-1)


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

    def forward(self, x: Tensor, compositions: Tensor, crystals: Tensor) -> Tensor:
        """Attention weights.

        Shapes:
            x: [N, F] atoms.
            compositions: [B, C].
            crystals: [N].
            output: [N], >= 0, summing to 1 over each crystal.
        """
        W_x, W_c = torch.split(self.first.weight, [self.channels, compositions.shape[-1]], dim=-1)
        per_crystal = F.linear(compositions, W_c, self.first.bias)  # [B, F]
        hidden = F.softplus(F.linear(x, W_x) + per_crystal[crystals])
        hidden = F.softplus(self.second(hidden))
        score = self.output(hidden).squeeze(-1)
        weights: Tensor = softmax(score, crystals, num_nodes=compositions.shape[0])
        return weights


def attention_sum(x: Tensor, weights: Tensor, crystals: Tensor, n_crystals: int) -> Tensor:
    """Crystal vectors: Σ over atoms of weight times features. Intensive, because the weights sum to 1.

    Shapes:
        x: [N, F]. weights, crystals: [N].
        output: [B, F].
    """
    pooled: Tensor = scatter(weights.unsqueeze(-1) * x, crystals, dim=0, dim_size=n_crystals, reduce="sum")
    return pooled
