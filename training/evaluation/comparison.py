"""Versions and runs side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.evaluation.classification import MAIN as OF_CLASSES
from deepergatgnn.training.evaluation.classification import ScoredClasses, summarise_classes
from deepergatgnn.training.evaluation.metrics import standard_error, summarise
from deepergatgnn.training.evaluation.scoring import ScoredDataset, score
from deepergatgnn.training.fit.checkpoint import STATE, Progress

TEST = ("n", "mae", "mae_se", "rmse", "r2", "mae_over_mad", "coverage_90", "mean_width_90", "spearman_width")


def compare(
    references: Sequence[str],
    store: ModelStore,
    dataset: str | None,
    target: str | None,
    where: str | None,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Describe each; with a data set, score the versions on it.

    Args:
        references: versions of the store, NAME or NAME@VERSION, and folders of runs.
        store: where the versions are.
        dataset: a bundled set, a set of the data folder, or a path; the test parts of the manifests, if None.
        target: column of `targets`; of each version the one it was trained on, if None.
        where: FIELD=VALUE, only the rows with that value in that column; all, if None.
        device: where to compute.

    Returns:
        For each reference "kind", "name" and what there is to say; keys that begin with "test_" are of the version's
        own test part, "scored_" of the data set. "difference" is the MAE less that of the first version that predicts
        the same target, over the "difference_n" rows of both, and "difference_se" its standard error.

    Raises:
        ConfigError: if a run or data set is not there, or only a data set's options are given.
        ModelNotFoundError: if a version is not there.
    """
    if dataset is None and (target or where):
        raise ConfigError("target and where choose rows of a data set: name one")
    rows = [_run(Path(name)) if is_run(name) else _version(store, name) for name in references]
    if dataset is not None:
        versions = [row for row in rows if row["kind"] == "version"]
        if not versions:
            raise ConfigError("only versions can be scored on a data set: the runs were not published")
        _score(versions, store, dataset, target, where, device)
    return rows


def is_run(name: str) -> bool:
    """Whether a reference is a folder, and not a version of a store."""
    return "/" in name or Path(name).is_dir()


def _version(store: ModelStore, reference: str) -> dict[str, Any]:
    manifest = store.manifest(reference)
    origin, test = manifest.provenance, manifest.metrics.get("test", {})
    return {
        "kind": "version",
        "name": f"{manifest.name}@{manifest.version}",
        "property": manifest.target.property,
        "unit": manifest.target.unit,
        "dataset": origin.dataset,
        "train": origin.rows.get("train"),
        "seed": origin.seed,
        "members": manifest.members,
        "layers": manifest.network.layers,
        "channels": manifest.network.channels,
        "parameters": manifest.parameters,
        "epochs": origin.epochs,
        "best_epoch": origin.best_epoch,
        "minutes": round(origin.seconds / 60, 1),
        "validation_mae": manifest.metrics.get("validation", {}).get("mae"),
        **{f"test_{name}": test.get(name) for name in (*TEST, *(OF_CLASSES if manifest.target.classes else ()))},
    }


def _run(folder: Path) -> dict[str, Any]:
    """What the states of a run's members say; errors are in standard deviations of the training targets."""
    states = sorted(folder.glob(f"**/{STATE}"))
    if not states:
        raise ConfigError(f"{folder} holds no state of a run: give the folder of one, such as runs/NAME")
    members = [_progress(state) for state in states]
    best = np.array([each.best_error for each in members])
    return {
        "kind": "run",
        "name": str(folder),
        "members": len(members),
        "epochs": max(each.epoch for each in members),
        "best_epoch": members[int(np.argmin(best))].best_epoch,
        "minutes": round(sum(each.seconds for each in members) / 60, 1),
        "best_validation_sd": _finite(best.min()),
        "mean_validation_sd": _finite(best.mean()),
    }


def _progress(state: Path) -> Progress:
    try:
        with safe_open(state, framework="pt") as file:
            return Progress(**json.loads(file.metadata()["progress"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{state} is not the state of a run: {error}") from None


def _finite(figure: float) -> float | None:
    return float(figure) if np.isfinite(figure) else None


def _score(
    versions: list[dict[str, Any]],
    store: ModelStore,
    dataset: str,
    target: str | None,
    where: str | None,
    device: torch.device,
) -> None:
    """Add the figures of a data set to the descriptions."""
    first: dict[tuple[str, str], ScoredDataset] = {}
    for row in versions:
        predictor = Predictor.load(store.folder(row["name"]), device)
        scored = score(predictor, dataset, target, where)
        figures = summarise_classes(scored) if isinstance(scored, ScoredClasses) else summarise(scored)
        row |= {f"scored_{name}": _finite(figures[name]) for name in (*TEST, *OF_CLASSES) if name in figures}
        kind = (scored.target, predictor.manifest.target.unit)
        if kind in first:
            row.update(paired_difference(scored, first[kind]))
        first.setdefault(kind, scored)


def paired_difference(scored: ScoredDataset, other: ScoredDataset) -> dict[str, Any]:
    """MAE less that of another version on the common rows, with the standard error of the mean difference.

    Of versions with classes it is the share of wrong ones.

    The same crystals are easy or hard for both, so this tells apart what two MAEs with their own errors do not.
    """
    refused = {refusal.id for refusal in (*scored.refused, *other.refused)}
    ours, theirs = (
        [off for row, off in zip(each.ids, each.off, strict=True) if row not in refused] for each in (scored, other)
    )
    gained = np.array(ours) - np.array(theirs)
    return {
        "difference": float(gained.mean()) if len(gained) else None,
        "difference_se": _finite(standard_error(gained)),
        "difference_n": len(gained),
    }
