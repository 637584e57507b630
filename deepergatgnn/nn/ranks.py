"""Sum over processes that train together, differentiable."""

from typing import Any

import torch
from torch import Tensor, distributed


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
def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of the tensors of all processes, outside of compiled code."""
    total: Tensor = _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]
    return total
