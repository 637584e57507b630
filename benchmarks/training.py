"""An epoch of our loop against a literal one, and its growth with the number of crystals.

    python -m benchmarks.training [--quick]

The literal loop is the network as published (20 layers, every concatenation written out) with torch's Adam and batches
of 100 crystals, whose graphs are built from the structures in every epoch. It may use our neighbour search, which is
faster than pymatgen's. "Literal, graphs kept" builds them once, so that the parts of the gain can be told apart. Ours
is `fit.loop.train` with the same batch size, validation and state included. Epochs are timed in turn, A B A B;
peak memory is that of one epoch in a fresh process, beyond what it had after its imports and data.

Growth is measured with the default network of a recipe (5 layers) on one epoch of more and more crystals, each in a
fresh process: of `mp_bulk_cgcnn46k` where $DEEPERGATGNN_DATA has it, from the cache of graphs. Without it the
bundled set is repeated, which measures time but says nothing of memory: the graphs are then the same ones. "Own"
memory leaves out pages of mapped files, which the system takes back as it needs them. Growth is told in seconds of the
processor, which other work on the machine hardly changes. The last line is one JSON object.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import l1_loss

from benchmarks.report import finish
from benchmarks.timing import arguments, interleaved
from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.nn.batch import collate
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.structures import Crystal
from deepergatgnn.training.config.optimization import OptimizationConfig
from deepergatgnn.training.config.run import NETWORK
from deepergatgnn.training.data.cache import prepared_dataset
from deepergatgnn.training.data.catalogue import known_datasets, read_dataset
from deepergatgnn.training.data.examples import Examples
from deepergatgnn.training.data.graph_arrays import Subset
from deepergatgnn.training.fit.batches import Batches
from deepergatgnn.training.fit.loop import train
from tests.support.literal_network import LiteralDeeperGATGNN

BUNDLED, LARGE, BATCH, LAYERS = "elastic_tensor_2015", "mp_bulk_cgcnn46k", 100, 20
SIZES = (1000, 3200, 10_000, 32_000)
CPU = torch.device("cpu")


def crystals(count: int) -> tuple[list[Crystal], np.ndarray]:
    """Crystals spread over the bundled set, with their standardised bulk modulus [n, 1]."""
    rows = read_dataset(BUNDLED).rows
    rows = rows[:: len(rows) // count][:count]
    values = np.array([[row.targets["log10_K_VRH"]] for row in rows])
    return [row.crystal for row in rows], ((values - values.mean()) / values.std()).astype(np.float32)


def literal_epoch(
    network: LiteralDeeperGATGNN,
    optimizer: torch.optim.Optimizer,
    graph_of: Callable[[int], CrystalGraph],
    targets: np.ndarray,
) -> None:
    """Train with a literal loop."""
    order = torch.randperm(len(targets)).tolist()
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        optimizer.zero_grad()
        loss = l1_loss(network(collate([graph_of(row) for row in rows])).values, torch.from_numpy(targets[rows]))
        loss.backward()
        optimizer.step()


def literal(some: Sequence[Crystal], targets: np.ndarray, *, kept: bool) -> Callable[[], None]:
    """Run an epoch of the literal loop."""
    network = LiteralDeeperGATGNN(network_of(LAYERS)).float().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    built = [build_graph(crystal, GraphConfig()) for crystal in some] if kept else []
    graph_of = built.__getitem__ if kept else lambda row: build_graph(some[row], GraphConfig())
    return partial(literal_epoch, network, optimizer, graph_of, targets)


def network_of(layers: int, **sizes: Any) -> CrystalModel:
    """Build a new network."""
    torch.manual_seed(0)
    return CrystalModel(NetworkConfig(**{"layers": layers, **sizes}), GraphConfig())


def our_epoch(network: CrystalModel, examples: Examples, size: int, track: Callable[..., Batches]) -> float:
    """Run one epoch of our loop with validation and state on disk; return its seconds."""
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train(
            network,
            examples,
            Examples(examples.graphs[:50], examples.targets[:50]),
            OptimizationConfig(epochs=1, batch_size=size),
            [1.0],
            seed=0,
            device=CPU,
            folder=Path(folder),
            fingerprint="",
            report=lambda epoch: seconds.append(epoch.seconds),
            track=track,
        )
    return seconds[0]


def ours(some: Sequence[Crystal], targets: np.ndarray) -> Callable[[], object]:
    """Run an epoch of our loop on cached graphs."""
    graphs = [reduce_graph(build_graph(crystal, GraphConfig())) for crystal in some]
    return partial(our_epoch, network_of(LAYERS), Examples(graphs, targets), BATCH, lambda batches, *_: batches)


def peak_growth(name: str, count: int) -> float:
    """Growth in MiB of the peak memory of a new process in an epoch."""
    torch.set_num_threads(1)
    some, targets = crystals(count)
    run = ours(some, targets) if name == "ours" else literal(some, targets, kept=False)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # forget the peak so far (Linux)
    before = _resident_mib("VmRSS")
    run()
    return _resident_mib("VmHWM") - before


def _resident_mib(field: str) -> float:
    status = Path("/proc/self/status").read_text("ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def compare(quick: bool) -> dict[str, object]:
    """Compare our loop with the literal one."""
    count = 100 if quick else 300
    some, targets = crystals(count)
    runs: dict[str, Callable[[], object]] = {
        "literal": literal(some, targets, kept=False),
        "literal, graphs kept": literal(some, targets, kept=True),
        "ours": ours(some, targets),
    }
    seconds = interleaved(runs, 1 if quick else 3)
    memory = {name: _alone(peak_growth, name, 100) for name in ("literal", "ours")}
    for name, each in seconds.items():
        print(f"{name:22} {each:7.2f} s an epoch of {count} crystals", flush=True)
    return {
        "crystals": count,
        "batch": BATCH,
        "layers": LAYERS,
        "epoch_s": {name: round(each, 2) for name, each in seconds.items()},
        "epoch_ratio": round(seconds["literal"] / seconds["ours"], 2),
        "epoch_ratio_graphs_kept": round(seconds["literal, graphs kept"] / seconds["ours"], 2),
        "epoch_memory_mib": {name: round(each) for name, each in memory.items()},
        "epoch_memory_ratio": round(memory["literal"] / memory["ours"], 2),
    }


def _alone(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a new process."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(function, arguments)


def epoch_of(name: str, count: int) -> dict[str, float]:
    """Measure seconds and memory of an epoch in a new process."""
    torch.set_num_threads(1)
    loading = time.perf_counter()
    dataset = prepared_dataset(name, GraphConfig())
    rows = np.random.default_rng(0).permutation(max(count, len(dataset)))[:count] % len(dataset)
    graphs = Subset([dataset.graphs], rows)
    loading = time.perf_counter() - loading
    targets = np.random.default_rng(0).normal(size=(count, 1)).astype(np.float32)  # no matter for time and memory
    own: list[float] = [_resident_mib("RssAnon")]

    def track(batches: Batches, *_: int) -> Iterator[Any]:
        for batch in batches:
            yield batch
            own.append(_resident_mib("RssAnon"))

    examples = Examples(graphs, targets)
    sizes = {key: value for key, value in NETWORK.items() if key != "layers"}
    busy = time.process_time()
    seconds = our_epoch(network_of(NETWORK["layers"], **sizes), examples, OptimizationConfig().batch_size, track)
    busy = time.process_time() - busy
    return {
        "crystals": count,
        "load_s": round(loading, 2),
        "epoch_s": round(seconds, 2),
        "epoch_cpu_s": round(busy, 2),
        "cpu_us_per_edge": round(1e6 * busy / float(examples.work.sum()), 2),
        "own_mib": round(max(own)),
        "peak_rss_mib": round(_resident_mib("VmHWM")),
    }


def grow(quick: bool) -> dict[str, object]:
    """Measure epochs of increasing size."""
    name = LARGE if LARGE in known_datasets() else BUNDLED
    if name == BUNDLED:
        print(f"no {LARGE} here: {BUNDLED} repeated, so only the times mean anything")
    _alone(_prepare, name)
    found = []
    for size in SIZES[:2] if quick else SIZES:
        found.append(_alone(epoch_of, name, size))
        print(found[-1], flush=True)
    first, last = found[0], found[-1]
    return {
        "growth_data": name if name == LARGE else f"{name}, repeated",
        "growth": found,
        "crystals_ratio": last["crystals"] / first["crystals"],
        "epoch_cpu_s_ratio": round(last["epoch_cpu_s"] / first["epoch_cpu_s"], 2),
        "own_memory_ratio": round(last["own_mib"] / first["own_mib"], 2),
        "peak_rss_ratio": round(last["peak_rss_mib"] / first["peak_rss_mib"], 2),
    }


def _prepare(name: str) -> int:
    return len(prepared_dataset(name, GraphConfig()))


def main() -> None:
    """Run and print."""
    quick = arguments(__doc__).quick
    torch.set_num_threads(1)
    report: dict[str, object] = {"threads": 1, "torch": torch.__version__, "data": BUNDLED}
    report |= compare(quick)
    report |= grow(quick)
    finish("training", report, quick=quick)


if __name__ == "__main__":
    main()
