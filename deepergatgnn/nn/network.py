"""The DeeperGATGNN network (Omee et al., Patterns 3, 100491 (2022), doi:10.1016/j.patter.2022.100491, Fig. 1).

Legend: N nodes, E edges, B crystals, F channels, T targets.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own habit
from torch import Tensor, nn

from deepergatgnn.element_features import FEATURES, element_features
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.agat import AGATLayer, GaussianBasis, SurroundingsEmbedding
from deepergatgnn.nn.batch import GraphBatch
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.normalization import DifferentiableGroupNorm
from deepergatgnn.nn.pooling import GlobalAttention, attention_sum, composition

LOG_SPREAD_RANGE = (-7.0, 4.0)  # from a thousandth of the targets' standard deviation to fifty of them


class NetworkOutput(NamedTuple):
    """What one forward pass gives.

    Shapes:
        values: [B, T], in the standardised units of training.
        attention: [N], global attention of all the atoms of a node together, summing to 1 over each crystal.
        crystal_vectors: [B, F], what the head sees.
        log_spreads: [B, T], logarithm of how far each value may be off, same units; 0 without that head.
    """

    values: Tensor
    attention: Tensor
    crystal_vectors: Tensor
    log_spreads: Tensor


class DeeperGATGNN(nn.Module):
    """Embeddings, AGAT layers with group normalization and skips, global attention, pooling, head.

    Args:
        config: sizes.
        graph: the featuriser whose graphs it reads.
    """

    element_table: Tensor

    def __init__(self, config: NetworkConfig, graph: GraphConfig) -> None:
        super().__init__()
        self.config, self.graph = config, graph
        channels = config.channels
        # A buffer, not a parameter: a checkpoint carries the very features it was trained on.
        self.register_buffer("element_table", torch.from_numpy(element_features(graph.max_atomic_number)))
        self.embed_element = nn.Linear(FEATURES, channels)
        self.embed_surroundings = SurroundingsEmbedding(graph.angles, channels) if graph.angles else None
        self.basis = GaussianBasis(graph.cutoff, graph.gaussians)
        self.embed_edge = nn.Linear(graph.gaussians, channels)
        self.layers = nn.ModuleList(AGATLayer(channels, config.heads) for _ in range(config.layers))
        self.norms = nn.ModuleList(
            DifferentiableGroupNorm(channels, config.groups, config.group_scale)
            for _ in range(config.layers if config.normalization == "group" else 0)
        )
        self.attention = GlobalAttention(channels, graph.max_atomic_number)
        self.hidden = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(channels, config.targets)
        self.spread = nn.Linear(channels, config.targets) if config.spread else None

    def forward(self, batch: GraphBatch) -> NetworkOutput:
        """Predict a batch of crystals; no crystal sees another, except through batch statistics in training."""
        return self.propagate(self.embed(batch), batch)

    def embed(self, batch: GraphBatch) -> Tensor:
        """What the layers first see of each node [N, F]: its element, and the angles around it."""
        x = F.leaky_relu(self.embed_element(self.element_table), 0.2)[batch.atomic_numbers - 1]
        if self.embed_surroundings is None:
            return x
        return x + cast("Tensor", self.embed_surroundings(batch.angular_features, batch.multiplicities))

    def propagate(self, x: Tensor, batch: GraphBatch) -> NetworkOutput:
        """Predict from what is given of the nodes [N, F] in place of `embed`, which explanations change."""
        e = F.leaky_relu(self.embed_edge(self.basis(batch.distances)), 0.2)  # [E, F]
        log_counts = batch.counts.log()
        edge_weights = batch.counts * batch.multiplicities[batch.receivers]
        for index, layer in enumerate(self.layers):
            gathered = layer(x, e, batch.receivers, batch.senders, log_counts, edge_weights)
            if self.norms:
                gathered = self.norms[index](gathered, batch.multiplicities)
            x = x + gathered if self.config.skip else gathered
        compositions = composition(batch, self.graph.max_atomic_number)
        weights = self.attention(x, compositions, batch)
        vectors = attention_sum(x, weights, batch)
        hidden = self.dropout(F.softplus(self.hidden(vectors)))
        values = self.head(hidden)
        # Detached: learning how far a value is off must not change the value.
        log_spreads = torch.zeros_like(values) if self.spread is None else self.spread(hidden.detach())
        return NetworkOutput(values, weights, vectors, log_spreads.clamp(*LOG_SPREAD_RANGE))
