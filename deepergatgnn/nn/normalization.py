r"""Normalizations of rows that may stand for several atoms or edges: differentiable group and batch normalization.

Differentiable group normalization:

Zhou et al., "Towards deeper graph neural networks with differentiable group normalization", arXiv:2006.06972;
Eqs. 3-6 of Omee et al., doi:10.1016/j.patter.2022.100491:

.. math::
    S = softmax(H U), \quad H_g = S[:, g] ∘ H, \quad
    \tilde H = H + λ \sum_g \left( γ_g \frac{H_g - μ_g}{σ_g} + β_g \right)

With μ and σ at hand the sum over groups is affine in H, so the N×G×F tensor H_g is never written:

.. math:: \tilde H = H ∘ (1 + λ S A) + b, \quad A_g = γ_g / σ_g, \quad b = λ \sum_g (β_g - μ_g A_g)

and in training its moments are two small products, :math:`μ = S^T H / N` and :math:`(S^2)^T (H^2) / N`.
The same function as `torch_geometric.nn.DiffGroupNorm(track_running_stats=True)`.

Where several processes train together (`torch.distributed` is initialised), moments are those of all their rows. They
are computed in the precision of the running statistics, also under autocast.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn


def _ones(x: Tensor) -> Tensor:
    return x.new_ones(x.shape[0])


class _SumOverRanks(torch.autograd.Function):
    """Σ over processes; the sum reaches the loss of each of them, so the gradient is summed as well."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        [gradient] = gradients
        total: Tensor = _SumOverRanks.apply(gradient)  # type: ignore[no-untyped-call]
        return total


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _sum_of_all(x: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]
    return total


def _over_ranks(x: Tensor) -> Tensor:
    """Sum over the processes that train together; x itself for a single one."""
    return _sum_of_all(x) if distributed.is_available() and distributed.is_initialized() else x


class DifferentiableGroupNorm(nn.Module):
    """Normalizes soft groups of atoms separately; always keeps running statistics.

    With statistics of the batch at inference an answer would depend on the other crystals of the batch.

    Args:
        channels: F.
        groups: G.
        scale: λ, the weight of the normalized part.
        momentum: of the running statistics.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, channels: int, groups: int = 10, scale: float = 0.01, *, momentum: float = 0.1, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.channels, self.groups, self.scale, self.momentum, self.eps = channels, groups, scale, momentum, eps
        self.assign = nn.Linear(channels, groups, bias=False)
        self.weight = nn.Parameter(torch.ones(groups, channels))
        self.bias = nn.Parameter(torch.zeros(groups, channels))
        self.register_buffer("running_mean", torch.zeros(groups, channels))
        self.register_buffer("running_var", torch.ones(groups, channels))

    def forward(self, x: Tensor, multiplicities: Tensor | None = None) -> Tensor:
        """Normalize.

        Shapes:
            x: [N, F].
            multiplicities: [N], atoms that each row stands for; one, if not given.
            output: [N, F].
        """
        assignment = self.assign(x).softmax(dim=-1, dtype=self.running_mean.dtype)  # S [N, G]
        if self.training:
            mean, var = self._moments(x, assignment, _ones(x) if multiplicities is None else multiplicities)
        else:
            mean, var = self.running_mean, self.running_var
        gain = self.weight * torch.rsqrt(var + self.eps)  # A [G, F]
        shift = (self.bias - mean * gain).sum(dim=0)  # [F]
        normalized: Tensor = x * (1 + self.scale * (assignment @ gain)) + self.scale * shift  # [N, F]
        return normalized

    def _moments(self, x: Tensor, assignment: Tensor, multiplicities: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of S[:, g] ∘ x over atoms, [G, F] each; updates the running ones."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.running_mean.dtype)
            n = _over_ranks(multiplicities.sum())
            share = (multiplicities / n).unsqueeze(-1)
            mean, square = _over_ranks(
                torch.stack([(share * assignment).T @ x, (share * assignment * assignment).T @ (x * x)])
            )
            var = (square - mean * mean).clamp_min(0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (n / (n - 1).clamp_min(1)), self.momentum)
        return mean, var

    def extra_repr(self) -> str:
        """Sizes, as in PyTorch's own layers."""
        return f"{self.channels}, groups={self.groups}, scale={self.scale}"


class WeightedBatchNorm(nn.Module):
    """Batch normalization (Ioffe and Szegedy, arXiv:1502.03167) of rows that stand for several each.

    The same function as `torch.nn.BatchNorm1d` on the rows repeated by their weights.

    Args:
        channels: C.
        momentum: of the running statistics.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.momentum, self.eps = channels, momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Normalize.

        Shapes:
            x: [N, C].
            weights: [N], number of rows that each stands for; 1, if not given.
            output: [N, C].
        """
        if self.training:
            mean, var = self._moments(x, _ones(x) if weights is None else weights)
        else:
            mean, var = self.running_mean, self.running_var
        gain = self.weight * torch.rsqrt(var + self.eps)
        normalized: Tensor = x * gain + (self.bias - mean * gain)
        return normalized

    def _moments(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each column, [C] each; updates the running ones."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.running_mean.dtype)
            n = _over_ranks(weights.sum())
            share = weights / n
            mean = _over_ranks(share @ x)
            var = _over_ranks(share @ (x - mean) ** 2)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (n / (n - 1).clamp_min(1)), self.momentum)
        return mean, var

    def extra_repr(self) -> str:
        """Sizes, as in PyTorch's own layers."""
        return f"{self.channels}"
