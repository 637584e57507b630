"""A whole small cross-validation, for the tests that look at one."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.catalogue import BUNDLED
from deepergatgnn.training.experiments.cross_validation import cross_validate
from deepergatgnn.training.experiments.fold_results import read_predictions
from deepergatgnn.training.fit.loop import Epoch

CPU = torch.device("cpu")
ROWS = 90


def write_data(path: Path) -> str:
    """Some rows of the bundled set, with two columns of folds and one that is no fold."""
    with gzip.open(BUNDLED / "elastic_tensor_2015.jsonl.gz", "rt", encoding="utf-8") as lines:
        documents = [json.loads(line) for line, _ in zip(lines, range(ROWS), strict=False)]
    for number, document in enumerate(documents):
        document |= {"fold": number % 3, "other": None if number % 5 == 0 else (number + 1) % 3}
        document |= {"side": "left" if number % 2 else "right", "same": 1 if number % 2 else None, "half": number / 2}
    path.write_text("".join(json.dumps(document) + "\n" for document in documents), "utf-8")
    return str(path)


def document(data: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "data": data,
        "targets": [{"model": "bulk", "key": "log10_K_VRH", "unit": "log10(GPa)"}],
        "split": {"folds": 3, "validation_fraction": 0.2, "calibration_fraction": 0.2},
        "network": {"layers": 1, "channels": 8, "heads": 2, "groups": 2},
        "optimization": {"epochs": 2, "batch_size": 16},
    } | changes


def configuration(data: str, **changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(document(data, **changes))


@dataclass(frozen=True)
class Validated:
    data: str
    config: TrainingConfig
    runs: Path
    store: ModelStore
    summary: dict[str, Any]
    epochs: list[Epoch]

    def predictions(self, fold: str) -> list[dict[str, Any]]:
        return read_predictions(self.runs / "small" / fold / "predictions-bulk.csv.gz")


@contextmanager
def single_thread() -> Iterator[None]:
    """The order of sums, and with it the last bits, follows the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cross_validated(folder: Path) -> Validated:
    """A whole cross-validation of three folds; read it, never write it."""
    data = write_data(folder / "data.jsonl")
    config, store, epochs = configuration(data), ModelStore(folder / "store"), list[Epoch]()
    summary = cross_validate(config, store, folder / "runs", device=CPU, report=epochs.append)
    return Validated(data, config, folder / "runs", store, summary, epochs)
