"""Make the frozen checkpoint of the current schema version: `python tests/frozen/make.py`.

An ensemble of two small networks without attention, trained for an epoch on the bundled set, with the values it gives
to some real crystals. Once a schema version is released its folder is never made again: it stands for the checkpoints
that people have.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch

from deepergatgnn.checkpoints.manifest import SCHEMA_VERSION
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.catalogue import read_dataset
from deepergatgnn.training.experiments.run import run

HERE = Path(__file__).parent
EVERY = 94  # of 1128 rows: a dozen crystals
CONFIG = {
    "name": "frozen",
    "data": "elastic_tensor_2015",
    "source": "de Jong et al., Sci. Data 2, 150009 (2015), doi:10.1038/sdata.2015.9",
    "licence": "open data; matminer's modified BSD",
    "targets": [
        {
            "model": "frozen-bulk-modulus",
            "key": "K_VRH_GPa",
            "transform": "log10",
            "property": "k_vrh",
            "unit": "GPa",
            "description": "Bulk modulus, one epoch of two small networks: for the tests, not for use",
        }
    ],
    "split": {"test_fraction": 0.2, "validation_fraction": 0.1, "calibration_fraction": 0.1},
    "graph": {"angles": 0},
    "network": {"layers": 1, "channels": 16, "body": "cgcnn", "pooling": "set2set", "groups": 4, "spread": True},
    "optimization": {"epochs": 1, "learning_rate": 5e-3, "compile": False},
    "members": 2,
}


def make(folder: Path, expected: Path) -> None:
    """Train, publish, move the version to `folder` and write what it answers to `expected`."""
    config = TrainingConfig.model_validate(CONFIG)
    with tempfile.TemporaryDirectory() as temporary:
        store = ModelStore(Path(temporary) / "store")
        runs = Path(temporary) / "runs"
        [manifest] = run(config, store, runs, device=torch.device("cpu"), report=lambda _: None, plots=False)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(store.folder(manifest.name), folder)
    rows = read_dataset(config.data).rows[::EVERY]
    answers = Predictor.load(folder).predict_structures([row.crystal for row in rows])
    document = [
        {
            "id": row.id,
            "structure": {
                "lattice": row.crystal.lattice.tolist(),
                "species": list(row.crystal.symbols),
                "frac_coords": row.crystal.frac_coords.tolist(),
            },
            "value": answer.value,
            "low": answer.low,
            "high": answer.high,
            "intervals": answer.intervals,
            "spread": answer.predicted_scale,
            "domain_score": answer.domain.score,
            "in_domain": answer.domain.in_domain,
            "attention": None if answer.attention is None else [round(float(weight), 7) for weight in answer.attention],
        }
        for row, answer in zip(rows, answers, strict=True)
    ]
    expected.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in document) + "\n]\n", "utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    name = f"schema-{SCHEMA_VERSION}"
    make(HERE / name, HERE / f"{name}.json")
