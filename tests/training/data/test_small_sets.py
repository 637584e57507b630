"""Sets of too few crystals for a 90 % interval: none is given, and everything says so, or members make one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from deepergatgnn.checkpoints.manifest import LEVELS, Manifest
from deepergatgnn.commands.main import app
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.service.messages import InferenceReply
from deepergatgnn.service.prediction.answers import missing_intervals
from deepergatgnn.service.prediction.pipeline import PredictionInput, _prediction
from deepergatgnn.service.worker.engine import _model_output
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.run_data import assemble_run_data, interval_sentences
from deepergatgnn.training.data.splits import PARTS
from deepergatgnn.training.experiments.run import run
from deepergatgnn.training.experiments.tasks import load_run, save_run
from deepergatgnn.training.fit.loop import outputs
from tests.support.fixtures import some_crystals
from tests.support.parsing import parse
from tests.training.data.test_catalogue import real_documents, written
from tests.training.experiments.test_run import changed

CPU = torch.device("cpu")
FEW = {"test_fraction": 0.3, "validation_fraction": 0.2, "calibration_rows": 4}


def small(tmp_path: Path, **changes: Any) -> TrainingConfig:
    return changed(data=str(written(tmp_path, real_documents(40))), split=FEW, **changes)


def published(config: TrainingConfig, folder: Path, **options: Any) -> tuple[Manifest, ModelStore]:
    store = ModelStore(folder / "store")
    [manifest] = run(config, store, folder / "runs", device=CPU, report=lambda _: None, **options)
    return manifest, store


def test_four_calibration_crystals_give_no_interval_and_card_answer_and_log_say_so(tmp_path: Path) -> None:
    config = small(tmp_path)
    [sentence] = interval_sentences(assemble_run_data(config), config.targets)
    assert "no 90 % interval: it takes 9 calibration crystals, there are 4" in sentence
    manifest, store = published(config, tmp_path)
    assert manifest.calibration.levels == ("0.5", "0.8")
    assert "coverage_80" in manifest.metrics["test"]
    assert "coverage_90" not in manifest.metrics["test"]
    card = (store.folder(manifest.name) / "card.md").read_text("utf-8")
    assert "There is no 90 % interval: 4 calibration crystals cannot promise it, which takes 9." in card
    assert "There is no 95 % interval" in card
    assert "There is no 80 % interval" not in card
    [prediction] = Predictor.load(store.folder(manifest.name)).predict_structures(some_crystals(1))
    assert (prediction.low, prediction.high) == (None, None)
    assert list(prediction.intervals) == ["0.5", "0.8"]

    answer = InferenceReply.unpack(
        InferenceReply("1", (_model_output(manifest.reference, prediction),)).pack()
    ).predictions[0]
    posted = PredictionInput(b"", "cif", (), attention=False, embedding=False, id=None)
    parsed = parse((Path(__file__).parents[3] / "examples" / "ZrO2.cif").read_bytes(), "cif", [manifest.graph])
    document = _prediction(manifest, answer, parsed, posted)
    assert document["interval"] is None
    [warning] = missing_intervals([manifest])
    assert warning.startswith(f"{manifest.reference} gives no 90 % interval: 4 calibration crystals")


def test_a_finished_small_run_is_scored_and_predicts_on_the_command_line(tmp_path: Path) -> None:
    config = small(tmp_path)
    manifest, _ = published(config, tmp_path, plots=False)
    store = ["--store", str(tmp_path / "store")]
    scored = CliRunner().invoke(app, ["evaluate", manifest.name, config.data, *store], catch_exceptions=False)
    assert scored.exit_code == 0
    file = Path(__file__).parents[3] / "examples" / "ZrO2.cif"
    predicted = CliRunner().invoke(app, ["predict", str(file), *store], catch_exceptions=False)
    assert predicted.exit_code == 0
    assert "no 90 % interval" in predicted.stdout


def test_an_ensemble_of_a_small_set_is_calibrated_on_each_others_folds(tmp_path: Path) -> None:
    config = small(tmp_path, members=3)
    run_data = assemble_run_data(config)
    assert len(run_data.split.calibration) == 0
    assert sorted(np.concatenate(run_data.folds)) == run_data.split.train.tolist()
    manifest, store = published(config, tmp_path)
    assert manifest.calibration.method == "cv+"
    assert manifest.calibration.n == len(run_data.split.train)
    assert [len(fold) for fold in manifest.calibration.residuals] == [len(fold) for fold in run_data.folds]
    predictor = Predictor.load(store.folder(manifest.name))
    # The residuals are those of the member that did not learn from the crystal.
    for member, fold in enumerate(run_data.folds):
        graphs = [run_data.dataset.graphs[row] for row in fold]
        said = outputs(predictor.networks[member], graphs, CPU).values[:, 0].numpy()
        off = np.abs(said - run_data.scaled[fold, 0])
        np.testing.assert_allclose(off, manifest.calibration.residuals[member], atol=1e-5)
    for answer in predictor.predict_structures(some_crystals(3)):
        assert list(answer.intervals) == list(manifest.calibration.levels) == list(LEVELS)
        assert answer.low is not None
        assert answer.high is not None
        assert answer.low < answer.value < answer.high
    card = (store.folder(manifest.name) / "card.md").read_text("utf-8")
    assert "CV+" in card
    assert f"the residuals of {manifest.calibration.n} crystals" in card


def test_a_prepared_folder_trains_the_same_folds(tmp_path: Path) -> None:
    config = small(tmp_path, members=2)
    run_data, store = assemble_run_data(config), ModelStore(tmp_path / "store")
    save_run(config, run_data, store, tmp_path / "prepared")
    loaded = load_run(config, tmp_path / "prepared")
    assert [fold.tolist() for fold in loaded.folds] == [fold.tolist() for fold in run_data.folds]
    one, _ = published(config, tmp_path / "one", plots=False, prepared=tmp_path / "prepared")
    other, _ = published(config, tmp_path / "other", plots=False)
    assert one.files["model.safetensors"] == other.files["model.safetensors"]
    assert one.calibration == other.calibration


@pytest.mark.parametrize("rows", [60, 100, 300])
def test_without_a_fraction_small_sets_calibrate_a_90_percent_interval(tmp_path: Path, rows: int) -> None:
    split = assemble_run_data(changed(data=str(written(tmp_path, real_documents(rows))), split={})).split
    assert len(split.calibration) >= 9
    assert all(len(getattr(split, part)) for part in PARTS)
    assert len(split.train) > rows / 2
