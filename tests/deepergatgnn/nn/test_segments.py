"""Sums and softmaxes over segments are PyG's, to the last bit."""

import subprocess
import sys

import pytest
import torch
from torch_geometric.utils import scatter, softmax

from deepergatgnn.nn.segments import segment_softmax, segment_sum

COUNT = 5  # one of them is empty


@pytest.mark.parametrize("shape", [(40,), (40, 3), (40, 4, 2)])
def test_values_and_gradients_are_those_of_pyg(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    segments = torch.randint(0, COUNT - 1, (40,), generator=generator)
    ours = (30 * torch.randn(shape, generator=generator)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    sums = segment_sum(ours, segments, COUNT), scatter(theirs, segments, dim=0, dim_size=COUNT, reduce="sum")
    shares = segment_softmax(ours, segments, COUNT), softmax(theirs, segments, num_nodes=COUNT)
    for one, other in (sums, shares):
        assert torch.equal(one, other)
    weights = torch.randn(shape, generator=generator)
    ((shares[0] * weights).sum() + sums[0].square().sum()).backward()
    ((shares[1] * weights).sum() + sums[1].square().sum()).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


def test_no_segments_at_all() -> None:
    nothing, index = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    assert segment_sum(nothing, index, 2).tolist() == [[0.0] * 3] * 2
    assert segment_softmax(nothing, index, 2).shape == (0, 3)


def test_a_worker_loads_neither_pyg_nor_the_compiler_before_it_needs_them() -> None:
    """Together they take as long as everything else that it loads."""
    heavy = {"torch_geometric", "torch._dynamo", "torch._inductor"}
    code = f"import sys, deepergatgnn.service.worker.worker; sys.exit(str({heavy} & sys.modules.keys() or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
