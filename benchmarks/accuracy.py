"""Shipped models against the official Matbench predictions, on exactly the rows of their test part.

    DEEPERGATGNN_DATA=... python -m benchmarks.accuracy

The folder needs the data set of the version's manifest with its `published_predictions_*.csv.gz`. The last line is one
JSON object: for each model the rows, our MAE and that of each official submission.
"""

import csv
import gzip
import json
from pathlib import Path

import numpy as np

from benchmarks.timing import arguments
from deepergatgnn.errors import ConfigError
from deepergatgnn.manifest import Manifest
from deepergatgnn.predictor import Predictor
from model_store import ModelStore
from training.datasets import build_graphs, locate, number, read_dataset

ID_FIELDS = {"kvrh": "mb_id_kvrh", "gvrh": "mb_id_gvrh"}


def compare(store: ModelStore, name: str) -> dict[str, float]:
    """MAE on the test part of a version: ours, and each official one.

    Raises:
        ConfigError: if the data set is not here.
    """
    manifest = store.manifest(name)
    task = manifest.target.property.replace("log10_", "").replace("_vrh", "vrh")
    split = manifest.provenance.split
    official = _official(manifest, task)
    dataset, graphs = build_graphs(read_dataset(manifest.provenance.dataset), manifest.graph)
    rows = [i for i, row in enumerate(dataset.rows) if row.fields.get(split["test_field"]) == split["test_fold"]]
    predictions = Predictor.load(store.folder(name)).predict_graphs([graphs[i] for i in rows])
    truth = np.array([number(dataset.rows[i].targets[manifest.target.key]) for i in rows])
    found = {"n": float(len(rows)), "ours": _mae(np.array([p.value for p in predictions]), truth)}
    keys = [str(dataset.rows[i].fields[ID_FIELDS[task]]) for i in rows]
    for algorithm in next(iter(official.values())):
        found[algorithm] = _mae(np.array([official[key][algorithm] for key in keys]), truth)
    return {key: round(value, 4) for key, value in found.items()}


def _mae(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(predicted - truth).mean())


def _official(manifest: Manifest, task: str) -> dict[str, dict[str, float]]:
    """Predictions by row id and algorithm."""
    path = locate(manifest.provenance.dataset).with_name(f"published_predictions_{task}.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        known = {"id", "mb_id", "fold", "target"}
        return {
            row["mb_id"]: {name: float(value) for name, value in row.items() if name not in known}
            for row in csv.DictReader(file)
        }


def main() -> None:
    """Compare what can be compared here."""
    arguments(__doc__)
    store = ModelStore()
    report: dict[str, object] = {}
    for name in store.names():
        try:
            report[name] = compare(store, name)
        except ConfigError as error:
            report[name] = {"not compared": str(error)}
        print(name, report[name])
    print(json.dumps(report))


if __name__ == "__main__":
    assert Path("benchmarks").is_dir(), "run it from the root of the repository"
    main()
