"""A whole run, from the YAML's content to published versions."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.element_features import element_symbol
from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.nn.batch import collate
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.cache import prepared_dataset
from deepergatgnn.training.data.splits import split_rows
from deepergatgnn.training.experiments.run import run
from deepergatgnn.training.fit.checkpoint import STATE
from deepergatgnn.training.publication.card import render_card
from tests.support.fixtures import BUNDLED, TINY, Published, bundled, graphs_of, some_crystals
from tests.training.data.test_catalogue import real_documents, written

CPU = torch.device("cpu")


def changed(**changes: Any) -> TrainingConfig:
    document = TINY.model_dump(mode="json")
    del document["network"]["targets"]
    return TrainingConfig.model_validate(document | changes)


@dataclass(frozen=True)
class Joint:
    """Two targets learned by one network and published as two versions."""

    store: ModelStore
    manifests: list[Manifest]
    network: CrystalModel


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Joint:
    folder = tmp_path_factory.mktemp("joint")
    config = changed(
        name="joint",
        targets=[
            {"model": "bulk", "key": "log10_K_VRH", "property": "log10_k_vrh", "unit": "log10(GPa)"},
            {"model": "shear", "key": "log10_G_VRH", "unit": "log10(GPa)", "weight": 0.5},
        ],
    )
    store = ModelStore(folder / "store")
    manifests = run(config, store, folder / "runs", device=CPU, report=lambda _: None)
    network = CrystalModel(config.network, config.graph)
    state = load_file(folder / "runs" / "joint" / "member-1" / STATE)
    network.load_state_dict({k.removeprefix("best."): v for k, v in state.items() if k.startswith("best.")})
    return Joint(store, manifests, network.eval())


def test_a_run_publishes_a_version_that_loads_and_is_in_production(tiny: Published) -> None:
    assert tiny.store.names() == ["tiny-bulk-modulus"]
    assert tiny.store.production("tiny-bulk-modulus") == "1.0.0"
    assert tiny.store.verify("tiny-bulk-modulus") == tiny.manifest
    assert len(Predictor.load(tiny.folder).predict_structures(some_crystals(3))) == 3


def test_two_targets_give_two_versions_with_the_columns_of_one_network(joint: Joint) -> None:
    assert [(m.name, m.version) for m in joint.manifests] == [("bulk", "1.0.0"), ("shear", "1.0.0")]
    assert [(m.target.property, m.target.key) for m in joint.manifests] == [
        ("log10_k_vrh", "log10_K_VRH"),
        ("log10_G_VRH", "log10_G_VRH"),
    ]
    graphs = graphs_of(some_crystals(20))
    with torch.inference_mode():
        columns = joint.network(collate(graphs)).values.double().numpy()
    for index, manifest in enumerate(joint.manifests):
        answers = Predictor.load(joint.store.folder(manifest.name)).predict_graphs(graphs)
        expected = columns[:, index] * manifest.scaler.std + manifest.scaler.mean
        np.testing.assert_allclose([answer.value for answer in answers], expected, rtol=1e-6)
        assert manifest.network.targets == 1


def test_the_part_of_a_network_for_one_target_shares_no_memory_with_it(joint: Joint) -> None:
    single = joint.network.single_target(1)
    with torch.no_grad():
        single.embedding.edges.weight.zero_()
    assert joint.network.embedding.edges.weight.any()
    assert torch.equal(single.head.values.weight[0], joint.network.head.values.weight[1])


def test_scaler_and_domain_know_the_training_part_only(tiny: Published) -> None:
    split = split_rows(prepared_dataset(BUNDLED, tiny.config.graph), tiny.config.split, tiny.config.seed)
    values = bundled().values(["log10_K_VRH"])[:, 0]
    assert tiny.manifest.scaler.mean == pytest.approx(values[split.train].mean())
    assert tiny.manifest.scaler.std == pytest.approx(values[split.train].std())
    assert tiny.manifest.provenance.rows == split.sizes()
    assert tiny.manifest.calibration.n == len(split.calibration)
    assert tiny.manifest.metrics["validation"]["n"] == len(split.validation)
    assert tiny.manifest.metrics["test"]["n"] == len(split.test)


def test_the_arrays_of_the_domain_score_whiten_the_training_part(tiny: Published) -> None:
    network, folder = Predictor.load(tiny.folder).networks[0], tiny.folder
    tensors = load_file(folder / "model.safetensors")
    split = split_rows(prepared_dataset(BUNDLED, tiny.config.graph), tiny.config.split, tiny.config.seed)
    with torch.inference_mode():
        vectors = network(collate(graphs_of([bundled().rows[row].crystal for row in split.train]))).crystal_vectors
    white = ((vectors - tensors["domain.mean"]) @ tensors["domain.whitening"]).double()
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(16, dtype=torch.float64), rtol=0, atol=1e-3)
    # Shrinkage takes from the directions that hardly vary; none is stretched beyond one.
    assert torch.linalg.eigvalsh(torch.cov(white.T)).max() < 1.01
    scores = [answer.domain.score for answer in Predictor.load(folder).predict_structures(
        [bundled().rows[row].crystal for row in split.calibration]
    )]  # fmt: skip
    assert np.mean(np.array(scores) > 1.0001) <= 0.02


def test_the_manifest_says_where_the_weights_come_from(tiny: Published) -> None:
    origin = tiny.manifest.provenance
    assert (origin.dataset, origin.dataset_sha256) == (BUNDLED, bundled().sha256)
    assert TrainingConfig.model_validate(origin.config) == tiny.config
    assert (origin.seed, origin.epochs, origin.best_epoch) == (0, 1, 1)
    assert origin.split["test_fraction"] == 0.2
    assert origin.split["formulas_shared_by_train_and_test"] >= 0
    assert origin.packages.keys() >= {"torch", "numpy", "deepergatgnn"}
    assert origin.command
    assert "/" not in origin.command.split()[0]
    assert origin.refused == {}


def test_refused_rows_and_missing_targets_are_counted_not_learned(tmp_path: Path) -> None:
    documents = real_documents(80)
    documents[3]["structure"]["species"][0] = "Xx"
    for document in documents[10:20]:
        document["targets"]["log10_K_VRH"] = None
    config = changed(
        data=str(written(tmp_path, documents)),
        split={"test_fraction": 0.3, "validation_fraction": 0.2, "calibration_fraction": 0.2},
    )
    [manifest] = run(
        config, ModelStore(tmp_path / "store"), tmp_path / "runs", device=CPU, report=lambda _: None, plots=False
    )
    assert manifest.provenance.refused == {"unknown_element": 1}
    left_out = manifest.provenance.split["rows_left_out"]  # of the training part, without a number
    assert 0 < left_out < 10
    assert sum(manifest.provenance.rows.values()) + left_out == 79
    assert manifest.metrics["test"]["n"] < manifest.provenance.rows["test"]
    assert "unknown_element 1" in (tmp_path / "store" / manifest.name / manifest.version / "card.md").read_text()


def test_the_same_configuration_gives_the_same_weights(tiny: Published, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    run(tiny.config, store, tmp_path / "runs", device=CPU, report=lambda _: None, plots=False)
    name = "model.safetensors"
    assert (store.folder("tiny-bulk-modulus") / name).read_bytes() == (tiny.folder / name).read_bytes()


def test_a_finished_run_started_again_is_published_already(tiny: Published, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    store.publish("tiny-bulk-modulus", "1.0.0", tiny.files())
    epochs: list[object] = []
    finished = Path(shutil.copytree(tiny.runs, tmp_path / "finished"))
    [manifest] = run(tiny.config, store, finished, device=CPU, report=epochs.append, plots=False)
    assert epochs == []
    assert manifest == tiny.manifest
    assert store.versions("tiny-bulk-modulus") == ["1.0.0"]
    # Trained anew to the same weights, it is the same version still.
    [manifest] = run(tiny.config, store, tmp_path / "runs", device=CPU, report=epochs.append, plots=False)
    assert manifest == tiny.manifest


def test_other_weights_of_the_same_configuration_are_another_version(tiny: Published, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    store.publish("tiny-bulk-modulus", "1.0.0", tiny.files())
    config = tiny.config.model_copy(update={"seed": 1})
    [manifest] = run(config, store, tmp_path / "runs", device=CPU, report=lambda _: None, plots=False)
    assert manifest.version == "1.1.0"
    assert store.production("tiny-bulk-modulus") == "1.0.0"


@pytest.mark.parametrize("key", ["log10_K", "elastic_tensor_GPa"])
def test_a_target_that_no_row_has_is_refused_before_training(tmp_path: Path, key: str) -> None:
    config = changed(targets=[{"model": "bulk", "key": key, "unit": "GPa"}])
    with pytest.raises(ConfigError, match=f"no number for target '{key}' of {BUNDLED}"):
        run(config, ModelStore(tmp_path / "store"), tmp_path / "runs", device=CPU, report=lambda _: None, plots=False)
    assert not list(tmp_path.iterdir())


def test_a_target_that_does_not_vary_is_refused_before_training(tmp_path: Path) -> None:
    documents = real_documents(40)
    for document in documents:
        document["targets"]["constant"] = 2.5
    config = changed(
        data=str(written(tmp_path, documents)), targets=[{"model": "bulk", "key": "constant", "unit": "GPa"}]
    )
    with pytest.raises(ConfigError, match="'constant' of mine is the same"):
        run(config, ModelStore(tmp_path / "store"), tmp_path / "runs", device=CPU, report=lambda _: None, plots=False)


def test_the_card_tells_people_what_the_manifest_tells_programs(tiny: Published) -> None:
    card, manifest = (tiny.folder / "card.md").read_text("utf-8"), tiny.manifest
    assert card == render_card(manifest)
    test, origin = manifest.metrics["test"], manifest.provenance
    for said in (
        f"# {manifest.name} {manifest.version}",
        "log10(GPa)",
        "de Jong et al.",
        "open data",
        bundled().sha256,
        f"train {origin.rows['train']}, validation {origin.rows['validation']}",
        "refused: none",
        "test_fraction 0.2",
        "seed 0",
        origin.command,
        f"| test | {test['n']:.0f} | {test['mae']:.4f} ± {test['mae_se']:.4f} | {test['rmse']:.4f} | {test['r2']:.4f}",
        f"| 90 % | {test['coverage_90']:.1%} ± ",
        f"The 90 % interval is {test['mean_width_90']:.4g} log10(GPa) wide on average",
        f"{manifest.parameters:,} parameters",
        " ".join(element_symbol(number) for number in manifest.domain.elements),
    ):
        assert said in card, said


def test_the_card_of_a_version_with_flagged_crystals_says_their_error(tiny: Published) -> None:
    metrics = dict(tiny.manifest.metrics)
    metrics["test"] = {k: v for k, v in metrics["test"].items() if not k.endswith("flagged_se")}
    metrics["test"] |= {"flagged": 3.0, "mae_flagged": 0.4321, "mae_unflagged": 0.1234}
    card = render_card(tiny.manifest.model_copy(update={"metrics": metrics}))
    assert "3 were flagged: MAE 0.4321 log10(GPa), against 0.1234 for the rest" in card
    metrics["test"] = {k: v for k, v in metrics["test"].items() if not k.endswith("flagged")}
    assert "None of the test part was flagged" in render_card(tiny.manifest.model_copy(update={"metrics": metrics}))


def test_the_manifest_on_disk_is_the_one_returned(tiny: Published) -> None:
    document = json.loads((tiny.folder / "manifest.json").read_text())
    assert Manifest.model_validate(document) == tiny.manifest
