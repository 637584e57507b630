"""Set2Set pooling. Legend: N nodes, B crystals, F channels."""

import torch
from torch import Tensor, nn

from deepergatgnn.nn.batch import GraphBatch
from deepergatgnn.nn.config import NetworkConfig, Set2SetConfig
from deepergatgnn.nn.neighbourhood import softmax_over_atoms, weighted_sum_over_atoms


class Set2SetPooling(nn.Module):
    r"""A recurrent network that attends to the atoms of a crystal several times.

    Vinyals et al., "Order matters: sequence to sequence for sets", arXiv:1511.06391, Eqs. 3-7:

    .. math::
        q_t = LSTM(q^*_{t-1}), \quad a_{i,t} = softmax_i(x_i · q_t), \quad r_t = \sum_i a_{i,t} x_i, \quad
        q^*_t = [q_t ; r_t]

    The same function as `torch_geometric.nn.aggr.Set2Set` on the atoms written out, with the same parameter names.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        assert isinstance(config.pooling, Set2SetConfig)  # noqa: S101 - the registry pairs both
        self.channels, self.steps = config.channels, config.pooling.steps
        self.lstm = nn.LSTM(2 * self.channels, self.channels)

    def forward(self, x: Tensor, _weights: Tensor | None, batch: GraphBatch) -> Tensor:
        """Nodes [N, F] → [B, 2F]."""
        query = x.new_zeros(batch.n_crystals, 2 * self.channels)  # q* [B, 2F]
        state = (x.new_zeros(1, batch.n_crystals, self.channels), x.new_zeros(1, batch.n_crystals, self.channels))
        for _ in range(self.steps):
            q, state = self.lstm(query.unsqueeze(0), state)
            q = q.squeeze(0)  # [B, F]
            weights = softmax_over_atoms((x * q[batch.crystals]).sum(dim=-1), batch)  # [N]
            query = torch.cat([q, weighted_sum_over_atoms(x, weights, batch)], dim=-1)
        return query
