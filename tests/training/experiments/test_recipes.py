"""The recipes: protocols of papers as they state them, each run for real in a short form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.config.run import TrainingConfig, read_config
from deepergatgnn.training.config.sweep import read_sweep
from deepergatgnn.training.data.run_data import assemble_run_data
from deepergatgnn.training.data.splits import split_rows
from deepergatgnn.training.experiments.cross_validation import cross_validate
from deepergatgnn.training.experiments.folds import plan_folds
from deepergatgnn.training.experiments.run import run
from deepergatgnn.training.experiments.sweep import sweep
from tests.support.bundled_rows import dataset
from tests.support.cross_validated import write_data

RECIPES = Path(__file__).parents[3] / "training" / "recipes"
DEEPERGATGNN, GATGNN, POOLING = (RECIPES / f"protocol-{name}.yaml" for name in ("deepergatgnn", "gatgnn", "pooling"))
CPU = torch.device("cpu")


def shortened(path: Path, data: str, **network: Any) -> TrainingConfig:
    """The same protocol on a few rows of the bundled set, for one epoch with a small network."""
    document = yaml.safe_load(path.read_text("utf-8"))
    document["data"] = data
    document["targets"] = [document["targets"][0] | {"key": "log10_K_VRH"}]
    document["network"] |= {"layers": 1, "channels": 8, "heads": 2, "groups": 2} | network
    document["optimization"] |= {"epochs": 1, "batch_size": 16}
    return TrainingConfig.model_validate(document)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_data(tmp_path_factory.mktemp("data") / "data.jsonl")


def shares(config: TrainingConfig) -> list[float]:
    """Train, validation with calibration, test, as shares of all rows."""
    sizes = split_rows(dataset(), config.split, config.seed).sizes()
    held_out = sizes["validation"] + sizes["calibration"]
    return [size / len(dataset()) for size in (sizes["train"], held_out, sizes["test"])]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_read_and_says_where_its_data_is_from(path: Path) -> None:
    config = read_config(path)
    assert config.source
    assert config.licence
    assert all(target.description for target in config.targets)


@pytest.mark.parametrize("path", [DEEPERGATGNN, GATGNN, POOLING], ids=lambda path: path.stem)
def test_a_protocol_cites_its_paper_and_the_command_that_runs_it(path: Path) -> None:
    text = path.read_text("utf-8")
    assert f"training/recipes/{path.name}" in text
    assert "doi:" in text.partition("name:")[0] or "Rivera" in text


def test_the_protocol_of_deepergatgnn_is_the_papers() -> None:
    config = read_config(DEEPERGATGNN)
    network, loop = config.network, config.optimization
    assert (network.layers, network.channels, network.normalization, network.groups) == (20, 64, "group", 10)
    assert (network.skip, network.dropout, network.spread) == (True, 0.0, False)
    assert (loop.schedule, loop.learning_rate, loop.batch_size, loop.epochs) == ("plateau", 5e-3, 100, 500)
    assert (loop.plateau_factor, loop.plateau_patience, loop.plateau_floor) == (0.8, 10, 1e-5)
    assert (loop.loss, loop.patience >= loop.epochs, loop.ema) == ("l1", True, 0.0)
    assert config.split.folds == 5
    assert [fold.config.split.fold for fold in plan_folds(config, lambda: assemble_run_data(config))] == [0, 1, 2, 3, 4]


def test_the_protocol_of_gatgnn_is_the_papers() -> None:
    config = read_config(GATGNN)
    network, loop = config.network, config.optimization
    assert (network.layers, network.channels, network.heads) == (5, 64, 4)
    assert (loop.epochs, loop.patience, loop.batch_size) == (500, 150, 256)
    assert (loop.learning_rate, loop.plateau_factor, loop.plateau_floor) == (5e-3, 0.1, 5e-5)
    assert (loop.loss, loop.beta) == ("smooth_l1", 1.0)
    np.testing.assert_allclose(shares(config), [0.6, 0.2, 0.2], atol=0.002)


def test_the_protocol_of_the_pooling_study_is_its_own() -> None:
    config = read_config(POOLING)
    assert (config.optimization.batch_size, config.optimization.epochs, config.network.layers) == (100, 200, 4)
    folds = plan_folds(config, lambda: assemble_run_data(config))
    assert len({fold.config.seed for fold in folds}) == 5
    for fold in folds:
        np.testing.assert_allclose(shares(fold.config), [0.8, 0.05, 0.15], atol=0.002)


def test_the_protocol_of_deepergatgnn_runs(data: str, tmp_path: Path) -> None:
    config = shortened(DEEPERGATGNN, data, layers=20)
    summary = cross_validate(config, ModelStore(tmp_path / "store"), tmp_path, device=CPU, report=lambda _: None)
    [target] = summary["targets"]
    assert [fold["fold"] for fold in target["folds"]] == [f"fold-{number}" for number in range(5)]
    assert sum(fold["n"] for fold in target["folds"]) == 90
    assert target["mean"]["mae"] > 0
    assert target["std"]["mae"] > 0


def test_the_protocol_of_gatgnn_runs(data: str, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    config = shortened(GATGNN, data, layers=5)
    [manifest] = run(config, store, tmp_path, device=CPU, report=lambda _: None, plots=False)
    assert manifest.provenance.rows == {"train": 54, "validation": 14, "calibration": 4, "test": 18}
    assert store.names() == ["protocol-gatgnn"]


def test_the_protocol_of_the_pooling_study_runs(data: str, tmp_path: Path) -> None:
    config = shortened(POOLING, data, layers=4)
    summary = cross_validate(config, ModelStore(tmp_path / "store"), tmp_path, device=CPU, report=lambda _: None)
    [target] = summary["targets"]
    assert [fold["fold"] for fold in target["folds"]] == [f"seed-{number}" for number in range(5)]
    assert len({fold["mae"] for fold in target["folds"]}) == 5


SWEEPS = sorted((RECIPES / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_sweeps_run(path: Path, data: str, tmp_path: Path) -> None:
    config, base = read_sweep(path)
    short = {"data": data, "optimization": {"epochs": 1, "batch_size": 16}}
    short["network"] = base["network"] | {"channels": 8, "heads": 2, "groups": 2}
    result = sweep(
        config.model_copy(update={"trials": 1}),
        base | short,
        ModelStore(tmp_path / "store"),
        tmp_path,
        device=CPU,
        report=lambda _: None,
    )
    assert result["best"]["parameters"].keys() == config.parameters.keys()
    assert read_config(Path(result["best"]["config"])).targets == TrainingConfig.model_validate(base).targets


def test_there_are_sweeps() -> None:
    assert SWEEPS
