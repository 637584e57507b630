"""Results of a cross-validation: tables of predictions, and figures for the card of a later `train`."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepergatgnn.checkpoints.files import digest
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.publication.publish import Version

SUMMARY = "cross-validation.json"
OF_A_FOLD = {"fold", "folds", "seeds", "test_fold"}  # options of the split that differ between folds
COLUMNS = ("id", "truth", "value", "low", "high")


def configuration_digest(config: TrainingConfig) -> str:
    """Digest of the part of a configuration that is the same in every fold, without names."""
    unimportant = {"name", "version", "seed", "source", "licence"}
    options = config.model_dump(mode="json", exclude=unimportant, exclude_defaults=True)
    split = {key: value for key, value in options.pop("split", {}).items() if key not in OF_A_FOLD}
    return digest(json.dumps([options, split], sort_keys=True).encode())


def cross_validated_figures(config: TrainingConfig, dataset_sha256: str, folder: Path) -> list[dict[str, float]]:
    """Read mean and standard deviation of each target, if this configuration was cross-validated on these data.

    Args:
        config: configuration of a run.
        dataset_sha256: digest of its data.
        folder: folder of the run.

    Returns:
        For each target "folds" and, for every figure, its name and its name with "_std"; empty without a
        cross-validation.
    """
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_bytes())
    except (FileNotFoundError, ValueError):
        return [{} for _ in config.targets]
    if (summary["configuration"], summary["dataset_sha256"]) != (configuration_digest(config), dataset_sha256):
        return [{} for _ in config.targets]
    folds = {"folds": float(summary["folds"])}
    return [
        folds | target["mean"] | {f"{name}_std": std for name, std in target["std"].items()}
        for target in summary["targets"]
    ]


def prediction_table(version: Version, ids: Sequence[str]) -> bytes:
    """Write the test rows of a fold as compressed CSV: id, truth, value, ends of the 90 % interval, in target units.

    For classes the truth is the index of the class, and the probability of each class follows.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scored = version.scored
    writer.writerow([*COLUMNS, *(f"probability_{name}" for name in version.manifest.target.classes)])
    for row, truth, answer in zip(version.rows, scored.truth.tolist(), scored.predictions, strict=True):
        writer.writerow(
            [ids[row], truth, answer.value, answer.low, answer.high, *(answer.probabilities or {}).values()]
        )
    return gzip.compress(text.getvalue().encode(), mtime=0)


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """Read a table of predictions with numbers as floats; NaN for the ends of a missing interval."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{"id": row["id"]} | {name: float(row[name] or "nan") for name in COLUMNS[1:]} for row in rows]
