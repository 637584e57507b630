"""Compilation of a network for batches of any size, for processes that live long enough to repay its minutes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._inductor import config as inductor

from deepergatgnn.nn.batch import GraphBatch
from deepergatgnn.nn.crystal_model import CrystalModel, NetworkOutput

# Relative, of all outputs against the eager network: single precision, another order of sums.
TOLERANCE = 1e-4


def compile_network(network: CrystalModel, examples: Sequence[GraphBatch]) -> Callable[[GraphBatch], NetworkOutput]:
    """Compile a network in evaluation mode, once for all sizes of batches.

    Args:
        network: is not changed.
        examples: batches of at least two sizes, without a dimension of 1, to compile with and to check the result on.

    Returns:
        The same function. A batch that would need another compilation is computed eagerly.

    Raises:
        RuntimeError: if there is no compiler, or the compiled network gives other values.
    """
    inductor.compile_threads = 1  # in this process: no pool of compilers that could outlive it
    compiled = torch.compile(network, dynamic=True)
    device = next(network.parameters()).device
    with torch.inference_mode():
        for batch in examples:
            moved = batch.to(device)
            found, expected = compiled(moved), network(moved)
            for ours, theirs in zip(found, expected, strict=True):
                if ours is not None and not torch.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
                    raise RuntimeError("the compiled network gives other values than the eager one")

    def forward(batch: GraphBatch) -> NetworkOutput:
        stance: Any = torch.compiler.set_stance("eager_on_recompile")
        with stance:
            output: NetworkOutput = compiled(batch)
        return output

    return forward
