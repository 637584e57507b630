"""The network against a literal transcription of the papers' equations, on real crystals.

    python -m benchmarks.network [--quick]

Both are 20 layers with the same weights. "Merged" computes atoms that message passing cannot tell apart once (what is
served and trained); "whole" computes every atom, so that the two parts of the gain can be told apart. The last line is
one JSON object: `forward_ratio` by batch size (merged and compiled, as in a worker that has settled, where there is a
compiler; `forward_ratio_eager` without it), `train_step_ratio`, `train_memory_ratio` (peak growth of the process,
literal over ours), `max_rel_diff` of values and gradients.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.report import finish
from benchmarks.timing import arguments, interleaved
from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.nn.batch import GraphBatch, collate
from deepergatgnn.nn.compilation import compile_network
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.training.data.catalogue import read_dataset
from tests.support.literal_network import LiteralDeeperGATGNN, literal_names

THREADS, LAYERS, SIZES, TRAINING_BATCH = 2, 20, (1, 8, 32, 100), 100


def networks(dtype: torch.dtype = torch.float32) -> tuple[CrystalModel, LiteralDeeperGATGNN]:
    """Build our network and the literal one with the same weights."""
    torch.manual_seed(0)
    ours = CrystalModel(NetworkConfig(layers=LAYERS), GraphConfig()).to(dtype)
    return ours, LiteralDeeperGATGNN(ours).to(dtype)


def graphs(count: int) -> tuple[list[CrystalGraph], list[CrystalGraph]]:
    """Build whole and reduced graphs of crystals spread over the data set."""
    rows = read_dataset("elastic_tensor_2015").rows
    whole = [build_graph(row.crystal, GraphConfig()) for row in rows[:: len(rows) // count][:count]]
    return whole, [reduce_graph(graph) for graph in whole]


def batches(
    some: Sequence[CrystalGraph], size: int, dtype: torch.dtype = torch.float32, *, filled: bool = False
) -> list[GraphBatch]:
    """Collate graphs in batches of a size."""
    starts = range(0, len(some) - size + 1, size)
    return [collate(some[start : start + size], filled=filled).to("cpu", dtype=dtype) for start in starts]


@torch.inference_mode()
def forward(network: Callable[[GraphBatch], object], some: Sequence[GraphBatch]) -> None:
    """Evaluate batches."""
    for batch in some:
        network(batch)


def train_step(network: torch.nn.Module, some: Sequence[GraphBatch]) -> None:
    """Forward and backward of batches."""
    for batch in some:
        network.zero_grad()
        network(batch).values.square().mean().backward()


def difference(dtype: torch.dtype) -> float:
    """Largest relative difference of the values and of the gradient of each parameter."""
    whole, merged = graphs(24)
    worst = 0.0
    for training in (False, True):
        ours, literal = networks(dtype)
        mine = _values_and_gradients(ours.train(training), batches(merged, len(merged), dtype)[0])
        theirs = _values_and_gradients(literal.train(training), batches(whole, len(whole), dtype)[0])
        largest = max(float(theirs[name].abs().max()) for name in theirs if name != "values")
        for name, tensor in literal_names(mine).items():
            scale = float(theirs[name].abs().max()) if name == "values" else largest
            worst = max(worst, float((tensor - theirs[name]).abs().max()) / scale)
    return worst


def _values_and_gradients(network: torch.nn.Module, batch: GraphBatch) -> dict[str, Tensor]:
    values = network(batch).values
    values.square().mean().backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return found | {"values": values.detach()}


def peak_growth(literal: bool) -> float:
    """Growth in MiB of the peak memory of a new process in one training step."""
    torch.set_num_threads(THREADS)
    whole, merged = graphs(TRAINING_BATCH)
    ours, theirs = networks()
    network = (theirs if literal else ours).train()
    batch = batches(whole if literal else merged, TRAINING_BATCH)
    train_step(network, batches(whole[:2], 2))  # what any first step allocates
    del whole, merged
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # forget the peak so far (Linux)
    before = _resident_kib("VmRSS")
    train_step(network, batch)
    return (_resident_kib("VmHWM") - before) / 1024


def _resident_kib(field: str) -> int:
    """Return a size of this process from /proc."""
    status = Path("/proc/self/status").read_text("ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def compare_forward(quick: bool) -> dict[str, object]:
    """Compare the forward pass by batch size."""
    whole, merged = graphs(100 if quick else 200)
    ours, literal = networks()
    ours.eval()
    literal.eval()
    compiled = _compiled(ours, merged)
    ratio, without, with_compiler, speed = {}, {}, {}, {}
    for size in SIZES:
        some = slice(0, max(size, 16 if quick else 48))
        of_whole, of_merged = batches(whole[some], size), batches(merged[some], size)
        runs = {
            "literal": partial(forward, literal, of_whole),
            "whole": partial(forward, ours, of_whole),
            "merged": partial(forward, ours, of_merged),
        }
        if compiled is not None:
            runs["compiled"] = partial(forward, compiled, batches(merged[some], size, filled=True))
        seconds = interleaved(runs, 3 if quick else 7)
        if compiled is not None:
            with_compiler[str(size)] = round(seconds["literal"] / seconds["compiled"], 2)
        ratio[str(size)] = round(seconds["literal"] / seconds["merged"], 2)
        without[str(size)] = round(seconds["literal"] / seconds["whole"], 2)
        speed[str(size)] = round(size * len(of_merged) / seconds["merged"], 1)
        found = [ratios.get(str(size)) for ratios in (with_compiler, ratio, without)]
        print(f"batch {size:3}: literal over compiled, eager, eager without merging: {found}", flush=True)
    return {
        "forward_ratio": with_compiler or ratio,
        "forward_ratio_eager": ratio,
        "forward_ratio_eager_without_merging": without,
        "graphs_per_s": speed,
    }


def _compiled(network: CrystalModel, some: Sequence[CrystalGraph]) -> Callable[[GraphBatch], object] | None:
    """Compile the network as a worker does; None without a compiler."""
    try:
        return compile_network(network, [collate(some[:count], filled=True) for count in (8, 1)])
    except Exception as error:  # noqa: BLE001 - whatever the compiler says
        print(f"not compiled: {error}")
        return None


def compare_training(quick: bool) -> dict[str, object]:
    """Compare a training step and its memory."""
    whole, merged = graphs(TRAINING_BATCH)
    of_whole, of_merged = batches(whole, TRAINING_BATCH), batches(merged, TRAINING_BATCH)
    ours, literal = networks()
    runs = {
        "literal": partial(train_step, literal.train(), of_whole),
        "whole": partial(train_step, ours.train(), of_whole),
        "merged": partial(train_step, ours.train(), of_merged),
    }
    seconds = interleaved(runs, 2 if quick else 3)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        theirs_mib, ours_mib = (pool.apply(peak_growth, (literally,)) for literally in (True, False))
    return {
        "train_step_ratio": round(seconds["literal"] / seconds["merged"], 2),
        "train_step_ratio_without_merging": round(seconds["literal"] / seconds["whole"], 2),
        "train_graphs_per_s": round(TRAINING_BATCH / seconds["merged"], 1),
        "train_memory_mib": {"literal": round(theirs_mib, 1), "ours": round(ours_mib, 1)},
        "train_memory_ratio": round(theirs_mib / ours_mib, 2),
    }


def main() -> None:
    """Run and print."""
    quick = arguments(__doc__).quick
    torch.set_num_threads(THREADS)
    report: dict[str, object] = {"threads": THREADS, "layers": LAYERS, "data": "elastic_tensor_2015"}
    report["max_rel_diff"] = {"float32": difference(torch.float32), "float64": difference(torch.float64)}
    report |= compare_forward(quick)
    report |= compare_training(quick)
    finish("network", report, quick=quick)


if __name__ == "__main__":
    main()
