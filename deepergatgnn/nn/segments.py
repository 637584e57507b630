"""Sums and softmaxes over segments: the edges of a node, the nodes of a crystal.

Bit for bit those of `torch_geometric.utils`, whose import takes longer than that of torch itself.
"""

from torch import Tensor

_SMALLEST = 1e-16  # as in PyG; a denominator is at least 1, for the largest score of a segment


def segment_sum(values: Tensor, segments: Tensor, count: int) -> Tensor:
    """Sum over each segment.

    Args:
        values: [M, ...].
        segments: segment of each value, [M].
        count: number of segments.

    Returns:
        [count, ...].
    """
    return values.new_zeros((count, *values.shape[1:])).scatter_add_(0, _broadcast(segments, values), values)


def segment_softmax(scores: Tensor, segments: Tensor, count: int) -> Tensor:
    """Softmax over each segment.

    Args:
        scores: [M, ...].
        segments: segment of each score, [M].
        count: number of segments.

    Returns:
        [M, ...].
    """
    fixed = scores.detach()
    largest = fixed.new_zeros((count, *fixed.shape[1:]))
    largest = largest.scatter_reduce_(0, _broadcast(segments, fixed), fixed, reduce="amax", include_self=False)
    exponentials = (scores - largest.index_select(0, segments)).exp()
    return exponentials / (segment_sum(exponentials, segments, count) + _SMALLEST).index_select(0, segments)


def _broadcast(segments: Tensor, values: Tensor) -> Tensor:
    return segments.view(-1, *(1,) * (values.ndim - 1)).expand_as(values)
