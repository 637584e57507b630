"""The network as the papers write it: every concatenation and every sum over edges and heads spelt out, in float64.

Nothing here is fast. `deepergatgnn.nn.crystal_model` must agree with it; benchmarks may time the one against the other.

Sources: Omee et al., doi:10.1016/j.patter.2022.100491, Fig. 1 and Eqs. 3-6; Louis et al., doi:10.1039/D0CP01474E,
Eqs. 1-3, Table 1 (GI M-1) and Fig. 2.

Legend: N atoms, E edges, B crystals, F channels, H heads, C elements, T targets.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, one_hot, softplus
from torch_geometric.nn import DiffGroupNorm
from torch_geometric.utils import scatter, softmax

from deepergatgnn.nn.batch import GraphBatch
from deepergatgnn.nn.crystal_model import CrystalModel, NetworkOutput


class LiteralAGATLayer(nn.Module):
    """Augmented graph attention on E concatenations of an atom and an edge (GATGNN, Eqs. 1-3)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.channels, self.heads = channels, heads
        self.weight = nn.Parameter(torch.empty(2 * channels, heads * channels))  # W
        self.attention = nn.Parameter(torch.empty(heads, 2 * channels))  # a
        self.bias = nn.Parameter(torch.empty(channels))  # b
        self.norm = nn.BatchNorm1d(heads)

    def forward(self, x: Tensor, e: Tensor, receivers: Tensor, senders: Tensor) -> Tensor:
        h_i = self._augmented(x[receivers], e)  # [E, H, F]
        h_j = self._augmented(x[senders], e)
        both = torch.cat([h_i, h_j], dim=2)  # [E, H, 2F]
        score = softplus(torch.einsum("ehf,hf->eh", both, self.attention))
        alpha = softmax(softplus(self.norm(score)), receivers, num_nodes=len(x))  # [E, H]
        message = alpha[:, :, None] * h_j  # [E, H, F]
        per_head = scatter(message, receivers, dim=0, dim_size=len(x), reduce="sum")  # [N, H, F]
        return per_head.mean(dim=1) + self.bias

    def _augmented(self, ends: Tensor, e: Tensor) -> Tensor:
        joined = torch.cat([ends, e], dim=1)  # [E, 2F]
        return softplus(joined @ self.weight).view(len(e), self.heads, self.channels)


class LiteralGlobalAttention(nn.Module):
    """GI M-1: the composition is written beside every atom; two fully connected layers, a score, a softmax."""

    def __init__(self, channels: int, elements: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels + elements, channels)
        self.second = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, 1)

    def forward(self, x: Tensor, compositions: Tensor, crystals: Tensor) -> Tensor:
        joined = torch.cat([x, compositions[crystals]], dim=1)  # [N, F + C]
        hidden = softplus(self.second(softplus(self.first(joined))))
        return softmax(self.output(hidden), crystals, num_nodes=len(compositions))  # [N, 1]


class LiteralDeeperGATGNN(nn.Module):
    """The whole network, with the weights of a `CrystalModel` and running statistics.

    Args:
        network: to copy; it is not changed.
    """

    def __init__(self, network: CrystalModel) -> None:
        super().__init__()
        config, graph = network.config, network.graph
        channels, self.elements = config.channels, graph.max_atomic_number
        self.register_buffer("element_table", network.embedding.element_table.clone())
        self.register_buffer("centres", network.embedding.basis.centres.clone(), persistent=False)
        self.spacing = graph.cutoff / (graph.gaussians - 1)  # σ
        self.embed_element = nn.Linear(self.element_table.shape[1], channels)
        self.embed_edge = nn.Linear(graph.gaussians, channels)
        self.layers = nn.ModuleList(LiteralAGATLayer(channels, config.heads) for _ in network.body.layers)
        self.norms = nn.ModuleList(
            DiffGroupNorm(channels, norm.groups, lamda=norm.scale, eps=norm.eps, momentum=norm.momentum)
            for norm in network.body.norms
        )
        self.attention = LiteralGlobalAttention(channels, self.elements)
        self.hidden = nn.Linear(channels, channels)
        self.head = nn.Linear(channels, config.targets)
        self.spread = nn.Linear(channels, config.targets) if config.spread else None
        self.double()
        missing, unexpected = self.load_state_dict(literal_names(network.state_dict()), strict=False)
        if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
            raise ValueError(f"the literal network has other weights: {missing=} {unexpected=}")
        self.train(network.training)

    def forward(self, batch: GraphBatch) -> NetworkOutput:
        elements = one_hot(batch.atomic_numbers - 1, self.elements).to(self.element_table)  # [N, C]
        gaussians = torch.exp(-((batch.distances[:, None] - self.centres) ** 2) / (2 * self.spacing**2))
        x = leaky_relu(self.embed_element(elements @ self.element_table), 0.2)  # [N, F]
        e = leaky_relu(self.embed_edge(gaussians), 0.2)  # [E, F]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x, e, batch.receivers, batch.senders)) + x
        compositions = scatter(elements, batch.crystals, dim=0, dim_size=batch.n_crystals, reduce="mean")  # [B, C]
        weights = self.attention(x, compositions, batch.crystals)  # [N, 1]
        vectors = scatter(weights * x, batch.crystals, dim=0, dim_size=batch.n_crystals, reduce="sum")  # [B, F]
        hidden = softplus(self.hidden(vectors))
        values = self.head(hidden)  # [B, T]
        log_scales = self.spread(hidden.detach()) if self.spread else torch.zeros_like(values)
        return NetworkOutput(values, weights[:, 0], vectors, log_scales.clamp(-7, 4))


def literal_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights, statistics or gradients of a `CrystalModel` by their literal names and shapes.

    PyG keeps the G×F numbers of a group normalization in one row.
    """
    renamed = {}
    for full_name, tensor in tensors.items():
        name = literal_name(full_name)
        if name.startswith("norms.") and name.endswith(".assign.weight"):
            renamed[name.replace(".assign.", ".lin.")] = tensor
        elif name.startswith("norms."):
            norm, _, part = name.rpartition(".")
            renamed[f"{norm}.norm.{part}"] = tensor.reshape(-1)
        else:
            renamed[name] = tensor
    return renamed


def literal_name(name: str) -> str:
    """The name in the literal network, which has no parts: as in checkpoints of before schema 3."""
    for ours, theirs in (
        ("embedding.element_table", "element_table"),
        ("embedding.elements.0.", "embed_element."),
        ("embedding.edges.", "embed_edge."),
        ("body.", ""),
        ("head.hidden.0.", "hidden."),
        ("head.values.", "head."),
        ("head.scales.", "spread."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
