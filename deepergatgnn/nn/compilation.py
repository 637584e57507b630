"""Compiling the network for batches of any size, for a process that lives long enough to earn it back."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from deepergatgnn.nn.batch import GraphBatch
from deepergatgnn.nn.network import DeeperGATGNN, NetworkOutput

TOLERANCE = (
    1e-4  # relative, of values and crystal vectors against the eager network: single precision, other order of sums
)


def compile_network(network: DeeperGATGNN, examples: Sequence[GraphBatch]) -> Callable[[GraphBatch], NetworkOutput]:
    """Compile a network in evaluation mode, once for all sizes of batches.

    Args:
        network: it is not changed.
        examples: batches of at least two sizes, no dimension of which is 1, to compile with and to try the result on.

    Returns:
        The same function. A batch that it is not made for is computed eagerly, never compiled again.

    Raises:
        RuntimeError: where there is no compiler, or the compiled network gives other values.
    """
    from torch._inductor import config as inductor  # noqa: PLC0415 - a second, of a process that may never compile

    inductor.compile_threads = 1  # in this process: no pool of compilers that could outlive it
    compiled = torch.compile(network, dynamic=True)
    device = network.element_table.device
    with torch.inference_mode():
        for batch in examples:
            moved = batch.to(device)
            found, expected = compiled(moved), network(moved)
            for ours, theirs in zip(found, expected, strict=True):
                if not torch.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
                    raise RuntimeError("the compiled network gives other values than the eager one")

    def forward(batch: GraphBatch) -> NetworkOutput:
        stance: Any = torch.compiler.set_stance("eager_on_recompile")
        with stance:
            output: NetworkOutput = compiled(batch)
        return output

    return forward
