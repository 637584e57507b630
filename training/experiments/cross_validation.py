"""Cross-validation: one configuration trained with several test parts, mean ± standard deviation of its errors."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepergatgnn.checkpoints.files import digest
from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.matbench import TASKS, fold_predictions, record, write_record
from deepergatgnn.training.data.run_data import RunData, assemble_run_data
from deepergatgnn.training.evaluation.classification import MAIN as OF_CLASSES
from deepergatgnn.training.experiments.fold_results import (
    SUMMARY,
    configuration_digest,
    prediction_table,
    read_predictions,
)
from deepergatgnn.training.experiments.folds import Fold, plan_folds
from deepergatgnn.training.experiments.run import Announce, train_members
from deepergatgnn.training.files import locked, require_writable, write_whole
from deepergatgnn.training.fit.distributed import rank
from deepergatgnn.training.fit.ensemble_member import Track
from deepergatgnn.training.fit.loop import Epoch
from deepergatgnn.training.fit.start import start_record
from deepergatgnn.training.publication.publish import build_version

RESULT, MATBENCH = "result.json", "matbench.json.gz"
FIGURES = ("mae", "rmse", "r2", "coverage_90", "mean_width_90")
log = logging.getLogger(__name__)
UNPUBLISHED = "0.0.0"  # version of the networks of a fold


def cross_validate(
    config: TrainingConfig,
    store: ModelStore,
    runs: Path,
    *,
    device: torch.device,
    report: Callable[[Epoch], None],
    announce: Announce = lambda _config, _run_data: None,
    track: Track = lambda batches, _epoch, _total: batches,
) -> dict[str, Any]:
    """Train, calibrate and score every fold; nothing is published.

    A finished fold is not trained again: its result is in `runs/NAME/FOLD/result.json`, its test rows in
    `predictions-MODEL.csv.gz` beside it, and the summary in `runs/NAME/cross-validation.json`. An interrupted fold is
    resumed after its last epoch. A complete task of Matbench also gets its record of results, `matbench.json.gz`.

    Args:
        config: configuration of the cross-validation.
        store: store of the version that `config.start` names.
        runs: folder of run states.
        device: device of the training.
        report: called after every epoch.
        announce: called before each fold with its configuration and data.
        track: wraps the batches of an epoch, for a progress bar.

    Returns:
        The content of `cross-validation.json`; empty in the other processes of a distributed run.

    Raises:
        ConfigError: if the data or the split do not fit.
        TrainingError: if a loss is not finite.
    """
    require_writable(runs, "the folder of runs")
    folder = runs / config.name
    first: list[RunData] = []

    def assembled() -> RunData:
        first[:] = first or [assemble_run_data(config)]
        return first[0]

    # In a distributed run the first process writes, and the others read the result.
    with locked(folder) if rank() == 0 else nullcontext():
        results = []
        for fold in plan_folds(config, assembled):
            run_data = first.pop() if first and fold.config.split == config.split else assemble_run_data(fold.config)
            fingerprint = _fingerprint(fold.config, run_data)
            if rank() == 0:
                announce(fold.config, run_data)
            result = _finished(folder / fold.name, fingerprint)
            if result is None:
                result = _train_fold(fold, run_data, store, folder, fingerprint, device, report, track)
            results.append(result)
        if rank():
            return {}
        summary = summarise_folds(config, results)
        write_whole(folder / SUMMARY, json.dumps(summary, indent=2).encode() + b"\n")
        _write_matbench(config, results, folder)
    return summary


def summarise_folds(config: TrainingConfig, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compute mean and sample standard deviation (n - 1) over folds of the figures of each target."""
    targets = []
    for index, target in enumerate(config.targets):
        folds = [{"fold": result["fold"], **result["targets"][index]} for result in results]
        names = FIGURES if target.kind == "regression" else OF_CLASSES
        known = {name: [fold[name] for fold in folds if fold.get(name) is not None] for name in names}
        targets.append(
            {
                "model": target.model,
                "key": target.key,
                "unit": target.unit,
                "mean": {name: float(np.mean(figures)) for name, figures in known.items() if figures},
                "std": {name: float(np.std(figures, ddof=1)) for name, figures in known.items() if len(figures) > 1},
                "folds": folds,
            }
        )
    return {
        "name": config.name,
        "dataset": results[0]["dataset"],
        "dataset_sha256": results[0]["dataset_sha256"],
        "configuration": configuration_digest(config),
        "folds": len(results),
        "seconds": sum(result["seconds"] for result in results),
        "targets": targets,
    }


def _fingerprint(config: TrainingConfig, run_data: RunData) -> str:
    targets = [target.model_dump(mode="json") for target in config.targets]
    members = [run_data.fingerprint(config, member) for member in range(config.members)]
    return digest(json.dumps([members, targets], sort_keys=True).encode())


def _finished(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the result of a finished fold of this configuration and data, or None."""
    try:
        result: dict[str, Any] = json.loads((folder / RESULT).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if result.get("fingerprint") != fingerprint:
        return None
    whole = all((folder.parent / target["predictions"]).exists() for target in result["targets"])
    return result if whole else None


def _train_fold(
    fold: Fold,
    run_data: RunData,
    store: ModelStore,
    folder: Path,
    fingerprint: str,
    device: torch.device,
    report: Callable[[Epoch], None],
    track: Track,
) -> dict[str, Any]:
    trained = train_members(fold.config, run_data, store, folder, device=device, report=report, track=track)
    if rank():
        return {}
    networks, progress = [network for network, _ in trained], [where for _, where in trained]
    start, figures = start_record(fold.config, run_data, store), []
    for index, target in enumerate(fold.config.targets):
        version = build_version(fold.config, run_data, networks, progress, index, UNPUBLISHED, device, start=start)
        name = f"predictions-{target.model}.csv.gz"
        write_whole(folder / fold.name / name, prediction_table(version, run_data.dataset.ids))
        figures.append(version.manifest.metrics["test"] | {"predictions": f"{fold.name}/{name}"})
    result = {
        "fold": fold.name,
        "fingerprint": fingerprint,
        "dataset": run_data.dataset.name,
        "dataset_sha256": run_data.dataset.sha256,
        "seed": fold.config.seed,
        "rows": run_data.split.sizes(),
        "split": fold.config.split.record() | run_data.notes,
        "epochs": [each.epoch for each in progress],
        "best_epochs": [each.best_epoch for each in progress],
        "seconds": round(sum(each.seconds for each in progress), 1),
        "targets": figures,
    }
    write_whole(folder / fold.name / RESULT, json.dumps(result, indent=2).encode() + b"\n")
    return result


def matbench_record(
    config: TrainingConfig, results: Sequence[Mapping[str, Any]], folder: Path
) -> dict[str, Any] | None:
    """Build the record of Matbench, if this is one of its tasks in the official folds; else return None.

    Args:
        config: configuration of the cross-validation.
        results: results of its folds.
        folder: folder of the tables of predictions.

    Raises:
        ConfigError: if rows of the task are missing.
    """
    name = results[0]["dataset"]
    keys = [target.key for target in config.targets]
    if config.split.test_field is None or name not in TASKS or TASKS[name].target not in keys:
        return None
    index = keys.index(TASKS[name].target)
    rows = [
        (result["split"]["test_fold"], row)
        for result in results
        for row in read_predictions(folder / result["targets"][index]["predictions"])
    ]
    folds, tested = [fold for fold, _ in rows], [row for _, row in rows]
    ids = [row["id"] for row in tested]
    parameters = config.model_dump(mode="json", include={"network", "graph", "optimization", "members", "seed"})
    return record(
        name,
        fold_predictions(ids, folds, [row["value"] for row in tested]),
        {row["id"]: row["truth"] for row in tested},
        dict.fromkeys(folds, parameters),
        {"algorithm": config.network.title},
    )


def _write_matbench(config: TrainingConfig, results: Sequence[dict[str, Any]], folder: Path) -> None:
    try:
        document = matbench_record(config, results, folder)
    except ConfigError as error:
        log.warning("no record for Matbench: %s", error)
        return
    if document is not None:
        write_record(document, folder / MATBENCH)
