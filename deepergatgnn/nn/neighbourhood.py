"""Sums, means and softmaxes over neighbours and atoms that are right on symmetry-reduced graphs too.

An edge stands for `counts` equal edges of one atom, a node for `multiplicities` equal atoms. Layers and poolings that
gather with these functions alone give the same answers for a reduced graph as for the graph of all atoms.

Legend: N nodes, E edges, B crystals.
"""

from typing import NamedTuple

from torch import Tensor
from torch_geometric.utils import scatter, softmax

from deepergatgnn.nn.batch import GraphBatch


class Neighbourhood(NamedTuple):
    """Edges of a batch, and what they stand for; computed once, before the first layer.

    Shapes:
        receivers, senders: int64 [E], node i and its neighbour j.
        counts: [E], equal edges of one atom that an edge stands for.
        log_counts: [E].
        edge_weights: [E], edges of the whole crystal that an edge stands for.
        multiplicities: [N], atoms that a node stands for.
    """

    receivers: Tensor
    senders: Tensor
    counts: Tensor
    log_counts: Tensor
    edge_weights: Tensor
    multiplicities: Tensor

    @classmethod
    def of(cls, batch: GraphBatch) -> "Neighbourhood":
        """The neighbourhoods of all nodes of a batch."""
        counts, multiplicities = batch.counts, batch.multiplicities
        edge_weights = counts * multiplicities[batch.receivers]
        return cls(batch.receivers, batch.senders, counts, counts.log(), edge_weights, multiplicities)

    @property
    def n_nodes(self) -> int:
        """N."""
        return self.multiplicities.shape[0]


def sum_over_neighbours(messages: Tensor, neighbourhood: Neighbourhood) -> Tensor:
    """Σ of the messages of all neighbours of an atom: [E, ...] → [N, ...]."""
    return _sum_at_receivers(messages * _broadcast(neighbourhood.counts, messages), neighbourhood)


def mean_over_neighbours(messages: Tensor, neighbourhood: Neighbourhood) -> Tensor:
    """Mean of the messages of all neighbours of an atom, 0 without any: [E, ...] → [N, ...]."""
    total = sum_over_neighbours(messages, neighbourhood)
    count = _sum_at_receivers(neighbourhood.counts, neighbourhood).clamp_min(1)
    return total / _broadcast(count, total)


def softmax_over_neighbours(scores: Tensor, neighbourhood: Neighbourhood) -> Tensor:
    """Attention weights of the edges of each atom: [E, H] → [E, H].

    The weight of an edge is that of all its `counts` equal edges together, so a weighted sum is
    `weighted_sum_over_neighbours`, and the weights of the edges of an atom sum to 1.
    """
    scores = scores + neighbourhood.log_counts.unsqueeze(-1)
    weights: Tensor = softmax(scores, neighbourhood.receivers, num_nodes=neighbourhood.n_nodes)
    return weights


def weighted_sum_over_neighbours(weighted: Tensor, neighbourhood: Neighbourhood) -> Tensor:
    """Σ over the neighbours of an atom of messages times weights of `softmax_over_neighbours`: [E, ...] → [N, ...]."""
    return _sum_at_receivers(weighted, neighbourhood)


def sum_over_atoms(x: Tensor, batch: GraphBatch) -> Tensor:
    """Σ over the atoms of a crystal: [N, ...] → [B, ...]. Extensive."""
    return _sum_in_crystals(x * _broadcast(batch.multiplicities, x), batch)


def mean_over_atoms(x: Tensor, batch: GraphBatch) -> Tensor:
    """Mean over the atoms of a crystal: [N, ...] → [B, ...]."""
    total = sum_over_atoms(x, batch)
    return total / _broadcast(batch.n_atoms, total)


def softmax_over_atoms(scores: Tensor, batch: GraphBatch) -> Tensor:
    """Attention weights of the nodes of each crystal: [N] → [N].

    The weight of a node is that of all its atoms together; those of a crystal sum to 1.
    """
    scores = scores + batch.multiplicities.log()
    weights: Tensor = softmax(scores, batch.crystals, num_nodes=batch.n_crystals)
    return weights


def weighted_sum_over_atoms(x: Tensor, weights: Tensor, batch: GraphBatch) -> Tensor:
    """Σ over the atoms of a crystal of x [N, F] times the weights [N] of `softmax_over_atoms`: [B, F]."""
    return _sum_in_crystals(weights.unsqueeze(-1) * x, batch)


def _sum_at_receivers(x: Tensor, neighbourhood: Neighbourhood) -> Tensor:
    total: Tensor = scatter(x, neighbourhood.receivers, dim=0, dim_size=neighbourhood.n_nodes, reduce="sum")
    return total


def _sum_in_crystals(x: Tensor, batch: GraphBatch) -> Tensor:
    total: Tensor = scatter(x, batch.crystals, dim=0, dim_size=batch.n_crystals, reduce="sum")
    return total


def _broadcast(factors: Tensor, like: Tensor) -> Tensor:
    return factors.view(-1, *(1,) * (like.ndim - 1))
