"""Matbench v0.1: its structure tasks, their official folds, and its record of results, as matbench 0.6 takes it.

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
VERSION: Final = "0.6"  # of the package whose form of a record this is
FOLDS: Final = 5
_FOLD_SEED: Final = 18012019
_NO_PERCENTAGE: Final = 1e-5  # Matbench leaves smaller values out of its percentage error


@dataclass(frozen=True)
class Task:
    """A regression task on structures: its column, its unit, its number of rows."""

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
    """A task by its name.

    Raises:
        ConfigError: if Matbench has no such regression task on structures.
    """
    if name not in TASKS:
        raise ConfigError(f"no regression task on structures {name!r} in Matbench: take one of {', '.join(TASKS)}")
    return TASKS[name]


def official_ids(name: str) -> list[str]:
    """Matbench's ids of the rows of a task, in its order."""
    rows = task_named(name).rows
    prefix = name.replace("matbench", "mb").replace("_", "-")
    return [f"{prefix}-{number:0{len(str(rows))}d}" for number in range(1, rows + 1)]


def official_folds(name: str) -> list[int]:
    """The fold in which each row is tested, in Matbench's order.

    They are scikit-learn's shuffled folds from the seed that Matbench publishes; a test holds them against the ids
    in its validation file.
    """
    from sklearn.model_selection import KFold  # type: ignore[import-untyped] # noqa: PLC0415 - slow, seldom needed

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
    """A whole `results.json` of one task, as `MatbenchBenchmark.from_file` takes it up.

    Args:
        name: of the task.
        predictions: of every test row by fold number and Matbench id.
        truth: by id.
        parameters: of each fold by its number: plain numbers, texts, lists and dictionaries.
        notes: on the whole, Matbench's user_metadata.
        written: the date in the record; now, if not given.

    Raises:
        ConfigError: if the folds or their rows are not the official ones, or a number is not finite.
    """
    folds = dict(zip(official_ids(name), official_folds(name), strict=True))
    results = {}
    for fold in range(FOLDS):
        wanted = [row_id for row_id, of in folds.items() if of == fold]
        found = predictions.get(fold, {})
        if set(found) != set(wanted):
            raise ConfigError(
                f"fold {fold} of {name}: {len(set(wanted) - set(found))} official rows have no prediction and "
                f"{len(set(found) - set(wanted))} predictions are for other rows; Matbench takes whole folds only"
            )
        values = [float(found[row_id]) for row_id in wanted]
        known = [float(truth[row_id]) if row_id in truth else float("nan") for row_id in wanted]
        if not np.isfinite([*values, *known]).all():
            raise ConfigError(f"fold {fold} of {name}: a prediction or a true value is missing or not finite")
        results[f"fold_{fold}"] = {
            "data": dict(zip(wanted, values, strict=True)),
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
    # Rounded through JSON first: the hash is of what a reader will have.
    document = json.loads(json.dumps(document, allow_nan=False))
    return document | {"hash": _hash(document)}


def write_record(document: Mapping[str, Any], path: Path) -> None:
    """Write a record as `results.json.gz`, or without `.gz`; the same record always gives the same bytes."""
    content = json.dumps(document, allow_nan=False).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _scores(truth: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any]) -> dict[str, float]:
    """Matbench's scores of a fold, with its reading of the percentage error."""
    error = np.abs(truth - predicted)
    large = np.abs(truth) > _NO_PERCENTAGE
    return {
        "mae": float(error.mean()),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mape": float(np.mean(error[large] / np.abs(truth[large]))) if large.any() else 0.0,
        "max_error": float(error.max()),
    }


def _hash(document: Mapping[str, Any]) -> str:
    """Matbench's digest of a record: of its JSON with every dictionary in order of its keys."""
    return hashlib.sha256(json.dumps(_ordered(document)).encode()).hexdigest()


def _ordered(value: Any) -> Any:
    """Dictionaries within lists are left as they are, as Matbench leaves them."""
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return value


def fold_predictions(ids: Sequence[str], folds: Sequence[int], values: Sequence[float]) -> dict[int, dict[str, float]]:
    """Predictions by fold and id, as `record` takes them, from columns of equal length."""
    found: dict[int, dict[str, float]] = {}
    for row_id, fold, value in zip(ids, folds, values, strict=True):
        found.setdefault(int(fold), {})[row_id] = float(value)
    return found
