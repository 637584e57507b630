"""Versions against the official predictions of Matbench, on the rows of their test part.

    DEEPERGATGNN_DATA=... python -m benchmarks.accuracy [--quick] [--store FOLDER ...] [--folds FOLDER ...]

The data folder needs the data set of a version's manifest with its `published_predictions_*.csv.gz`. Stores given
beside the shipped one may hold versions trained for the comparison alone, such as the network of the paper. The last
line is one JSON object: for each version the rows, our MAE, that of each official submission, the median of the
training part as a predictor, that of each network of an ensemble alone (they differ in their seed: mean and standard
deviation), parameters, training time and crystals a second (graphs ready, one thread). `--folds` takes what
`cross-validate` wrote for the official folds: errors by fold, their mean and standard deviation, on the same rows.
"""

import csv
import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.timing import parser
from deepergatgnn.errors import ConfigError
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.model_store import ModelStore
from deepergatgnn.model_store.store import SHIPPED
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.catalogue import locate
from deepergatgnn.training.data.run_data import assemble_run_data
from deepergatgnn.training.experiments.fold_results import SUMMARY, read_predictions
from deepergatgnn.training.publication.publish import scoring_rows

# Columns of a data set → Matbench task.
TASKS = {
    "log10_K_VRH": "kvrh",
    "log10_G_VRH": "gvrh",
    "n": "n",
    "formation_energy_per_atom_eV": "e_form",
    "band_gap_pbe_eV": "gap",
}


def compare(store: ModelStore, reference: str) -> dict[str, object]:
    """Compute the MAE of a version and of each official algorithm on its test part.

    Raises:
        ConfigError: if the data set or its official predictions are not here.
    """
    manifest = store.manifest(reference)
    config = TrainingConfig.model_validate(manifest.provenance.config)
    index = [target.key for target in config.targets].index(manifest.target.key)
    official = _official(config.data, TASKS[manifest.target.key])
    run_data = assemble_run_data(config)
    rows = scoring_rows(config, run_data, index)
    graphs, truth = [run_data.dataset.graphs[row] for row in rows], run_data.truth[rows, index]
    predictor = Predictor.load(store.folder(reference))
    started = time.perf_counter()
    values = np.array([prediction.value for prediction in predictor.predict_graphs(graphs)])
    seconds = time.perf_counter() - started
    seeds = _one_by_one(predictor, graphs, truth)
    training = run_data.truth[run_data.split.train, index]
    errors = {"ours": values, "median of train": np.full(len(rows), np.nanmedian(training))}
    for algorithm in next(iter(official.values())):
        errors[algorithm] = np.array([official[run_data.dataset.ids[row]][algorithm] for row in rows])
    return {
        "n": len(rows),
        "mae": {name: round(_mae(predicted, truth), 4) for name, predicted in errors.items()},
        "mae_of_one_network": seeds,
        "members": manifest.members,
        "layers": manifest.network.layers,
        "parameters": manifest.parameters,
        "training_minutes": round(manifest.provenance.seconds / 60, 1),
        "crystals_per_second": round(len(rows) / seconds),
    }


def compare_folds(folder: Path) -> dict[str, object]:
    """Compute the errors of a cross-validation over official folds, and of the official predictions for its rows."""
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    report: dict[str, object] = {}
    for target in summary["targets"]:
        official = _official(summary["dataset"], TASKS[target["key"]])
        by_fold: dict[str, list[float]] = {}
        for fold in target["folds"]:
            rows = read_predictions(folder / fold["fold"] / f"predictions-{target['model']}.csv.gz")
            truth = np.array([row["truth"] for row in rows], dtype=np.float64)
            errors = {"ours": np.array([row["value"] for row in rows], dtype=np.float64)}
            for algorithm in next(iter(official.values())):
                errors[algorithm] = np.array([official[row["id"]][algorithm] for row in rows])
            for name, predicted in errors.items():
                by_fold.setdefault(name, []).append(_mae(predicted, truth))
        report[target["model"]] = {
            name: {
                "folds": [round(mae, 4) for mae in each],
                "mean": round(float(np.mean(each)), 4),
                "std": round(float(np.std(each, ddof=1)), 4),
            }
            for name, each in by_fold.items()
        }
    return report


def _one_by_one(predictor: Predictor, graphs: Sequence[CrystalGraph], truth: NDArray[np.float64]) -> dict[str, object]:
    """Compute the errors of the single networks of an ensemble."""
    alone = []
    for network in predictor.networks:
        predictor.adopt([network])
        alone.append(_mae(np.array([prediction.value for prediction in predictor.predict_graphs(graphs)]), truth))
    predictor.adopt(predictor.networks)
    spread = round(float(np.std(alone, ddof=1)), 4) if len(alone) > 1 else None
    return {"mean": round(float(np.mean(alone)), 4), "spread": spread, "each": [round(mae, 4) for mae in alone]}


def _mae(predicted: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    return float(np.abs(predicted - truth).mean())


def _official(dataset: str, task: str) -> dict[str, dict[str, float]]:
    """Return the predictions by row id and algorithm, each from the fold that tests the row."""
    path = locate(dataset).with_name(f"published_predictions_{task}.csv.gz")
    if not path.exists():
        raise ConfigError(f"{path.name} is not beside the data set {dataset}")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        known = {"id", "mb_id", "fold", "target"}
        return {
            row["id"]: {name: float(value) for name, value in row.items() if name not in known}
            for row in csv.DictReader(file)
        }


def main() -> None:
    """Run every comparison whose data are available."""
    options = parser(__doc__)
    options.add_argument("--store", action="append", type=Path, default=[], help="one more store, repeatable")
    options.add_argument("--folds", action="append", type=Path, default=[], help="a cross-validation, repeatable")
    given = options.parse_args()
    torch.set_num_threads(1)
    report: dict[str, object] = {folder.name: compare_folds(folder) for folder in given.folds}
    for name, found in report.items():
        print(name, json.dumps(found), flush=True)
    for store in (ModelStore(folder) for folder in [SHIPPED, *given.store]):
        for name in store.names()[: 1 if given.quick else None]:
            try:
                reference = f"{name}@{store.production(name)}"
                report[reference] = compare(store, reference)
            except ConfigError as error:
                report[name] = {"not compared": str(error)}
            print(name, json.dumps(report.get(name, report.get(reference))), flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
