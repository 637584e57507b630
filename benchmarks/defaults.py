"""The default configuration on every data set, untuned: only the data and the target are given.

    DEEPERGATGNN_DATA=... python -m benchmarks.defaults [--quick] [--most ROWS] [--sample ROWS] [--set NAME ...]
                                                        [--target KEY]

Every data set at hand with at most `--most` rows, its first column of targets or that named, a random split with seed
0, every other option at its default. Of a set with more than `--sample` rows as many are drawn, with seed 0. The last
line is one JSON object: for each set the rows, the test error, that of the median of the training part, their ratio,
the coverage of the 90 % intervals, and the minutes on one thread.
"""

import argparse
import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import parser
from deepergatgnn.errors import DeeperGATGNNError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.config.run import GRAPH, TrainingConfig
from deepergatgnn.training.data.cache import prepared_dataset
from deepergatgnn.training.data.catalogue import known_datasets, locate
from deepergatgnn.training.data.run_data import assemble_run_data
from deepergatgnn.training.experiments.run import run


def drawn(name: str, rows: int | None, folder: Path) -> str:
    """Return the set, or a file with a sample of its lines, drawn with seed 0."""
    if rows is None:
        return name
    with gzip.open(locate(name), "rt", encoding="utf-8") as file:
        lines = file.readlines()
    if len(lines) <= rows:
        return name
    path = folder / f"{name}.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(lines[index] for index in np.random.default_rng(0).choice(len(lines), rows, replace=False))
    return str(path)


def train_on(name: str, key: str, epochs: int | None) -> dict[str, object]:
    """Train one set with the defaults."""
    document = {"name": "defaults", "data": name, "targets": [{"model": "property", "key": key, "unit": "?"}]}
    config = TrainingConfig.model_validate(document | ({"optimization": {"epochs": epochs}} if epochs else {}))
    with tempfile.TemporaryDirectory() as folder:
        store = ModelStore(Path(folder) / "store")
        [manifest] = run(
            config, store, Path(folder) / "runs", device=torch.device("cpu"), report=lambda _: None, plots=False
        )
    run_data = assemble_run_data(config)
    truth = run_data.truth[run_data.split.test, 0]
    median = float(np.nanmean(np.abs(truth - np.nanmedian(run_data.truth[run_data.split.train, 0]))))
    test = manifest.metrics["test"]
    return {
        "target": key,
        "rows": len(run_data.dataset),
        "mae": round(test["mae"], 5),
        "mae_median": round(median, 5),
        "ratio": round(test["mae"] / median, 3),
        "coverage_90": round(test["coverage_90"], 3),
        "best_epoch": manifest.provenance.best_epoch,
        "minutes": round(manifest.provenance.seconds / 60, 1),
    }


def main() -> None:
    """Return the sets in the order of their size."""
    options = parser(__doc__)
    options.add_argument("--most", type=int, default=2000, help="rows of the largest set")
    options.add_argument("--sample", type=int, help="rows to draw of a larger set")
    options.add_argument("--target", help="column to learn, where a set has it")
    options.add_argument("--set", action="append", default=[], help="this set only, repeatable")
    given = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(train_on_all(given, Path(folder))))


def train_on_all(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Train every set, the smallest first; samples are stored in the folder."""
    report: dict[str, object] = {}
    sizes = []
    for name in given.set or known_datasets():
        data = drawn(name, given.sample, folder)
        dataset = prepared_dataset(data, GraphConfig(**GRAPH))
        known = {key: int(np.isfinite(column).sum()) for key, column in dataset.columns.items()}
        named = [given.target] if given.target in known else list(known)
        if len(dataset) <= given.most and (keys := [key for key in named if known[key] > len(dataset) / 2]):
            sizes.append((len(dataset), name, data, keys[0]))
    for _, name, data, key in sorted(sizes)[: 1 if given.quick else None]:
        try:
            report[name] = train_on(data, key, 2 if given.quick else None)
        except DeeperGATGNNError as error:
            report[name] = {"target": key, "failed": str(error)}
        print(name, json.dumps(report[name]), flush=True)
    return report


if __name__ == "__main__":
    main()
