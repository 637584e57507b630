"""Embedding of atoms and distances. Legend: N nodes, E edges, F channels, K Gaussians, A angular features."""

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own habit
from torch import Tensor, nn

from deepergatgnn.element_features import FEATURES, element_features
from deepergatgnn.graphs.angular_features import n_angular_features
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.batch import GraphBatch
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.normalization import WeightedBatchNorm

_LEAST = -80.0  # an exponent whose power is still a normal float32


class GaussianBasis(nn.Module):
    """Expands a distance in Gaussians on a fixed grid, exp(-(d - μ_k)² / 2σ²).

    Source: Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018), doi:10.1103/PhysRevLett.120.145301.

    Args:
        cutoff: last centre in Å; the first one is at 0.
        gaussians: K.
        width: σ in Å; the spacing of the centres, if not given.
    """

    centres: Tensor

    def __init__(self, cutoff: float, gaussians: int, width: float | None = None) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.0, cutoff, gaussians), persistent=False)
        self.coefficient = -0.5 * ((gaussians - 1) / cutoff) ** 2 if width is None else -0.5 / width**2

    def forward(self, distances: Tensor) -> Tensor:
        """Distances [E] in Å → [E, K]."""
        exponents = self.coefficient * (distances.unsqueeze(-1) - self.centres) ** 2
        return torch.exp(exponents.clamp(min=_LEAST))  # as good as 0, and where it underflows `exp` is slow


class SurroundingsEmbedding(nn.Module):
    """Two layers on the standardised angular features of each node.

    Args:
        orders: of the angular features.
        channels: F.
    """

    def __init__(self, orders: int, channels: int) -> None:
        super().__init__()
        size = n_angular_features(orders)
        self.norm = WeightedBatchNorm(size)
        self.first = nn.Linear(size, channels)
        self.second = nn.Linear(channels, channels)

    def forward(self, surroundings: Tensor, multiplicities: Tensor) -> Tensor:
        """Angular features [N, A] of nodes that stand for `multiplicities` [N] atoms each → [N, F]."""
        hidden = F.silu(self.first(self.norm(surroundings, multiplicities)))
        embedded: Tensor = self.second(hidden)
        return embedded


class ElementEmbedding(nn.Module):
    """Embeds the element of each atom, the angles around it, and the distances of edges.

    Args:
        config: of the network.
        graph: of the featuriser.
    """

    element_table: Tensor

    def __init__(self, config: NetworkConfig, graph: GraphConfig) -> None:
        super().__init__()
        options, channels, elements = config.embedding, config.channels, graph.max_atomic_number
        one_hot = options.elements == "one-hot"
        # A buffer, not a parameter: a checkpoint carries the very features it was trained on.
        table = torch.eye(elements) if one_hot else torch.from_numpy(element_features(elements))
        self.register_buffer("element_table", table)
        sizes = [elements if one_hot else FEATURES, *[channels] * options.layers]
        self.elements = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.surroundings = SurroundingsEmbedding(graph.angles, channels) if graph.angles else None
        self.basis = GaussianBasis(graph.cutoff, graph.gaussians, options.gaussian_width)
        self.edges = nn.Linear(graph.gaussians, channels) if config.body.embeds_edges else None
        self.edge_size = channels if config.body.embeds_edges else graph.gaussians
        self.slope = 0.2 if options.activation == "leaky_relu" else 0.0

    def forward(self, batch: GraphBatch) -> Tensor:
        """What the first layer reads of each node [N, F]."""
        table = self.element_table
        for layer in self.elements:
            table = F.leaky_relu(layer(table), self.slope)
        x = table[batch.atomic_numbers - 1]
        if self.surroundings is None:
            return x
        return x + cast("Tensor", self.surroundings(batch.angular_features, batch.multiplicities))

    def embed_distances(self, distances: Tensor) -> Tensor:
        """What every layer reads of each edge: distances [E] in Å → [E, F] or [E, K]."""
        gaussians: Tensor = self.basis(distances)
        return gaussians if self.edges is None else F.leaky_relu(self.edges(gaussians), self.slope)
