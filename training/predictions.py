"""Predictions row by row beside the truth, as a CSV for people and their spreadsheets."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from training.evaluation import Scored
from training.run_folder import write_whole

COLUMNS = ("id", "true", "predicted", "low", "high", "in_domain")


def write_predictions(path: Path, ids: Sequence[str], scored: Scored) -> None:
    """Write a CSV: id, true and predicted value, ends of the 90 % interval, whether the crystal is in the domain.

    Args:
        path: of the file; an older one is replaced.
        ids: of the rows, in the order of the predictions.
        scored: predictions and truth, in the target's unit; ends that there are not are left empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row, truth, answer in zip(ids, scored.truth.tolist(), scored.predictions, strict=True):
        in_domain = "true" if answer.domain.in_domain else "false"
        writer.writerow([row, truth, answer.value, answer.low, answer.high, in_domain])
    write_whole(path, text.getvalue().encode())


def predictions_file(folder: Path, model: str, models: int) -> Path:
    """Where a run's test predictions are: predictions.csv, with the model's name in it where there are several."""
    return folder / ("predictions.csv" if models == 1 else f"predictions-{model}.csv")
