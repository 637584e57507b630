"""A search: resumable, repeatable, blind to the test part."""

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import yaml
from typer.testing import CliRunner

from deepergatgnn.commands.main import app
from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.config.run import TrainingConfig, read_config
from deepergatgnn.training.config.sweep import SweepConfig, read_sweep, with_parameters
from deepergatgnn.training.data.run_data import assemble_run_data
from deepergatgnn.training.experiments.sweep import BEST, RESULT, STORAGE, Trial, sweep
from deepergatgnn.training.fit.checkpoint import TrainingError
from deepergatgnn.training.fit.loop import Epoch
from tests.support.cross_validated import document, write_data

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
PARAMETERS: dict[str, Any] = {
    "optimization.learning_rate": {"low": 1.0e-4, "high": 1.0e-1, "log": True},
    "network.layers": {"low": 1, "high": 3},
    "network.dropout": {"choices": [0.0, 0.2]},
}


@dataclass(frozen=True)
class Searched:
    data: str
    base: dict[str, Any]
    config: SweepConfig
    runs: Path
    result: dict[str, Any]
    trials: list[Trial]
    epochs: list[Epoch]


def search(
    base: dict[str, Any], runs: Path, epochs: list[Epoch] | None = None, **options: Any
) -> tuple[SweepConfig, dict[str, Any], list[Trial]]:
    config = SweepConfig.model_validate({"base": "", "parameters": PARAMETERS, "trials": 3} | options)
    trials: list[Trial] = []
    report = (lambda _: None) if epochs is None else epochs.append
    result = sweep(config, base, ModelStore(runs / "store"), runs, device=CPU, report=report, finished=trials.append)
    return config, result, trials


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Three trials; read them, never write them."""
    folder = tmp_path_factory.mktemp("searched")
    data = write_data(folder / "data.jsonl")
    epochs: list[Epoch] = []
    config, result, trials = search(document(data), folder / "runs", epochs)
    return Searched(data, document(data), config, folder / "runs", result, trials, epochs)


def without_paths(result: dict[str, Any]) -> dict[str, Any]:
    return result | {"best": {key: value for key, value in result["best"].items() if key != "config"}}


def test_the_best_has_the_lowest_validation_error_of_all(searched: Searched) -> None:
    errors = [trial["validation_mae_sd"] for trial in searched.result["trials"]]
    assert len(errors) == len(searched.trials) == 3
    assert searched.result["best"]["validation_mae_sd"] == min(errors)
    assert [trial.error for trial in searched.trials] == errors
    assert min(errors) == min(epoch.validation_mae for epoch in searched.epochs)
    assert len({json.dumps(trial["parameters"]) for trial in searched.result["trials"]}) == 3
    assert json.loads((searched.runs / "small-sweep" / RESULT).read_text("utf-8")) == searched.result


def test_what_is_proposed_lies_within_its_range(searched: Searched) -> None:
    for trial in searched.result["trials"]:
        found = trial["parameters"]
        assert 1e-4 <= found["optimization.learning_rate"] <= 1e-1
        assert found["network.layers"] in {1, 2, 3}
        assert found["network.dropout"] in {0.0, 0.2}


def test_the_best_is_written_as_a_configuration_for_train(searched: Searched) -> None:
    config = read_config(searched.runs / "small-sweep" / BEST)
    best = searched.result["best"]["parameters"]
    assert config.name == "small-sweep-best"
    assert config.optimization.learning_rate == best["optimization.learning_rate"]
    assert config.network.layers == best["network.layers"]
    expected = TrainingConfig.model_validate(with_parameters(searched.base, best) | {"name": "small-sweep-best"})
    assert config == expected


def test_nothing_in_the_folder_is_a_pickle(searched: Searched) -> None:
    files = [path for path in (searched.runs / "small-sweep").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".db", ".json", ".yaml", ".safetensors", ""}
    with sqlite3.connect(searched.runs / "small-sweep" / STORAGE) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        cells = [cell for table in tables for row in database.execute(f"select * from {table}") for cell in row]  # noqa: S608
    database.close()
    assert cells
    assert not any(isinstance(cell, bytes) for cell in cells)


def test_a_finished_search_trains_nothing_and_more_trials_go_on(searched: Searched, tmp_path: Path) -> None:
    epochs: list[Epoch] = []
    _, first, _ = search(searched.base, tmp_path, epochs, trials=2)
    assert without_paths(first)["trials"] == searched.result["trials"][:2]
    assert len(epochs) == 4
    _, again, trials = search(searched.base, tmp_path, epochs, trials=2)
    assert (again, trials, len(epochs)) == (first, [], 4)
    _, whole, trials = search(searched.base, tmp_path, epochs)
    assert [trial.number for trial in trials] == [2]
    assert len(epochs) == 6
    assert without_paths(whole) == without_paths(searched.result)


@pytest.mark.parametrize("reports", [1, 3, 4])
def test_an_interrupted_search_comes_to_what_an_undisturbed_one_does(
    searched: Searched, tmp_path: Path, reports: int
) -> None:
    class StopError(BaseException):
        pass

    class Stop(list[Epoch]):
        def append(self, epoch: Epoch) -> None:
            super().append(epoch)
            if len(self) == reports:
                raise StopError

    with pytest.raises(StopError):
        search(searched.base, tmp_path, Stop())
    rest: list[Epoch] = []
    _, result, _ = search(searched.base, tmp_path, rest)
    assert len(rest) == 6 - reports
    # The pruner compares epochs: a trial that went on has those from before, too.
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'small-sweep' / STORAGE}")
    for trial in study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        assert list(trial.intermediate_values) == [1, 2]
        assert min(trial.intermediate_values.values()) == trial.value
    assert without_paths(result) == without_paths(searched.result)


def test_another_search_of_the_same_name_is_refused(searched: Searched) -> None:
    for options in ({"seed": 1}, {"parameters": {"network.layers": {"choices": [1]}}}):
        with pytest.raises(ConfigError, match="search of other parameters, base or data"):
            search(searched.base, searched.runs, **options)
    with pytest.raises(ConfigError, match="search of other parameters, base or data"):
        search(searched.base | {"seed": 3}, searched.runs)


def test_the_test_part_decides_nothing(searched: Searched, tmp_path: Path) -> None:
    """With nonsense for the truth of every test row, the search comes to the same."""
    test = set(assemble_run_data(TrainingConfig.model_validate(searched.base)).split.test.tolist())
    lines = Path(searched.data).read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for row in test:
        rows[row]["targets"]["log10_K_VRH"] = 1000.0 + row
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    _, result, _ = search(searched.base | {"data": str(other)}, tmp_path)
    assert without_paths(result) == without_paths(searched.result)


def test_a_hopeless_trial_is_stopped_early_and_counts(searched: Searched, tmp_path: Path) -> None:
    epochs: list[Epoch] = []
    rates = {"optimization.learning_rate": {"choices": [0.3, 1e-3, 3e-3]}}
    base = searched.base | {"optimization": {"epochs": 4, "batch_size": 8, "ema": 0.0}}
    _, result, trials = search(base, tmp_path, epochs, parameters=rates, trials=12, warmup=1)
    pruned = [trial for trial in trials if trial.pruned]
    assert len(result["trials"]) == 12
    assert pruned
    assert len(epochs) < 12 * 4
    assert all(trial.number >= 5 for trial in pruned)
    _, unpruned, _ = search(base, tmp_path, parameters=rates, trials=2, pruner="none", name="patient")
    assert not any(trial["pruned"] for trial in unpruned["trials"])


def test_a_trial_that_diverges_counts_and_another_may_be_the_best(searched: Searched, tmp_path: Path) -> None:
    rates = {"optimization.learning_rate": {"choices": [1e30]}}
    base = searched.base | {"optimization": {"epochs": 2, "batch_size": 8, "schedule": "plateau"}}
    with pytest.raises(TrainingError, match="no trial finished"):
        search(base, tmp_path, parameters=rates, trials=2)
    rates = {"optimization.learning_rate": {"choices": [1e30, 1e-3]}}
    _, result, trials = search(base, tmp_path, parameters=rates, trials=6, name="mixed")
    assert {trial.pruned for trial in trials} == {True, False}
    assert result["best"]["parameters"] == {"optimization.learning_rate": 1e-3}


def written(folder: Path, data: str, **changes: Any) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump(document(data)), "utf-8")
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml", "parameters": PARAMETERS} | changes), "utf-8")
    return path


def test_the_file_is_read_and_the_base_found_beside_it(searched: Searched, tmp_path: Path) -> None:
    config, base = read_sweep(written(tmp_path, searched.data, trials=7))
    assert config.trials == 7
    assert base == searched.base
    assert config.parameters == searched.config.parameters


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base": "missing.yaml"}, r"missing\.yaml: No such file"),
        ({"base": "sweep.yaml"}, r"sweep\.yaml: name is missing"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {"split.test_fraction": {"low": 0.1, "high": 0.3}}}, "'split.test_fraction' cannot be varied"),
        ({"parameters": {"graph.cutoff": {"low": 5.0, "high": 8.0}}}, "'graph.cutoff' cannot be varied"),
        ({"parameters": {"network.targets": {"choices": [2]}}}, "'network.targets' cannot be varied"),
        ({"parameters": {"network": {"choices": [2]}}}, "'network' cannot be varied"),
        ({"parameters": {"network.depth": {"choices": [2]}}}, r"parameters\.network\.depth 2: network\.depth"),
        ({"parameters": {"network.layers": {"low": 1, "high": 201}}}, r"network\.layers 201"),
        ({"parameters": {"network.layers": {"low": 3, "high": 3}}}, "low 3 is not below high 3"),
        ({"parameters": {"network.dropout": {"low": 0.0, "high": 0.5, "log": True}}}, "cannot begin at 0"),
        ({"parameters": {"network.layers": {"choices": []}}}, "choices"),
        ({"parameters": {"network.layers": {"choices": [[1]]}}}, "choices"),
        ({"trials": 0}, "trials"),
        ({"pruner": "mean"}, "pruner"),
        ({"name": "../x"}, "name"),
        ({"tirals": 3}, "tirals"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    searched: Searched, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_sweep(written(tmp_path, searched.data, **changes))


@pytest.mark.parametrize("text", ["", "[1]", "a: [", "just words"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"sweep\.yaml"):
        read_sweep(tmp_path / "sweep.yaml")


def test_numbers_that_yaml_takes_for_text_are_numbers(searched: Searched, tmp_path: Path) -> None:
    """YAML reads 1e-4 as text; people write it."""
    path = written(tmp_path, searched.data)
    path.write_text(path.read_text("utf-8").replace("0.0001", "1e-4"), "utf-8")
    assert "low: 1e-4" in path.read_text("utf-8")
    config, _ = read_sweep(path)
    assert config.parameters == searched.config.parameters


def test_options_are_set_without_touching_the_document() -> None:
    before = {"network": {"layers": 5}, "name": "x"}
    after = with_parameters(before, {"network.layers": 3, "optimization.epochs": 2})
    assert after == {"network": {"layers": 3}, "optimization": {"epochs": 2}, "name": "x"}
    assert before == {"network": {"layers": 5}, "name": "x"}


def test_the_command_goes_on_and_prints_the_best_first(searched: Searched, tmp_path: Path) -> None:
    path = written(tmp_path, searched.data, trials=3)
    arguments = ["sweep", str(path), "--runs", str(searched.runs), "--device", "cpu"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    best = searched.result["best"]
    lines = done.stdout.splitlines()
    assert lines[1].split()[0] == f"{best['validation_mae_sd']:.4f}"
    assert len(lines) == 1 + 3 + 1
    assert lines[-1] == f"best: deepergatgnn train {searched.runs / 'small-sweep' / BEST}"
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == searched.result
    assert np.isfinite(json.loads(done.stdout)["best"]["validation_mae_sd"])
