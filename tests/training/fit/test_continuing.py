"""A run continued with more epochs or data, a version trained again: nothing is overwritten, everything is told."""

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from deepergatgnn.checkpoints.files import digest
from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.commands.main import app
from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.run_data import assemble_run_data
from deepergatgnn.training.experiments.run import run
from deepergatgnn.training.fit.checkpoint import STATE
from deepergatgnn.training.fit.start import starting_weights
from tests.training.data.test_catalogue import real_documents, written
from tests.training.experiments.test_run import changed

CPU = torch.device("cpu")
SPLIT = {"test_fraction": 0.25, "validation_fraction": 0.2, "calibration_fraction": 0.3}
COLUMNS = ["id", "true", "predicted", "low", "high", "in_domain"]


def configured(folder: Path, rows: int = 60, **changes: Any) -> TrainingConfig:
    folder.mkdir(exist_ok=True)
    return changed(**({"data": str(written(folder, real_documents(rows))), "split": SPLIT} | changes))


def trained(config: TrainingConfig, folder: Path) -> Manifest:
    [manifest] = run(
        config, ModelStore(folder / "store"), folder / "runs", device=CPU, report=lambda _: None, plots=False
    )
    return manifest


def command(config: TrainingConfig, folder: Path, *more: str) -> Result:
    document = config.model_dump(mode="json", exclude_defaults=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(document), "utf-8")
    places = ["--store", str(folder / "store"), "--runs", str(folder / "runs"), "--device", "cpu"]
    return CliRunner().invoke(app, ["train", str(folder / "run.yaml"), *places, *more])


@pytest.mark.parametrize("change", ["epochs", "data"])
def test_more_epochs_or_data_are_refused_under_the_same_name_and_continue_under_another(
    tmp_path: Path, change: str
) -> None:
    first = configured(tmp_path / "data")
    trained(first, tmp_path)
    state = tmp_path / "runs" / first.name / "member-1" / STATE
    content, best = state.read_bytes(), load_file(state)
    more = {"optimization": {"epochs": 2}} if change == "epochs" else {}
    second = configured(tmp_path / "more", 60 if change == "epochs" else 80, **more)
    with pytest.raises(
        ConfigError, match=r"epoch 1 of another .*not overwritten: to continue .*; to begin anew"
    ) as told:
        trained(second, tmp_path)
    assert ("optimization.epochs 1 there, 2 here" if change == "epochs" else "the content of the data") in str(
        told.value
    )
    assert state.read_bytes() == content
    run_folder = tmp_path / "runs" / first.name
    assert f"`start: {run_folder}`" in str(told.value)

    continued = second.model_copy(update={"name": "continued", "start": str(run_folder)})
    [weights] = starting_weights(continued, ModelStore(tmp_path / "store"))
    assert "head.values.weight" in weights
    assert all(torch.equal(value, best[f"best.{key}"]) for key, value in weights.items())
    manifest = trained(continued, tmp_path)
    assert state.read_bytes() == content
    start = manifest.provenance.start
    assert start is not None
    assert (start.reference, start.sha256) == (str(run_folder), digest(content))
    assert manifest.version == "1.1.0"


def test_a_run_without_a_state_is_no_start(tmp_path: Path) -> None:
    config = configured(tmp_path / "data", start=str(tmp_path / "runs" / "none"))
    with pytest.raises(ConfigError, match="holds no state of a run"):
        trained(config, tmp_path)


def test_a_card_names_its_start_and_the_test_rows_that_it_had_learned_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = configured(tmp_path / "data")
    one = trained(first, tmp_path)
    same = first.model_copy(update={"name": "same", "start": one.reference})
    manifest = trained(same, tmp_path)
    start = manifest.provenance.start
    assert start is not None
    assert start.reference == one.reference
    folder = tmp_path / "store" / one.name
    assert start.sha256 == digest((folder / one.version / "manifest.json").read_bytes())
    assert start.test_rows == 0
    assert "their errors will be too small" not in caplog.text

    other = first.model_copy(update={"name": "other", "start": one.reference, "seed": 1})
    learned = set(assemble_run_data(first).split.train.tolist())
    shared = [row for row in assemble_run_data(other).split.test.tolist() if row in learned]
    assert shared
    manifest = trained(other, tmp_path)
    start = manifest.provenance.start
    assert start is not None
    assert start.test_rows == len(shared)
    assert start.test_formulas is not None
    assert start.test_formulas >= len(shared)
    assert (
        f"has learned from {len(shared)} of the {len(assemble_run_data(other).split.test)} rows of this test part"
        in caplog.text
    )
    card = (folder / manifest.version / "card.md").read_text("utf-8")
    assert f"The weights began as those of {one.reference} (sha256 {start.sha256})" in card
    assert f"it had learned from {len(shared)} crystals" in card

    # What the start of the start had learned from counts too.
    third = trained(first.model_copy(update={"name": "third", "start": manifest.reference}), tmp_path)
    assert third.provenance.start is not None
    assert third.provenance.start.test_rows


def test_where_the_data_of_a_start_are_gone_the_overlap_is_not_known(tmp_path: Path) -> None:
    first = configured(tmp_path / "data")
    one = trained(first, tmp_path)
    other = configured(tmp_path / "elsewhere", name="other", start=one.reference)
    shutil.rmtree(tmp_path / "data")
    manifest = trained(other, tmp_path)
    assert manifest.provenance.start is not None
    assert manifest.provenance.start.test_rows is None
    card = (tmp_path / "store" / one.name / manifest.version / "card.md").read_text("utf-8")
    assert "is not known" in card


def test_a_second_version_says_what_is_in_production_and_how_to_promote_it(tmp_path: Path) -> None:
    first = configured(tmp_path / "data")
    done = command(first, tmp_path)
    assert done.exit_code == 0
    assert "promote" not in done.stdout
    again = command(first, tmp_path)
    assert again.exit_code == 0
    name = first.targets[0].model
    assert f"already published as {name}@1.0.0" in again.stdout
    second = first.model_copy(update={"name": "second", "seed": 1})
    done = command(second, tmp_path)
    promote = f"deepergatgnn models promote {name}@1.1.0 --store {tmp_path / 'store'}"
    assert f"{name}: in production stays 1.0.0; to serve this one: {promote}" in done.stdout
    [document] = json.loads(command(second, tmp_path, "--json").stdout)
    assert (document["version"], document["published"], document["production"]) == ("1.1.0", False, "1.0.0")
    assert CliRunner().invoke(app, promote.split()[1:]).exit_code == 0
    assert ModelStore(tmp_path / "store").versions(name) == ["1.0.0", "1.1.0"]
    assert "promote" not in command(second, tmp_path).stdout


def read_lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        return list(reader)


def assert_figures(lines: Sequence[dict[str, str]], figures: dict[str, float]) -> None:
    off = [abs(float(line["true"]) - float(line["predicted"])) for line in lines]
    assert len(off) == figures["n"]
    assert sum(off) / len(off) == pytest.approx(figures["mae"])
    inside = [float(line["low"]) <= float(line["true"]) <= float(line["high"]) for line in lines]
    assert sum(inside) / len(inside) == pytest.approx(figures["coverage_90"])
    assert sum(line["in_domain"] == "false" for line in lines) == figures["flagged"]


def test_test_predictions_lie_beside_the_run_row_by_row(tmp_path: Path) -> None:
    config = configured(tmp_path / "data")
    manifest, assembly = trained(config, tmp_path), assemble_run_data(config)
    file = tmp_path / "runs" / config.name / "predictions.csv"
    lines = read_lines(file)
    assert [line["id"] for line in lines] == [assembly.dataset.ids[row] for row in assembly.split.test]
    assert_figures(lines, manifest.metrics["test"])
    content = file.read_text("utf-8")
    file.unlink()
    trained(config, tmp_path)
    assert file.read_text("utf-8") == content


def test_evaluate_writes_its_predictions_row_by_row(tmp_path: Path) -> None:
    config = configured(tmp_path / "data")
    manifest, out = trained(config, tmp_path), tmp_path / "deep" / "predictions.csv"
    arguments = [
        "evaluate",
        manifest.name,
        config.data,
        "--store",
        str(tmp_path / "store"),
        "--device",
        "cpu",
        "--json",
    ]
    done = CliRunner().invoke(app, [*arguments, "--predictions", str(out)], catch_exceptions=False)
    assert_figures(read_lines(out), json.loads(done.stdout))


@pytest.mark.parametrize("place", ["runs", "store"])
def test_a_place_that_cannot_be_written_is_refused_before_training(tmp_path: Path, place: str) -> None:
    config = configured(tmp_path / "data")
    (tmp_path / place).write_text("a file", "utf-8")
    with pytest.raises(ConfigError, match=f"{place} cannot be written: .*{place} is not a folder; name another one"):
        trained(config, tmp_path)


def test_a_full_store_keeps_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path / "data")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ModelStore, "publish", full)
        done = command(config, tmp_path)
    assert type(done.exception).__name__ == "TrainingError"
    assert "No space left on device; the trained state is kept" in str(done.exception)
    assert command(config, tmp_path).exit_code == 0
