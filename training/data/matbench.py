"""Matbench v0.1: structure tasks, official folds, and the record of results in the format of matbench 0.6.

Dunn et al., doi:10.1038/s41524-020-00406-3.
"""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepergatgnn.errors import ConfigError

BENCHMARK: Final = "matbench_v0.1"
VERSION: Final = "0.6"  # version of the matbench package whose record format this is
FOLDS: Final = 5
_FOLD_SEED: Final = 18012019
_NO_PERCENTAGE: Final = 1e-5  # Matbench excludes smaller values from its percentage error


@dataclass(frozen=True)
class Task:
    """Regression task on structures: target column, unit, number of rows."""

    target: str
    unit: str
    rows: int


TASKS: Final = {
    "matbench_dielectric": Task("n", "unitless", 4764),
    "matbench_jdft2d": Task("exfoliation_en", "meV/atom", 636),
    "matbench_log_gvrh": Task("log10(G_VRH)", "log10(GPa)", 10987),
    "matbench_log_kvrh": Task("log10(K_VRH)", "log10(GPa)", 10987),
    "matbench_mp_e_form": Task("e_form", "eV/atom", 132752),
    "matbench_mp_gap": Task("gap pbe", "eV", 106113),
    "matbench_perovskites": Task("e_form", "eV/unit cell", 18928),
    "matbench_phonons": Task("last phdos peak", "cm^-1", 1265),
}


def task_named(name: str) -> Task:
    """Return a task by name.

    Raises:
        ConfigError: if Matbench has no such regression task on structures.
    """
    if name not in TASKS:
        raise ConfigError(f"no regression task on structures {name!r} in Matbench: take one of {', '.join(TASKS)}")
    return TASKS[name]


def official_ids(name: str) -> list[str]:
    """Return the ids of the rows of a task, in the order of Matbench."""
    rows = task_named(name).rows
    prefix = name.replace("matbench", "mb").replace("_", "-")
    return [f"{prefix}-{number:0{len(str(rows))}d}" for number in range(1, rows + 1)]


def official_folds(name: str) -> list[int]:
    """Return the fold in which each row is tested, in the order of Matbench.

    The folds are shuffled by scikit-learn with the seed that Matbench publishes; a test compares them with the ids of
    its validation file.
    """
    from sklearn.model_selection import KFold  # type: ignore[import-untyped] # noqa: PLC0415 - slow import, rarely needed

    rows = task_named(name).rows
    folds = np.empty(rows, dtype=np.int64)
    splits = KFold(FOLDS, shuffle=True, random_state=_FOLD_SEED).split(np.zeros(rows))
    for fold, (_, test) in enumerate(splits):
        folds[test] = fold
    return [int(fold) for fold in folds]


def record(
    name: str,
    predictions: Mapping[int, Mapping[str, float]],
    truth: Mapping[str, float],
    parameters: Mapping[int, Mapping[str, Any]],
    notes: Mapping[str, Any] | None = None,
    written: datetime | None = None,
) -> dict[str, Any]:
    """Build the `results.json` of one task, as `MatbenchBenchmark.from_file` reads it.

    Args:
        name: name of the task.
        predictions: predictions of all test rows by fold number and id.
        truth: true values by id.
        parameters: parameters of each fold by its number: numbers, texts, lists and dictionaries.
        notes: user_metadata of the record.
        written: date of the record. Default: now.

    Raises:
        ConfigError: if the folds or their rows are not the official ones, or a number is not finite.
    """
    folds = dict(zip(official_ids(name), official_folds(name), strict=True))
    results = {}
    for fold in range(FOLDS):
        official = [row_id for row_id, of in folds.items() if of == fold]
        found = predictions.get(fold, {})
        if set(found) != set(official):
            raise ConfigError(
                f"fold {fold} of {name}: {len(set(official) - set(found))} official rows have no prediction and "
                f"{len(set(found) - set(official))} predictions are for other rows; Matbench takes whole folds only"
            )
        values = [float(found[row_id]) for row_id in official]
        known = [float(truth[row_id]) if row_id in truth else float("nan") for row_id in official]
        if not np.isfinite([*values, *known]).all():
            raise ConfigError(f"fold {fold} of {name}: a prediction or a true value is missing or not finite")
        results[f"fold_{fold}"] = {
            "data": dict(zip(official, values, strict=True)),
            "uncertainty": None,
            "parameters": dict(parameters.get(fold, {})),
            "scores": _scores(np.array(known), np.array(values)),
        }
    task = {
        "@module": "matbench.task",
        "@class": "MatbenchTask",
        "benchmark_name": BENCHMARK,
        "dataset_name": name,
        "results": results,
    }
    document: dict[str, Any] = {
        "@module": "matbench.bench",
        "@class": "MatbenchBenchmark",
        "version": VERSION,
        "tasks": {name: task},
        "user_metadata": dict(notes or {}),
        "benchmark_name": BENCHMARK,
        "datestamp": (written or datetime.now(UTC)).strftime("%Y.%m.%d %H:%M.%S"),
    }
    # Through JSON first, so that the hash is that of the document as read.
    document = json.loads(json.dumps(document, allow_nan=False))
    return document | {"hash": _hash(document)}


def write_record(document: Mapping[str, Any], path: Path) -> None:
    """Write a record as `results.json.gz`, or without `.gz`; equal records give equal bytes."""
    content = json.dumps(document, allow_nan=False).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _scores(truth: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any]) -> dict[str, float]:
    """Scores of a fold as Matbench defines them."""
    error = np.abs(truth - predicted)
    large = np.abs(truth) > _NO_PERCENTAGE
    return {
        "mae": float(error.mean()),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mape": float(np.mean(error[large] / np.abs(truth[large]))) if large.any() else 0.0,
        "max_error": float(error.max()),
    }


def _hash(document: Mapping[str, Any]) -> str:
    """Digest of a record as Matbench computes it: of its JSON with sorted keys."""
    return hashlib.sha256(json.dumps(_ordered(document)).encode()).hexdigest()


def _ordered(value: Any) -> Any:
    """Sort the keys of dictionaries; those within lists stay unsorted, as in Matbench."""
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return value


def fold_predictions(ids: Sequence[str], folds: Sequence[int], values: Sequence[float]) -> dict[int, dict[str, float]]:
    """Group predictions by fold and id for `record`, from columns of equal length."""
    found: dict[int, dict[str, float]] = {}
    for row_id, fold, value in zip(ids, folds, values, strict=True):
        found.setdefault(int(fold), {})[row_id] = float(value)
    return found
