"""A run in a folder: a bare machine trains the very weights, and the full one publishes them."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.run_data import RunData, assemble_run_data
from deepergatgnn.training.data.splits import PARTS
from deepergatgnn.training.experiments.portable_run import main, read_run
from deepergatgnn.training.experiments.run import run, train_members
from deepergatgnn.training.experiments.tasks import load_run, save_run
from deepergatgnn.training.fit.checkpoint import STATE
from deepergatgnn.training.fit.ensemble_member import member_folder, train_member
from tests.support.fixtures import TINY, Published
from tests.training.data.test_cache import assert_same, documents, flip, written

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]
# What a machine that only trains need not have.
ABSENT = ["pymatgen", "pydantic", "pydantic_core", "pydantic_settings", "yaml", "typer", "gemmi", "ase", "sklearn"]
ABSENT += ["matplotlib", "optuna", "pyarrow", "pandas", "scipy", "structlog", "starlette", "redis", "model_store"]
BARE = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))  # importing one of them raises ModuleNotFoundError
from deepergatgnn.training.experiments.portable_run import main
main()
"""


def changed(**changes: Any) -> TrainingConfig:
    document = TINY.model_dump(mode="json")
    del document["network"]["targets"]
    return TrainingConfig.model_validate(document | changes)


def train_bare(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", BARE, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def state(runs: Path, config: TrainingConfig, member: int) -> dict[str, torch.Tensor]:
    return load_file(member_folder(runs, config.name, member) / STATE)


def assert_same_state(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], value) for key, value in other.items())


@dataclass(frozen=True)
class Prepared:
    """A run of two members in a folder."""

    config: TrainingConfig
    run_data: RunData
    folder: Path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared") / "new" / "run"
    config = changed(name="pair", members=2, optimization={"epochs": 2})
    run_data = assemble_run_data(config)
    save_run(config, run_data, ModelStore(folder.parent / "store"), folder)
    return Prepared(config, run_data, folder)


def quietly(_: object) -> None:
    pass


@pytest.fixture
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_a_bare_machine_trains_the_very_weights_and_the_full_one_publishes_them(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, store = prepared.config, ModelStore(tmp_path / "store")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    away, home = tmp_path / "away", tmp_path / "home"
    first = train_bare(str(prepared.folder), "--runs", str(away), "--device", "cpu", "--member", "2")
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("epoch ") == 2
    assert not member_folder(away, config.name, 0).exists()
    rest = train_bare(str(prepared.folder), "--runs", str(away), "--device", "cpu")
    assert rest.returncode == 0, rest.stderr
    assert rest.stderr.count("epoch ") == 2  # the second member was trained already

    assert run(config, store, home, device=CPU, report=quietly, member=2) == []
    assert not member_folder(home, config.name, 0).exists()
    assert store.names() == []
    train_members(config, prepared.run_data, store, home, device=CPU, report=quietly)
    for member in range(2):
        assert_same_state(state(away, config, member), state(home, config, member))

    epochs: list[object] = []
    announced: list[tuple[TrainingConfig, RunData]] = []
    [manifest] = run(
        config,
        store,
        away,
        device=CPU,
        report=epochs.append,
        announce=lambda *said: announced.append(said),
        plots=False,
    )
    assert epochs == []
    assert store.verify(manifest.name) == manifest
    assert manifest.members == 2
    [(announced_config, run_data)] = announced
    assert (announced_config, run_data.split.sizes()) == (config, manifest.provenance.rows)
    assert sum(key.startswith("formulas_shared_by_") for key in run_data.notes) == 6


def test_the_readme_says_which_command_a_bare_machine_has() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    [bare] = [line for line in lines if line.startswith("| `datasets prepare CONFIG.yaml --out FOLDER`")]
    [whole] = [line for line in lines if line.startswith("| `train CONFIG.yaml --cache FOLDER`")]
    assert "`python -m deepergatgnn.training FOLDER --runs RUNS`" in bare
    [needed] = re.findall(r"bare one \((.*), a copy", bare)
    assert not set(needed.split(", ")) & set(ABSENT)
    assert {"pydantic", "typer"} <= set(re.findall(r"\w+", whole))


@pytest.mark.parametrize("member", ["0", "3"])
def test_a_member_that_does_not_exist_is_refused(
    prepared: Prepared, tmp_path: Path, member: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    monkeypatch.setattr(sys, "argv", ["", str(prepared.folder), "--runs", str(runs), "--member", member])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "members 1 to 2" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="members 1 to 2"):
        run(prepared.config, ModelStore(tmp_path / "store"), runs, device=CPU, report=quietly, member=int(member))
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_does_not_exist_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    ended = train_bare(str(prepared.folder), "--runs", str(tmp_path), "--device", "cuda:99")
    assert ended.returncode == 2
    assert ended.stderr.startswith("deepergatgnn.training: no device 'cuda:99' here")
    assert not any(tmp_path.iterdir())


def test_a_folder_gives_back_all_that_was_assembled(prepared: Prepared) -> None:
    loaded, run_data = load_run(prepared.config, prepared.folder), prepared.run_data
    assert_same(loaded.dataset, run_data.dataset)
    for part in PARTS:
        np.testing.assert_array_equal(getattr(loaded.split, part), getattr(run_data.split, part))
    np.testing.assert_array_equal(loaded.truth, run_data.truth)
    np.testing.assert_array_equal(loaded.scaled, run_data.scaled)
    assert (loaded.scalers, loaded.notes) == (run_data.scalers, run_data.notes)


def test_rows_of_other_sets_and_missing_targets_travel_too(tmp_path: Path) -> None:
    rows = documents(120)
    for number, row in enumerate(rows):
        row["targets"]["rare"] = [None, -1.0, 3.0, 40.0][number % 4]
    targets = [
        {"model": "k", "key": "log10_K_VRH", "unit": "log10(GPa)", "weight": 0.25},
        {"model": "rare", "key": "rare", "unit": "GPa", "transform": "log10"},
    ]
    config = changed(
        data=written(tmp_path, rows[:80]), extra_data=[written(tmp_path, rows[60:], "more.jsonl")], targets=targets
    )
    run_data = assemble_run_data(config)
    assert run_data.notes["extra_rows"] > 20
    save_run(config, run_data, ModelStore(tmp_path / "store"), tmp_path / "run")
    loaded = load_run(config, tmp_path / "run")
    assert_same(loaded.dataset, run_data.dataset)
    assert np.isnan(loaded.truth[:, 1]).mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(loaded.truth, run_data.truth)
    assert loaded.scalers == run_data.scalers
    task = read_run(tmp_path / "run").task
    assert task.weights == (0.25, 1.0)
    np.testing.assert_array_equal(task.training.targets, run_data.examples(run_data.split.train).targets)


@pytest.mark.usefixtures("_one_thread")
def test_weights_to_begin_with_travel_too(tiny: Published, tmp_path: Path) -> None:
    config = changed(name="tuned", start="tiny-bulk-modulus", optimization={"epochs": 1, "frozen_layers": 1})
    run_data = assemble_run_data(config)
    save_run(config, run_data, tiny.store, tmp_path / "run")
    train_member(read_run(tmp_path / "run").task, 0, tmp_path / "away", device=CPU, report=quietly)
    train_members(config, run_data, tiny.store, tmp_path / "home", device=CPU, report=quietly)
    found = state(tmp_path / "away", config, 0)
    assert_same_state(found, state(tmp_path / "home", config, 0))
    shipped = load_file(tiny.folder / "model.safetensors")
    assert torch.equal(found["best.embedding.edges.weight"], shipped["network.embedding.edges.weight"])
    assert not torch.equal(found["best.head.values.weight"], shipped["network.head.values.weight"])


def test_a_start_of_another_size_is_refused(tiny: Published, tmp_path: Path) -> None:
    config = changed(start="tiny-bulk-modulus", network={"layers": 2, "channels": 16, "heads": 2, "groups": 4})
    with pytest.raises(ConfigError, match="1 layers of 16 channels"):
        save_run(config, assemble_run_data(config), tiny.store, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_another_configuration_is_refused(prepared: Prepared) -> None:
    other = prepared.config.model_copy(update={"seed": 5})
    with pytest.raises(ConfigError, match="another configuration"):
        load_run(other, prepared.folder)


def test_a_folder_that_is_written_again_is_replaced_and_anything_else_is_kept(
    prepared: Prepared, tmp_path: Path
) -> None:
    store, folder = ModelStore(tmp_path / "store"), tmp_path / "run"
    save_run(prepared.config, prepared.run_data, store, folder)
    other = prepared.config.model_copy(update={"seed": 5})
    save_run(other, prepared.run_data, store, folder)
    assert read_run(folder).task.seed == 5
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(ConfigError, match="neither empty nor a prepared folder"):
            save_run(prepared.config, prepared.run_data, store, taken)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("name", ["task.json", "scaled.bin", "train.rows.bin", "senders.bin", "index.json"])
def test_a_folder_that_was_damaged_on_its_way_is_refused(prepared: Prepared, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    save_run(prepared.config, prepared.run_data, ModelStore(tmp_path / "store"), folder)
    flip(folder / name)
    with pytest.raises(ConfigError, match="datasets prepare"):
        load_run(prepared.config, folder)
    (folder / name).unlink()
    with pytest.raises(ConfigError, match="datasets prepare"):
        load_run(prepared.config, folder)
