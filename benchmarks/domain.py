"""Error against domain score, on another distribution and on held-out chemical systems.

    [DEEPERGATGNN_DATA=...] python -m benchmarks.domain [--quick]

`wbm`: the shipped formation-energy model on wbm_random_matcalc, hypothetical crystals made by swapping elements, where
the data folder has it. `systems`: a network trained on the bundled elastic set without any crystal of the chemical
systems that test it, three seeds. For each the Spearman correlation of |error| with the score and with the width of
the 90 % interval, and the error of flagged and of unflagged crystals. The last line is one JSON object.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import finish
from benchmarks.timing import arguments
from deepergatgnn.errors import ConfigError, ModelNotFoundError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.evaluation.scoring import evaluate
from deepergatgnn.training.experiments.run import run

FIGURES = (
    "n",
    "mae",
    "spearman_domain",
    "spearman_width",
    "flagged",
    "mae_flagged",
    "mae_unflagged",
    "coverage_90",
)
SYSTEMS = {
    "name": "held-out-systems",
    "data": "elastic_tensor_2015",
    "targets": [{"model": "bulk", "key": "log10_K_VRH", "unit": "log10(GPa)"}],
    "split": {"by": "chemical_system", "test_fraction": 0.3, "validation_fraction": 0.1, "calibration_fraction": 0.15},
}


def on_wbm() -> dict[str, object]:
    """Score the shipped formation-energy model on hypothetical crystals."""
    try:
        predictor = Predictor.load(ModelStore().folder("formation-energy"))
        found = evaluate(predictor, "wbm_random_matcalc", "formation_energy_per_atom_eV", None)
    except (ConfigError, ModelNotFoundError) as error:
        return {"not measured": str(error)}
    return {key: value for key, value in (found | found["figures"]).items() if key in FIGURES}


def on_systems(epochs: int, seed: int) -> dict[str, float]:
    """Score a network on held-out chemical systems."""
    config = TrainingConfig.model_validate(SYSTEMS | {"seed": seed, "optimization": {"epochs": epochs}})
    with tempfile.TemporaryDirectory() as folder:
        [manifest] = run(
            config,
            ModelStore(Path(folder) / "store"),
            Path(folder) / "runs",
            device=torch.device("cpu"),
            report=lambda _: None,
            plots=False,
        )
    return {key: value for key, value in manifest.metrics["test"].items() if key in FIGURES}


def main() -> None:
    """Run both, with medians over seeds."""
    quick = arguments(__doc__).quick
    torch.set_num_threads(1)
    runs = [on_systems(4 if quick else 48, seed) for seed in range(1 if quick else 3)]
    medians = {key: float(np.median([found[key] for found in runs if key in found])) for key in runs[0]}
    finish("domain", {"wbm": on_wbm(), "systems": {"runs": runs, "median": medians}}, quick=quick)


if __name__ == "__main__":
    main()
