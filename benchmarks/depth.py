r"""Depth: one configuration from 5 to 50 layers, with and without skips and group normalization, on elastic moduli.

    python -m benchmarks.depth [--quick] [--fresh]

Every network learns log10 of bulk and shear modulus together from the bundled set: same split, seed, epochs, schedule.
A finished network is written to results/depth.json at once and not trained again, so the study may be interrupted;
`--fresh` starts anew. `--quick` trains shallow networks for a few epochs and leaves the results alone. Prints a table;
the last line is one JSON object.

Over-smoothing is measured as the mean distance of the embeddings of two atoms, over all pairs i < j of the n nodes of
64 test crystals (equivalent atoms, whose distance is always zero, are one node), after each of the layers 0 to L, of
the trained network in evaluation mode:

.. math::
    d = \frac{2}{n (n - 1)} \sum_{i < j} ‖x_i - x_j‖, \qquad
    d_{rms} = d \Big/ \sqrt{\tfrac{1}{n} \sum_i ‖x_i‖^2}

It is the "row-diff" of Zhao and Akoglu, PairNorm, arXiv:1909.12223; over-smoothing is its fall towards zero: Chen et
al., AAAI 34, 3438 (2020), doi:10.1609/aaai.v34i04.5747; Cai and Wang, arXiv:2006.13318. The second number does not
depend on the scale of the embeddings: 0 where all are the same, near √2 where they point anywhere.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.nn.batch import GraphBatch, collate
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.training.config.optimization import OptimizationConfig
from deepergatgnn.training.config.run import SplitConfig
from deepergatgnn.training.data.cache import prepare
from deepergatgnn.training.data.catalogue import read_dataset
from deepergatgnn.training.data.examples import Examples
from deepergatgnn.training.data.splits import Split, split_rows
from deepergatgnn.training.fit.checkpoint import TrainingError
from deepergatgnn.training.fit.loop import Epoch, outputs, train

RESULTS = Path(__file__).parent / "results"
DATA, TARGETS, SEED, CRYSTALS = "elastic_tensor_2015", ("log10_K_VRH", "log10_G_VRH"), 0, 64
DEPTHS = (5, 10, 20, 30, 50)
VARIANTS: dict[str, dict[str, Any]] = {
    "skip, group": {"skip": True, "normalization": "group"},
    "skip, none": {"skip": True, "normalization": "none"},
    "no skip, group": {"skip": False, "normalization": "group"},
    "no skip, none": {"skip": False, "normalization": "none"},
}
SPLIT = SplitConfig(test_fraction=0.15, validation_fraction=0.1, calibration_fraction=0.01)
OPTIMIZATION = OptimizationConfig(epochs=30, learning_rate=3e-3)
Cell = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Data:
    """Graphs and targets [n, 2] in log10 GPa, split."""

    graphs: Sequence[CrystalGraph]
    targets: NDArray[np.float64]
    split: Split

    def scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the training targets."""
        known = self.targets[self.split.train]
        return known.mean(axis=0), known.std(axis=0)

    def examples(self, rows: NDArray[np.int64]) -> Examples:
        """Rows with standardised targets."""
        mean, std = self.scale()
        return Examples([self.graphs[row] for row in rows], ((self.targets[rows] - mean) / std).astype(np.float32))


def read() -> Data:
    """Read the bundled set."""
    dataset = prepare(read_dataset(DATA), GraphConfig())
    return Data(dataset.graphs, dataset.values(TARGETS), split_rows(dataset, SPLIT, SEED))


def study(data: Data, layers: int, variant: str, config: OptimizationConfig) -> Cell:
    """Train and measure one network; figures are None if its loss was not finite."""
    torch.manual_seed(SEED)
    sizes: dict[str, Any] = {"layers": layers, "targets": len(TARGETS), "dropout": 0.1}
    network = CrystalModel(NetworkConfig(**sizes, **VARIANTS[variant]), GraphConfig())
    epochs: list[Epoch] = []
    cell: Cell = {
        "layers": layers,
        "variant": variant,
        "parameters": sum(p.numel() for p in network.parameters()),
        "finite": True,
        "best_validation": None,
        "test_mae": None,
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            progress = train(
                network,
                data.examples(data.split.train),
                data.examples(data.split.validation),
                config,
                [1.0] * len(TARGETS),
                seed=SEED,
                device=torch.device("cpu"),
                folder=Path(folder),
                fingerprint="",
                report=epochs.append,
            )
        except TrainingError:
            cell["finite"] = False
        else:
            cell["best_validation"], cell["best_epoch"] = round(progress.best_error, 4), progress.best_epoch
            cell["test_mae"] = _test_error(network, data)
    cell["seconds_per_epoch"] = round(statistics.median(epoch.seconds for epoch in epochs), 2) if epochs else None
    cell["train_loss"] = [round(epoch.train_loss, 4) for epoch in epochs]
    cell["validation"] = [round(epoch.validation_mae, 4) for epoch in epochs]
    if cell["finite"]:
        cell |= distances(network, collate([data.graphs[row] for row in data.split.test[:CRYSTALS]]))
    return cell


def _test_error(network: CrystalModel, data: Data) -> dict[str, float]:
    mean, std = data.scale()
    rows = data.split.test
    output = outputs(network, [data.graphs[row] for row in rows], torch.device("cpu"))
    values = output.values.double().numpy() * std + mean
    errors = np.abs(values - data.targets[rows]).mean(axis=0)
    return {key: round(float(error), 4) for key, error in zip(TARGETS, errors, strict=True)}


@torch.inference_mode()
def embeddings(network: CrystalModel, batch: GraphBatch) -> list[Tensor]:
    """Embeddings [N, F] of the nodes before the first layer and after each of them, the last as the pooling sees it."""
    found: list[Tensor] = []
    readers = [*network.body.layers, network.attention]
    hooks = [reader.register_forward_pre_hook(lambda _, given: found.append(given[0])) for reader in readers]
    try:
        network.eval()(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def distances(network: CrystalModel, batch: GraphBatch) -> Cell:
    """Mean pairwise distance by layer, plain and over the root mean square length."""
    plain, relative = [], []
    for x in embeddings(network, batch):
        x = x.double()  # embeddings that have come close must not be lost in rounding  # noqa: PLW2901
        distance = float(torch.pdist(x).mean())
        plain.append(float(f"{distance:.4g}"))
        relative.append(float(f"{distance / float(x.square().sum(dim=1).mean().sqrt()):.4g}"))
    return {"distance": plain, "distance_rms": relative}


def cells(path: Path, depths: Sequence[int], config: OptimizationConfig) -> Iterator[Cell]:
    """Train the networks that are not stored yet; store each at once.

    Raises:
        SystemExit: if the file is of another configuration.
    """
    settings = {
        "data": DATA,
        "seed": SEED,
        "split": SPLIT.model_dump(mode="json"),
        "optimization": asdict(config),
    }
    kept: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {**settings, "cells": []}
    if any(kept[key] != value for key, value in settings.items()):
        raise SystemExit(f"{path} is of another configuration: start anew with --fresh")
    data = None
    for layers in depths:
        for variant in VARIANTS:
            done = [cell for cell in kept["cells"] if (cell["layers"], cell["variant"]) == (layers, variant)]
            if not done:
                data = data or read()
                kept |= {"parts": data.split.sizes(), "spread": _spread(data)}
                done = [study(data, layers, variant, config)]
                kept["cells"] += done
                path.write_text(json.dumps(kept) + "\n", encoding="utf-8")
            yield done[0]


def _spread(data: Data) -> dict[str, float]:
    """Test MAE of the median of the training part."""
    median = np.median(data.targets[data.split.train], axis=0)
    errors = np.abs(data.targets[data.split.test] - median).mean(axis=0)
    return {key: round(float(error), 4) for key, error in zip(TARGETS, errors, strict=True)}


COLUMNS = (
    "layers",
    "variant",
    "parameters",
    "test MAE log10 K",
    "test MAE log10 G",
    "best validation",
    "finite",
    "distance, first → last layer",
    "over RMS",
    "s/epoch",
)


def row(cell: Cell) -> str:
    """Format a row of the table."""
    errors = cell["test_mae"] or dict.fromkeys(TARGETS, "-")
    ends = [f"{cell[key][1]:.3g} → {cell[key][-1]:.3g}" if key in cell else "-" for key in ("distance", "distance_rms")]
    values = [cell["layers"], cell["variant"], f"{cell['parameters']:,}", *(errors[key] for key in TARGETS)]
    values += [cell["best_validation"], "yes" if cell["finite"] else "no", *ends, cell["seconds_per_epoch"]]
    return f"| {' | '.join(map(str, values))} |"


def draw(found: Sequence[Cell], path: Path) -> None:
    """Plot the test error against depth, and the distance by layer in the deepest networks."""
    import matplotlib as mpl  # noqa: PLC0415 - only the study draws

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    deepest = max(cell["layers"] for cell in found)
    for variant, marker in zip(VARIANTS, "osD^", strict=True):
        own = [cell for cell in found if cell["variant"] == variant and cell["test_mae"]]
        means = [statistics.mean(cell["test_mae"].values()) for cell in own]
        left.plot([cell["layers"] for cell in own], means, marker=marker, label=variant)
        for cell in own:
            if cell["layers"] == deepest:
                right.plot(cell["distance_rms"], label=variant)
    left.set(xlabel="layers", ylabel="test MAE, mean of log10 K and log10 G", title="Test error", ylim=(0, None))
    right.set(xlabel="layer", ylabel="mean pairwise distance / RMS length", title=f"Embeddings, {deepest} layers")
    right.set(ylim=(0, None))
    left.legend(loc="lower right")
    right.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 and 10 layers, few epochs, nothing kept")
    parser.add_argument("--fresh", action="store_true", help="forget the networks trained before")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "depth.json" if options.quick else RESULTS / "depth.json"
        if options.fresh:
            path.unlink(missing_ok=True)
        config = replace(OPTIMIZATION, epochs=3) if options.quick else OPTIMIZATION
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
        found = []
        for cell in cells(path, DEPTHS[:2] if options.quick else DEPTHS, config):
            print(row(cell), flush=True)
            found.append(cell)
        if not options.quick:
            draw(found, RESULTS / "depth.png")
    short = ("layers", "variant", "parameters", "test_mae", "best_validation", "finite", "seconds_per_epoch")
    print(json.dumps({"data": DATA, "epochs": config.epochs, "cells": [{key: c[key] for key in short} for c in found]}))


if __name__ == "__main__":
    main()
