r"""Attention faithfulness: a loss that compares the attention of atoms with the effect of their removal.

The global attention is learned for the pooling. In a deep network every atom knows its neighbours, so the weight of an
atom need not reflect its contribution to the value (Jain and Wallace, arXiv:1902.10186). Here two disjoint sets of
atoms S and S' of each crystal are drawn, the information of each is removed in turn, and the attention of S, as a
share of that of both, is fitted to its share of the effect,

.. math:: t = |Δ_S| / (|Δ_S| + |Δ_{S'}|), \quad a = A_S / (A_S + A_{S'}), \quad
    L = -t \log a - (1 - t) \log (1 - a)

as strengths are fitted to outcomes of pairs (Bradley and Terry, doi:10.1093/biomet/39.3-4.324). The effects carry no
gradient, so they are not fitted to the attention.

Legend: N nodes, B crystals, F channels, T targets.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own habit
from torch import Tensor
from torch_geometric.utils import scatter

from deepergatgnn.nn.batch import GraphBatch
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.training.fit.distributed import sum_over_ranks

EVERY = 6  # batches, of which one has this loss: its forward passes cost as much as two batches without it
MOST = 0.5  # of the nodes of a crystal in one set
TINY = 1e-12


def attention_loss(network: CrystalModel, batch: GraphBatch, attention: Tensor) -> Tensor:
    """Cross-entropy between shares of attention and shares of effect, each crystal weighted by its effects.

    Args:
        network: its running statistics are not changed.
        batch: on the network's device.
        attention: of the network for the batch [N], with a gradient.

    Returns:
        The part of these crystals in the mean over the batch of all processes; crystals of one node have none.
    """
    sets = draw_sets(batch)
    effects = torch.stack(effects_of_removal(network, batch, sets))  # [2, B]
    shares = torch.stack([_per_crystal(attention.float() * each, batch) for each in sets])
    target = effects[0] / effects.sum(dim=0).clamp_min(TINY)
    found = (shares[0] / shares.sum(dim=0).clamp_min(TINY)).clamp(TINY, 1 - 1e-6)
    weights = effects.sum(dim=0)
    each = F.binary_cross_entropy(found, target, reduction="none")
    return (weights * each).sum() / sum_over_ranks(weights.sum()).clamp_min(TINY)


@torch.no_grad()
def effects_of_removal(network: CrystalModel, batch: GraphBatch, sets: tuple[Tensor, ...]) -> list[Tensor]:
    """|Change of the values|, summed over targets, when the nodes of a set are blanked; [B] each.

    A blank node has the mean of the embeddings of the elements of the batch, each of which counts once.
    """
    with _evaluating(network):
        x = network.embed(batch)
        elements = scatter(x, batch.atomic_numbers, dim=0, reduce="mean")
        blank = elements[torch.bincount(batch.atomic_numbers) > 0].mean(dim=0)
        whole = network.forward_from(x, batch).values
        without = [network.forward_from(torch.where(each.unsqueeze(-1), blank, x), batch).values for each in sets]
        return [(values - whole).abs().sum(dim=-1) for values in without]


def draw_sets(batch: GraphBatch) -> tuple[Tensor, Tensor]:
    """Two disjoint sets of equally many nodes of each crystal, bool [N] each; the size is drawn for each crystal."""
    nodes = torch.bincount(batch.crystals, minlength=batch.n_crystals)  # [B]
    size = (MOST * torch.rand(len(nodes)).to(nodes.device) * nodes).ceil().long().clamp(min=1)
    size = torch.minimum(size, nodes // 2)[batch.crystals]
    order = (batch.crystals + torch.rand(len(batch.crystals), dtype=torch.float64).to(nodes.device)).argsort()
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    place -= (nodes.cumsum(0) - nodes)[batch.crystals]
    return place < size, (place >= size) & (place < 2 * size)


def _per_crystal(of_nodes: Tensor, batch: GraphBatch) -> Tensor:
    total: Tensor = scatter(of_nodes, batch.crystals, dim=0, dim_size=batch.n_crystals, reduce="sum")
    return total


@contextmanager
def _evaluating(network: CrystalModel) -> Iterator[None]:
    """Evaluation mode; afterwards each module has its former mode, because frozen layers stay in evaluation mode."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
