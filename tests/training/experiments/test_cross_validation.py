"""Every fold trained once, with its own calibration; the same figures as a run of its own would have."""

import gzip
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from deepergatgnn.commands.main import app
from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.data.catalogue import BUNDLED
from deepergatgnn.training.data.matbench import official_folds, official_ids
from deepergatgnn.training.experiments.cross_validation import FIGURES, MATBENCH, RESULT, cross_validate
from deepergatgnn.training.experiments.fold_results import SUMMARY, cross_validated_figures
from deepergatgnn.training.experiments.run import run
from deepergatgnn.training.fit.loop import Epoch
from tests.conftest import COMMAND, ROOT
from tests.support.cross_validated import CPU, ROWS, Validated, configuration, document

pytestmark = pytest.mark.usefixtures("one_thread")


def without_seconds(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key != "seconds"}


def test_every_row_is_predicted_once_by_networks_that_did_not_see_it(validated: Validated) -> None:
    ids = [row["id"] for fold in range(3) for row in validated.predictions(f"fold-{fold}")]
    assert len(ids) == len(set(ids)) == ROWS
    assert len(validated.epochs) == 3 * 2
    for fold in range(3):
        result = json.loads((validated.runs / "small" / f"fold-{fold}" / RESULT).read_text("utf-8"))
        assert result["rows"]["test"] == len(validated.predictions(f"fold-{fold}")) == ROWS // 3
        assert sum(result["rows"].values()) == ROWS
        assert result["split"]["fold"] == fold
        assert result["split"]["formulas_shared_by_train_and_test"] >= 0


def test_mean_and_standard_deviation_are_those_of_the_predictions(validated: Validated) -> None:
    [target] = validated.summary["targets"]
    maes, rmses, coverages = [], [], []
    for fold in range(3):
        rows = validated.predictions(f"fold-{fold}")
        truth, value, low, high = (np.array([row[name] for row in rows]) for name in ("truth", "value", "low", "high"))
        maes.append(np.abs(truth - value).mean())
        rmses.append(np.sqrt(((truth - value) ** 2).mean()))
        coverages.append(((low <= truth) & (truth <= high)).mean())
        assert (low < value).all()
        assert (value < high).all()
    for name, figures in (("mae", maes), ("rmse", rmses), ("coverage_90", coverages)):
        assert target["mean"][name] == pytest.approx(np.mean(figures))
        assert target["std"][name] == pytest.approx(np.std(figures, ddof=1))
        assert [fold[name] for fold in target["folds"]] == pytest.approx(figures)
    assert target["mean"].keys() == target["std"].keys() == set(FIGURES)


def test_a_fold_is_what_a_run_of_its_own_would_be(validated: Validated, tmp_path: Path) -> None:
    split = validated.config.split.model_copy(update={"fold": 1})
    alone = validated.config.model_copy(update={"split": split})
    [manifest] = run(alone, ModelStore(tmp_path / "store"), tmp_path, device=CPU, report=lambda _: None, plots=False)
    fold = validated.summary["targets"][0]["folds"][1]
    assert {name: fold[name] for name in manifest.metrics["test"]} == manifest.metrics["test"]


def test_nothing_is_published(validated: Validated) -> None:
    assert validated.store.names() == []
    assert not validated.store.root.exists()


def test_a_finished_fold_is_never_trained_again(validated: Validated) -> None:
    written = (validated.runs / "small" / SUMMARY).read_bytes()
    epochs: list[Epoch] = []
    again = cross_validate(validated.config, validated.store, validated.runs, device=CPU, report=epochs.append)
    assert epochs == []
    assert again == validated.summary == json.loads(written)
    assert (validated.runs / "small" / SUMMARY).read_bytes() == written


def test_a_killed_cross_validation_goes_on_and_reaches_the_same_bits(validated: Validated, tmp_path: Path) -> None:
    config, runs = tmp_path / "config.yaml", tmp_path / "runs"
    config.write_text(yaml.safe_dump(document(validated.data)), "utf-8")
    command = [*COMMAND, "cross-validate", str(config), "--runs", str(runs), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("fold-1"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    finished = (runs / "small" / "fold-0" / RESULT).read_bytes()
    assert not (runs / "small" / "fold-2").exists()
    summary = cross_validate(validated.config, validated.store, runs, device=CPU, report=lambda _: None)
    assert (runs / "small" / "fold-0" / RESULT).read_bytes() == finished
    assert without_seconds(summary) == without_seconds(validated.summary)
    for fold in range(3):
        name = f"fold-{fold}/predictions-bulk.csv.gz"
        assert (runs / "small" / name).read_bytes() == (validated.runs / "small" / name).read_bytes()


def test_what_was_interrupted_within_a_fold_goes_on_from_its_epoch(validated: Validated, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop_in_the_second_fold(epoch: Epoch) -> None:
        seen.append(epoch.number)
        if len(seen) == 3:
            raise StopError

    seen: list[int] = []
    with pytest.raises(StopError):
        cross_validate(validated.config, validated.store, tmp_path, device=CPU, report=stop_in_the_second_fold)
    rest: list[Epoch] = []
    summary = cross_validate(validated.config, validated.store, tmp_path, device=CPU, report=rest.append)
    assert [epoch.number for epoch in rest] == [2, 1, 2]
    assert without_seconds(summary) == without_seconds(validated.summary)


def test_another_configuration_needs_another_name(validated: Validated, tmp_path: Path) -> None:
    config = configuration(validated.data, split={"folds": 2}, optimization={"epochs": 1})
    first: list[Epoch] = []
    cross_validate(config, validated.store, tmp_path, device=CPU, report=first.append)
    other = config.model_copy(update={"seed": 1})
    epochs: list[Epoch] = []
    with pytest.raises(ConfigError, match=r"seed 0 there, 1 here\), which is not overwritten"):
        cross_validate(other, validated.store, tmp_path, device=CPU, report=epochs.append)
    assert epochs == []
    renamed = other.model_copy(update={"name": "other"})
    cross_validate(renamed, validated.store, tmp_path, device=CPU, report=epochs.append)
    assert len(first) == len(epochs) == 2


def test_a_fold_without_its_predictions_is_not_finished(validated: Validated, tmp_path: Path) -> None:
    config = configuration(validated.data, split={"folds": 2}, optimization={"epochs": 1})
    summary = cross_validate(config, validated.store, tmp_path, device=CPU, report=lambda _: None)
    table = tmp_path / "small" / "fold-1" / "predictions-bulk.csv.gz"
    content = table.read_bytes()
    table.unlink()
    epochs: list[Epoch] = []
    again = cross_validate(config, validated.store, tmp_path, device=CPU, report=epochs.append)
    assert epochs == []  # its state is there
    assert table.read_bytes() == content
    assert without_seconds(again) == without_seconds(summary)


def test_a_later_run_carries_the_figures_on_its_card(validated: Validated) -> None:
    store = ModelStore(validated.runs / "later")
    later = validated.config.model_copy(update={"seed": 11})
    [manifest] = run(later, store, validated.runs, device=CPU, report=lambda _: None, plots=False)
    [target] = validated.summary["targets"]
    found = manifest.metrics["cross_validation"]
    assert found["folds"] == 3
    for name in FIGURES:
        assert (found[name], found[f"{name}_std"]) == (target["mean"][name], target["std"][name])
    card = (store.folder("bulk") / "card.md").read_text("utf-8")
    assert f"MAE {target['mean']['mae']:.4f} ± {target['std']['mae']:.4f}" in card


def test_figures_of_another_configuration_or_other_data_are_not_carried(validated: Validated, tmp_path: Path) -> None:
    sha256, folder = validated.summary["dataset_sha256"], validated.runs / "small"
    assert cross_validated_figures(validated.config, sha256, folder) != [{}]
    longer = configuration(validated.data, optimization={"epochs": 3, "batch_size": 16})
    assert cross_validated_figures(longer, sha256, folder) == [{}]
    assert cross_validated_figures(validated.config, "0" * 64, folder) == [{}]
    assert cross_validated_figures(validated.config, sha256, tmp_path) == [{}]


def test_a_whole_task_of_matbench_gives_its_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Crystals of the bundled set under the ids of the smallest task."""
    with gzip.open(BUNDLED / "elastic_tensor_2015.jsonl.gz", "rt", encoding="utf-8") as lines:
        documents = [json.loads(line) for line, _ in zip(lines, range(636), strict=False)]
    ids, folds = official_ids("matbench_jdft2d"), official_folds("matbench_jdft2d")
    for document_, row_id, fold in zip(documents, ids, folds, strict=True):
        document_ |= {"id": row_id, "mb_fold": fold}
        document_["targets"] = {"exfoliation_en": document_["targets"]["K_VRH_GPa"]}
    path = tmp_path / "matbench_jdft2d.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in documents), "utf-8")
    config = configuration(
        str(path),
        targets=[{"model": "exfoliation", "key": "exfoliation_en", "unit": "meV/atom"}],
        split={"test_field": "mb_fold", "test_fold": 0},
        optimization={"epochs": 1},
    )
    summary = cross_validate(config, ModelStore(tmp_path), tmp_path, device=CPU, report=lambda _: None)
    record = json.loads(gzip.decompress((tmp_path / "small" / MATBENCH).read_bytes()))
    results = record["tasks"]["matbench_jdft2d"]["results"]
    for fold, figures in enumerate(summary["targets"][0]["folds"]):
        assert results[f"fold_{fold}"]["scores"]["mae"] == pytest.approx(figures["mae"])
        assert results[f"fold_{fold}"]["scores"]["rmse"] == pytest.approx(figures["rmse"])
    assert not caplog.records
    # A part of the task is no result that Matbench takes.
    path.write_text("".join(json.dumps(each) + "\n" for each in documents[:400]), "utf-8")
    part = config.model_copy(update={"name": "part"})
    cross_validate(part, ModelStore(tmp_path), tmp_path, device=CPU, report=lambda _: None)
    assert not (tmp_path / "part" / MATBENCH).exists()
    assert "Matbench takes whole folds only" in caplog.text


def test_the_command_prints_a_table_of_folds(validated: Validated, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(document(validated.data)), "utf-8")
    arguments = ["cross-validate", str(config), "--runs", str(validated.runs), "--device", "cpu"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    [target] = validated.summary["targets"]
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert lines["mean"][0] == f"{target['mean']['mae']:.4f}"
    assert lines["std"][0] == f"{target['std']['mae']:.4f}"
    assert lines["fold-2"][:2] == ["30", f"{target['folds'][2]['mae']:.4f}"]
    assert f"MAE {target['mean']['mae']:.4f} ± {target['std']['mae']:.4f} log10(GPa)" in done.stdout
    assert "fold-0: split: train 36, validation 12, calibration 12, test 30; formulas shared by" in done.stderr
