"""Targets that are classes: from the column of a data set to a published version, its answers and its figures."""

import csv
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from msgspec import msgpack
from pydantic import TypeAdapter
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss
from typer.testing import CliRunner

from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.commands.main import app
from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.nn.batch import collate
from deepergatgnn.nn.crystal_model import NetworkOutput
from deepergatgnn.predictor import Predictor
from deepergatgnn.service.messages import InferenceReply, InferenceRequest, UnreadableError
from deepergatgnn.service.prediction.pipeline import PredictionInput, _prediction
from deepergatgnn.service.schemas import SALT, PropertyPrediction
from deepergatgnn.service.worker.engine import Engine
from deepergatgnn.training.config.optimization import OptimizationConfig
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.catalogue import Row, read_dataset
from deepergatgnn.training.data.readers.json_lines import lines_of
from deepergatgnn.training.data.row_counts import row_counts
from deepergatgnn.training.data.run_data import FEWEST, RunData, assemble_run_data
from deepergatgnn.training.evaluation.classification import brier, class_errors, fit_temperature, log_loss, roc_auc
from deepergatgnn.training.experiments.cross_validation import cross_validate
from deepergatgnn.training.experiments.run import run
from deepergatgnn.training.experiments.tasks import load_run, save_run
from deepergatgnn.training.fit.loop import _losses
from deepergatgnn.training.publication.card import read_header, render_card
from deepergatgnn.uncertainty.probabilities import class_probabilities, likeliest
from tests.support.cross_validated import single_thread
from tests.support.fixtures import bundled, some_crystals, some_rows
from tests.support.parsing import parse

CPU = torch.device("cpu")
SYSTEMS = ("hexagonal", "tetragonal", "cubic")
LAST = {2: "triclinic", 15: "monoclinic", 74: "orthorhombic", 142: "tetragonal", 167: "trigonal", 194: "hexagonal"}
CUBIC = {"model": "cubic-or-not", "key": "cubic", "kind": "classification"}
SYSTEM = {"model": "crystal-system", "key": "system", "kind": "classification", "classes": list(SYSTEMS)}
MODULUS = {"model": "modulus", "key": "log10_K_VRH", "unit": "log10(GPa)"}
EXAMPLE = Path(__file__).parents[3] / "examples" / "ZrO2.cif"


def system_of(row: Row) -> str:
    return next((name for last, name in LAST.items() if row.fields["space_group"] <= last), "cubic")


def labelled(row: Row) -> Row:
    """A crystal of the bundled set with its crystal system, from the space group that the set gives."""
    system = system_of(row)
    named = {"cubic": system == "cubic", "system": system, "of_seven": [*LAST.values(), "cubic"].index(system)}
    return replace(row, targets=row.targets | named)


def configuration(data: Path, *targets: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "classes",
        "data": str(data),
        "targets": list(targets),
        "split": {"test_fraction": 0.2, "validation_fraction": 0.1, "calibration_fraction": 0.15},
        "graph": {"angles": 0},
        "network": {"layers": 2, "channels": 16, "heads": 2, "groups": 4},
        "optimization": {"epochs": 10, "batch_size": 16, "learning_rate": 1e-2},
    } | changes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelled") / "labelled.jsonl"
    path.write_bytes(b"".join(lines_of(map(labelled, some_rows(240)))))
    return path


@dataclass(frozen=True)
class Trained:
    """Two members that learned classes, found and listed, and a number at once."""

    config: TrainingConfig
    run_data: RunData
    store: ModelStore
    runs: Path
    manifests: list[Manifest]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    config = TrainingConfig.model_validate(configuration(data, CUBIC, SYSTEM, MODULUS, members=2))
    store, runs = ModelStore(folder / "store"), folder / "runs"
    with single_thread():
        manifests = run(config, store, runs, device=CPU, report=lambda _: None, plots=False)
    return Trained(config, assemble_run_data(config), store, runs, manifests)


def test_classes_are_those_of_the_data_or_of_the_configuration(trained: Trained, data: Path) -> None:
    run_data = trained.run_data
    assert run_data.classes == (("false", "true"), SYSTEMS, ())
    assert run_data.outputs == (2, 3, 1)
    rows = {row.id: row for row in map(labelled, bundled().rows)}
    for place, row_id in enumerate(run_data.dataset.ids):
        row, truth = rows[row_id], run_data.truth[place]
        assert truth[0] == row.targets["cubic"]
        system = row.targets["system"]
        assert truth[1] == SYSTEMS.index(system) if system in SYSTEMS else math.isnan(truth[1])
        assert truth[2] == row.targets["log10_K_VRH"]
    groups = row_counts(run_data.dataset, run_data.split, trained.config.targets)
    [without] = [group for group in groups if group.name == "without a class for system"]
    assert without.count == int(np.isnan(run_data.truth[:, 1]).sum()) > 0
    whole = TrainingConfig.model_validate(configuration(data, CUBIC | {"key": "of_seven", "classes": [6, 5]}))
    assert assemble_run_data(whole).classes == (("6", "5"),)


@pytest.mark.parametrize("name", ["labels.csv", "id_prop.csv"])
def test_words_in_a_table_are_classes(tmp_path: Path, name: str) -> None:
    rows = some_rows(6)
    lines = ["id,system,structure"] if name == "labels.csv" else []
    for row in rows:
        (tmp_path / f"{row.id}.vasp").write_text(SALT)
        path = f",{row.id}.vasp" if name == "labels.csv" else ""
        lines.append(f"{row.id},{system_of(row)}{path}")
    (tmp_path / name).write_text("\n".join(lines))
    found = read_dataset(str(tmp_path / name if name == "labels.csv" else tmp_path))
    assert not found.refused
    [key] = {key for row in found.rows for key, value in row.fields.items() if value == system_of(rows[0])}
    assert [row.fields[key] for row in found.rows] == [system_of(row) for row in rows]


def test_a_version_gives_calibrated_probabilities(trained: Trained) -> None:
    crystals = some_crystals(12)
    for manifest, classes in zip(trained.manifests, (("false", "true"), SYSTEMS), strict=False):
        assert trained.store.verify(manifest.name) == manifest
        assert manifest.target.classes == classes
        assert (manifest.target.unit, manifest.calibration.method) == ("probability", "temperature")
        assert manifest.network.targets == len(classes)
        predictor = Predictor.load(trained.store.folder(manifest.name))
        predictor.check_golden()
        for answer in predictor.predict_structures(crystals):
            assert answer.probabilities is not None
            assert tuple(answer.probabilities) == classes
            assert sum(answer.probabilities.values()) == pytest.approx(1)
            numbers = list(answer.probabilities.values())
            assert answer.value == (numbers[1] if len(numbers) == 2 else max(numbers))
            assert (answer.low, answer.high, answer.intervals) == (None, None, {})
            assert answer.attention.sum() == pytest.approx(1, abs=1e-5)
        [one] = predictor.predict_structures(crystals[3:4])
        assert one.value == pytest.approx(predictor.predict_structures(crystals)[3].value, abs=1e-5)


def test_an_ensemble_averages_probabilities(trained: Trained) -> None:
    predictor = Predictor.load(trained.store.folder("crystal-system"))
    crystal = some_crystals(2)[1]
    graphs = [trained.run_data.dataset.graphs[row] for row in trained.run_data.split.test[:5]]
    temperature = predictor.manifest.calibration.temperature
    with torch.inference_mode():
        members = [(net(collate(graphs)).values.double() / temperature).softmax(dim=1) for net in predictor.networks]
    found = [list((each.probabilities or {}).values()) for each in predictor.predict_graphs(graphs)]
    np.testing.assert_allclose(found, torch.stack(members).mean(dim=0).numpy(), atol=1e-6)
    assert predictor.predict_structure(crystal).probabilities is not None


def test_a_number_learned_beside_classes_is_published_as_ever(trained: Trained) -> None:
    manifest = trained.manifests[2]
    assert manifest.target.classes == ()
    assert "classes" not in manifest.model_dump()["target"]
    assert "temperature" not in manifest.model_dump()["calibration"]
    answer = Predictor.load(trained.store.folder("modulus")).predict_structure(some_crystals(2)[1])
    assert answer.probabilities is None
    assert answer.low is not None
    assert {"mae", "coverage_90"} <= manifest.metrics["test"].keys()


def test_figures_of_the_test_part_are_those_of_sklearn(trained: Trained) -> None:
    for index, manifest in enumerate(trained.manifests[:2]):
        path = trained.runs / "classes" / f"predictions-{manifest.name}.csv"
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        classes = manifest.target.classes
        assert list(rows[0]) == ["id", "true", "predicted", *(f"probability_{name}" for name in classes), "in_domain"]
        probabilities = np.array([[float(row[f"probability_{name}"]) for name in classes] for row in rows])
        codes = np.array([classes.index(row["true"]) for row in rows])
        test = manifest.metrics["test"]
        assert test["n"] == len(rows) > 0
        known = trained.run_data.truth[trained.run_data.split.test, index]
        assert codes.tolist() == known[np.isfinite(known)].tolist()
        assert test["accuracy"] == np.mean([row["true"] == row["predicted"] for row in rows])
        assert test["log_loss"] == pytest.approx(sklearn_log_loss(codes, probabilities, labels=range(len(classes))))
        of_one = len(classes) == 2
        area = roc_auc_score(codes, probabilities[:, 1] if of_one else probabilities, multi_class="ovr")
        assert test["roc_auc"] == pytest.approx(area)
        assert test["brier"] == pytest.approx(brier_score_loss(codes, probabilities, scale_by_half=of_one))
        assert test["baseline_accuracy"] == np.bincount(codes).max() / len(codes)


def test_the_network_learned_which_crystals_are_cubic(trained: Trained) -> None:
    test = trained.manifests[0].metrics["test"]
    assert test["roc_auc"] > 0.7
    assert test["log_loss"] < test["baseline_log_loss"]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_figures_against_sklearn_with_equal_scores(classes: int) -> None:
    generator = np.random.default_rng(classes)
    probabilities = np.round(generator.dirichlet(np.ones(classes), 200), 1) + 0.01
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    codes = generator.integers(0, classes, 200).astype(np.float64)
    scores = probabilities[:, 1] if classes == 2 else probabilities
    assert roc_auc(probabilities, codes) == pytest.approx(roc_auc_score(codes, scores, multi_class="ovr"))
    assert log_loss(probabilities, codes) == pytest.approx(sklearn_log_loss(codes, probabilities))
    expected = brier_score_loss(codes, probabilities, scale_by_half=classes == 2)
    assert brier(probabilities, codes) == pytest.approx(expected)
    assert math.isnan(roc_auc(probabilities, np.zeros(200)))


def test_a_temperature_undoes_what_made_the_networks_too_sure() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(1, 4000, 3)) * 2
    honest = class_probabilities(logits, 1.0)
    codes = np.array([generator.choice(3, p=row) for row in honest], dtype=np.float64)
    found = fit_temperature(3 * logits, codes)
    assert found.temperature == pytest.approx(3, rel=0.1)
    before, after = (class_errors(class_probabilities(3 * logits, t), codes) for t in (1.0, found.temperature or 0))
    assert after["log_loss"] < before["log_loss"]
    assert after["calibration_error"] < 0.03 < before["calibration_error"]
    assert after["accuracy"] == before["accuracy"]
    for other in (0.97, 1.03):
        assert log_loss(class_probabilities(3 * logits, other * (found.temperature or 0)), codes) > after["log_loss"]


def test_too_few_crystals_leave_the_probabilities_as_they_are() -> None:
    few = fit_temperature(np.full((1, FEWEST - 1, 2), 5.0), np.zeros(FEWEST - 1))
    assert (few.temperature, few.n) == (1.0, FEWEST - 1)


def test_the_loss_of_classes_is_the_cross_entropy_and_numbers_keep_theirs() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 4, generator=generator, requires_grad=True)
    numbers, codes = torch.randn(5, 1, generator=generator), torch.tensor([0, 2, 1, 0, 2])
    hot = torch.nn.functional.one_hot(codes, 3).float()
    hot[4] = math.nan
    output = NetworkOutput(values, torch.ones(1), torch.ones(5, 1), torch.zeros(5, 4))
    weights = torch.tensor([0.5, 1.0])
    config = OptimizationConfig(loss="l1")
    loss, spread = _losses(output, torch.cat([hot, numbers], dim=1), weights, config, (3, 1))
    entropy = torch.nn.functional.cross_entropy(values[:4, :3], codes[:4], reduction="sum")
    off = (values[:, 3:] - numbers).abs().sum()
    total = 4 * 0.5 + 5
    assert loss.item() == pytest.approx(((0.5 * entropy + off) / total).item())
    assert spread.item() == pytest.approx((off / total).item())
    [gradient] = torch.autograd.grad(loss, values)
    assert not gradient[4, :3].any()


def test_probabilities_reach_the_answer_through_the_message(trained: Trained) -> None:
    store = trained.store
    version = store.version("cubic-or-not")
    parsed = parse(EXAMPLE.read_bytes(), "auto", [version.manifest.graph])
    engine = Engine(store, CPU, "test")
    entry = InferenceRequest(
        id="e",
        reply_to="api",
        models=(version.identity,),
        deadline=time.time() + 60,
        packed=parsed.graphs[0].content,
    )
    content = engine.answer([entry]).replies[0].pack()
    [answer] = InferenceReply.unpack(content).predictions
    local = Predictor.load(store.folder("cubic-or-not")).predict_structure(EXAMPLE)
    assert answer.probabilities == pytest.approx(local.probabilities)
    posted = PredictionInput(b"", "auto", (), attention=True, embedding=False, id=None)
    document = _prediction(version.manifest, answer, parsed, posted)
    checked = TypeAdapter(PropertyPrediction).validate_python(document, strict=True)
    assert (checked["value"], checked["unit"], checked["interval"]) == (answer.value, "probability", None)
    assert checked["probabilities"] == answer.probabilities
    for bad in ([0.5, 0.5], {"a": "0.5", "b": 0.5}, {"a": 0.5, "b": None}, {"a": 1.5, "b": 0.5}, {"a": 1}, 0.5, "ab"):
        message = msgpack.decode(content)
        message[1][0][-1] = bad
        with pytest.raises(UnreadableError):
            InferenceReply.unpack(msgpack.encode(message))


def test_the_card_says_how_good_and_how_honest_the_classes_are(trained: Trained) -> None:
    for manifest in trained.manifests[:2]:
        card = render_card(manifest)
        header = read_header(card)
        assert header.classes == manifest.target.classes
        assert header.test["roc_auc"] == pytest.approx(manifest.metrics["test"]["roc_auc"], rel=1e-5)
        for words in ("ROC AUC", "Brier score", "log loss", "baseline accuracy", "expected calibration error"):
            assert words in card
        for words in ("MAE", "R²", "90 %"):
            assert words not in card
        assert f"a temperature of {manifest.calibration.temperature:.4g}" in card
    assert "classes" not in render_card(trained.manifests[2]).partition("---\n\n")[0]


def test_a_second_run_publishes_nothing_new_and_a_prepared_folder_trains_the_same(
    trained: Trained, tmp_path: Path
) -> None:
    again = run(trained.config, trained.store, trained.runs, device=CPU, report=lambda _: None, plots=False)
    assert again == trained.manifests
    save_run(trained.config, trained.run_data, trained.store, tmp_path / "prepared")
    loaded = load_run(trained.config, tmp_path / "prepared")
    assert loaded.classes == trained.run_data.classes
    np.testing.assert_array_equal(loaded.truth, trained.run_data.truth)
    np.testing.assert_array_equal(loaded.scaled, trained.run_data.scaled)


def test_commands_train_evaluate_and_predict_classes(data: Path, tmp_path: Path) -> None:
    document = configuration(data, CUBIC, name="one", optimization={"epochs": 1})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document), "utf-8")
    store = ["--store", str(tmp_path / "store"), "--device", "cpu"]
    done = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml"), "--runs", str(tmp_path / "runs"), *store])
    assert done.exit_code == 0, done.output
    assert "test accuracy" in done.stdout
    assert "validation log loss" in done.stderr
    assert (ModelStore(tmp_path / "store").folder("cubic-or-not") / "learning-curve.png").exists()
    done = CliRunner().invoke(app, ["evaluate", "cubic-or-not", str(data), "--json", *store])
    found = json.loads(done.stdout)
    assert [found[name] for name in ("mae", "rmse", "r2", "coverage_90", "mean_width_90")] == [None] * 5
    assert found["n"] == 240
    assert 0 <= found["accuracy"] <= 1
    assert min(found["roc_auc"], found["log_loss"], found["brier"]) > 0
    assert (
        "probability of the likeliest class"
        in CliRunner().invoke(app, ["evaluate", "cubic-or-not", str(data), *store]).stdout
    )
    predicted = CliRunner().invoke(app, ["predict", str(EXAMPLE), "--json", *store])
    [prediction] = json.loads(predicted.stdout)[0]["predictions"]
    assert prediction["interval"] is None
    assert prediction["value"] == prediction["probabilities"]["true"]
    text = CliRunner().invoke(app, ["predict", str(EXAMPLE), *store]).stdout
    assert f"cubic {likeliest(prediction['probabilities'])}, probability " in text
    listed = CliRunner().invoke(app, ["models", "list", *store[:2]]).stdout
    assert "test accuracy" in listed
    compared = CliRunner().invoke(app, ["compare", "cubic-or-not", "--dataset", str(data), "--json", *store])
    assert json.loads(compared.stdout)[0]["scored_accuracy"] == found["accuracy"]


def test_a_cross_validation_has_the_figures_of_classes(data: Path, tmp_path: Path) -> None:
    split = {"folds": 2, "validation_fraction": 0.1, "calibration_fraction": 0.1}
    document = configuration(data, CUBIC, name="folds", split=split, optimization={"epochs": 1})
    config = TrainingConfig.model_validate(document)
    found = cross_validate(config, ModelStore(tmp_path / "store"), tmp_path, device=CPU, report=lambda _: None)
    [target] = found["targets"]
    assert {"accuracy", "roc_auc", "log_loss", "brier"} == target["mean"].keys()
    assert target["mean"]["accuracy"] == np.mean([fold["accuracy"] for fold in target["folds"]])


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ({"kind": "classification", "transform": "log10"}, "no transform"),
        ({"kind": "classification", "unit": "eV"}, "unit of classes"),
        ({"kind": "classification", "classes": ["a"]}, "at least two"),
        ({"kind": "classification", "classes": ["true", True]}, "differ"),
        ({"kind": "classification", "classes": [1.5, 2]}, "classes"),
        ({"kind": "classification", "classes": list(range(51))}, "50"),
        ({"classes": ["a", "b"], "unit": "eV"}, "kind: classification"),
        ({"kind": "classes", "unit": "eV"}, "classification"),
    ],
)
def test_a_target_of_classes_that_makes_no_sense_is_refused(target: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TrainingConfig.model_validate({"name": "a", "data": "b", "targets": [{"model": "m", "key": "k"} | target]})


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ({"key": "elastic_anisotropy"}, "classes"),
        ({"key": "nothing"}, "0 classes"),
        ({"key": "system", "classes": ["a", "b"]}, "a, b"),
        ({"key": "system", "classes": ["cubic", "icosahedral"]}, "class icosahedral"),
    ],
)
def test_a_column_without_such_classes_is_refused_before_training(
    data: Path, target: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        assemble_run_data(TrainingConfig.model_validate(configuration(data, CUBIC | target)))


def test_a_manifest_whose_parts_do_not_fit_is_refused(trained: Trained) -> None:
    document = trained.manifests[0].model_dump()
    for change in (
        {"target": document["target"] | {"classes": ("a", "b", "c")}},
        {"target": document["target"] | {"classes": ("a", "a")}},
        {"target": document["target"] | {"classes": ()}},
        {"calibration": {"n": 30, "temperature": 2.0}},
        {"calibration": {"n": 30, "method": "temperature"}},
        {"calibration": {"n": 30}},
    ):
        with pytest.raises(ValueError, match="validation error"):
            Manifest.model_validate(document | change)
