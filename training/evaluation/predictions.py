"""Predictions row by row beside the truth, as a CSV for people and their spreadsheets."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from deepergatgnn.training.evaluation.classification import ScoredClasses
from deepergatgnn.training.evaluation.metrics import Scored
from deepergatgnn.training.files import write_whole
from deepergatgnn.uncertainty.probabilities import likeliest


class Writer(Protocol):
    """What writes the lines of a CSV."""

    def writerow(self, row: Any, /) -> Any:
        """Write a line."""


COLUMNS = ("id", "true", "predicted", "low", "high", "in_domain")


def write_predictions(path: Path, ids: Sequence[str], scored: Scored) -> None:
    """Write a CSV: id, true and predicted value, ends of the 90 % interval, whether the crystal is in the domain.

    Of classes: id, true and likeliest class, the probability of each, whether the crystal is in the domain.

    Args:
        path: of the file; an older one is replaced.
        ids: of the rows, in the order of the predictions.
        scored: predictions and truth, in the target's unit; ends that there are not are left empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if isinstance(scored, ScoredClasses):
        _write_classes(writer, ids, scored)
        write_whole(path, text.getvalue().encode())
        return
    writer.writerow(COLUMNS)
    for row, truth, answer in zip(ids, scored.truth.tolist(), scored.predictions, strict=True):
        in_domain = "true" if answer.domain.in_domain else "false"
        writer.writerow([row, truth, answer.value, answer.low, answer.high, in_domain])
    write_whole(path, text.getvalue().encode())


def _write_classes(writer: Writer, ids: Sequence[str], scored: ScoredClasses) -> None:
    """Lines of true and likeliest class, and of the probability of each."""
    writer.writerow(["id", "true", "predicted", *(f"probability_{name}" for name in scored.classes), "in_domain"])
    for row, code, answer in zip(ids, scored.truth.astype(int).tolist(), scored.predictions, strict=True):
        probabilities = answer.probabilities or {}
        in_domain = "true" if answer.domain.in_domain else "false"
        likely = likeliest(probabilities)
        writer.writerow([row, scored.classes[code], likely, *probabilities.values(), in_domain])


def predictions_file(folder: Path, model: str, models: int) -> Path:
    """Where a run's test predictions are: predictions.csv, with the model's name in it where there are several."""
    return folder / ("predictions.csv" if models == 1 else f"predictions-{model}.csv")
