"""Ablation of the default configuration: networks without each of its parts, over seeds, on held-out rows.

    [DEEPERGATGNN_DATA=...] python -m benchmarks.ablation [--quick] [--set NAME] [--target KEY ...] [--variant NAME ...]
                                                          [--seeds COUNT] [--runs FOLDER]

Random split with seed 0. Errors are mean absolute ones in the column's own unit on the rows of validation and
calibration; the test part is not touched. Each variant is trained from every seed; the spread is the standard
deviation over them, and what differs by less is a tie. With `--runs` an interrupted benchmark goes on. The last line is
one JSON object: for each variant the errors (mean, spread) and that of the averaged networks, by target.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.timing import parser
from deepergatgnn.model_store import ModelStore
from deepergatgnn.nn.batch import collate, edges_at_once, split_by_edges
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.run_data import RunData, assemble_run_data
from deepergatgnn.training.experiments.run import train_members
from deepergatgnn.uncertainty.intervals import unscale

Options = Mapping[str, Mapping[str, object]]

# Each variant differs from the defaults in one option, except the last.
VARIANTS: Final[dict[str, Options]] = {
    "defaults": {},
    "no angles": {"graph": {"angles": 0}},
    "nearest neighbours, no whole shells": {"graph": {"shell_tolerance": 0.0}},
    "one layer": {"network": {"layers": 1}},
    "ten layers": {"network": {"layers": 10}},
    "twenty layers": {"network": {"layers": 20}},
    "no skips": {"network": {"skip": False}},
    "no group normalization": {"network": {"normalization": "none"}},
    "no dropout": {"network": {"dropout": 0.0}},
    "no spread head": {"network": {"spread": False}},
    "no averaged weights": {"optimization": {"ema": 0.0}},
    "plateau schedule": {"optimization": {"schedule": "plateau"}},
    "squared error": {"optimization": {"loss": "mse"}},
    "the paper's network": {
        "graph": {"angles": 0},
        "network": {"layers": 20, "dropout": 0.0, "spread": False},
        "optimization": {"schedule": "plateau", "learning_rate": 5e-3, "batch_size": 100, "ema": 0.0},
    },
}


def configuration(variant: str, data: str, keys: Sequence[str], seeds: int, epochs: int | None) -> TrainingConfig:
    """Return the configuration of a variant, with one member for each seed."""
    document: dict[str, Any] = {
        "name": variant.replace(",", "").replace("'", "").replace(" ", "-"),
        "data": data,
        "targets": [{"model": f"target-{index}", "key": key, "unit": "?"} for index, key in enumerate(keys)],
        "members": seeds,
    }
    document |= {section: dict(options) for section, options in VARIANTS[variant].items()}
    if epochs:
        document["optimization"] = document.get("optimization", {}) | {"epochs": epochs}
    return TrainingConfig.model_validate(document)


@torch.inference_mode()
def predicted(network: CrystalModel, run_data: RunData, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Predict the standardised targets of graphs [n, T]."""
    graphs = [run_data.dataset.graphs[row] for row in rows]
    outputs = [network(collate(part)).values for part in split_by_edges(graphs, edges_at_once(torch.device("cpu")))]
    return torch.cat(outputs).double().numpy()


def train_variant(config: TrainingConfig, runs: Path) -> dict[str, object]:
    """Train with every seed; return errors by target."""
    run_data = assemble_run_data(config)
    device = torch.device("cpu")
    trained = train_members(config, run_data, ModelStore(runs), runs, device=device, report=lambda _: None)
    rows = np.concatenate([run_data.split.validation, run_data.split.calibration])
    outputs = np.stack([predicted(network.eval(), run_data, rows) for network, _ in trained])
    found: dict[str, object] = {"rows": len(rows), "parameters": sum(p.numel() for p in trained[0][0].parameters())}
    for index, target in enumerate(config.targets):
        values = unscale(outputs[:, :, index], run_data.scalers[index])
        truth = run_data.truth[rows, index]
        alone = np.nanmean(np.abs(values - truth), axis=1)
        found[target.key] = {
            "mae": round(float(alone.mean()), 5),
            "spread": round(float(alone.std(ddof=1)), 5) if len(alone) > 1 else None,
            "mae_of_averaged_networks": round(float(np.nanmean(np.abs(values.mean(axis=0) - truth))), 5),
        }
    return found


def main() -> None:
    """Run the variants."""
    options = parser(__doc__)
    options.add_argument("--set", default="elastic_tensor_2015", help="data set; the bundled one, if not given")
    options.add_argument("--target", action="append", default=[], help="column to learn, repeatable")
    options.add_argument("--variant", action="append", default=[], choices=VARIANTS, help="this one only, repeatable")
    options.add_argument("--seeds", type=int, default=3, help="networks of each variant")
    options.add_argument("--runs", type=Path, help="folder of run states, to go on from")
    given = options.parse_args()
    torch.set_num_threads(1)
    keys = given.target or ["log10_K_VRH", "log10_G_VRH"]
    report: dict[str, object] = {"data": given.set, "seeds": given.seeds}
    with tempfile.TemporaryDirectory() as folder:
        for variant in given.variant or VARIANTS:
            config = configuration(variant, given.set, keys, given.seeds, 2 if given.quick else None)
            report[variant] = train_variant(config, given.runs or Path(folder))
            print(variant, json.dumps(report[variant]), flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
