"""A network of other parts, from its YAML file to answers: trained, published, verified, loaded, fine-tuned."""

from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import yaml

from deepergatgnn.checkpoints.files import CARD
from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.checkpoints.weights import load_artifact
from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.config.run import TrainingConfig, completed, read_config
from deepergatgnn.training.experiments.run import run
from tests.conftest import service
from tests.support.fixtures import some_crystals, supercell

CPU = torch.device("cpu")
REASON = "CGCNN with set2set pooling has no global attention"
YAML = """
name: gated
data: elastic_tensor_2015
targets:
  - {model: gated-bulk-modulus, key: log10_K_VRH, unit: log10(GPa)}
split: {test_fraction: 0.2, validation_fraction: 0.1, calibration_fraction: 0.1}
graph: {angles: 0}
network: {body: cgcnn, pooling: set2set, layers: 2, channels: 12, normalization: batch}
optimization: {epochs: 2, compile: false}
members: 2
"""


@dataclass(frozen=True)
class Trained:
    config: TrainingConfig
    store: ModelStore
    runs: Path
    manifest: Manifest
    losses: list[float]


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("gated")
    path = folder / "gated.yaml"
    path.write_text(YAML, "utf-8")
    config, store, losses = read_config(path), ModelStore(folder / "store"), []
    [manifest] = run(
        config, store, folder / "runs", device=CPU, report=lambda epoch: losses.append(epoch.validation_mae)
    )
    return Trained(config, store, folder / "runs", manifest, losses)


def test_it_learns_and_is_verified(gated: Trained) -> None:
    assert gated.losses[1] < gated.losses[0]
    assert gated.store.verify(gated.manifest.reference)
    assert gated.manifest.network == gated.config.network
    domain = load_artifact(gated.store.folder(gated.manifest.reference))[2]
    assert domain["mean"].shape == (2 * 12,)


def test_it_answers_without_attention_and_says_why(gated: Trained) -> None:
    predictor = Predictor.load("gated-bulk-modulus", store=gated.store.root)
    predictor.check_golden()
    crystals = some_crystals(4)
    for one, other in zip(
        predictor.predict_structures(crystals),
        predictor.predict_structures([supercell(crystal, (2, 1, 1)) for crystal in crystals]),
        strict=True,
    ):
        assert one.attention is None
        assert one.attention_reason == REASON
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.value < one.high
        assert other.value == pytest.approx(one.value, abs=1e-4)
        assert one.embedding.shape == (24,)
        assert np.isfinite(one.domain.score)
    assert predictor.embed_structures([]).shape == (0, 24)


def test_it_is_served_without_attention_and_says_why(gated: Trained) -> None:
    crystal = some_crystals(1)[0]
    posted = {
        "lattice": crystal.lattice.tolist(),
        "species": list(crystal.symbols),
        "frac_coords": crystal.frac_coords.tolist(),
    }
    models = {"DEEPERGATGNN_MODEL_STORE": str(gated.store.root), "DEEPERGATGNN_MODELS": "gated-bulk-modulus"}
    with service(**models, DEEPERGATGNN_CACHE_ENTRIES="100") as address:
        for attention in ("global", "none", "global"):  # computed, then twice from the result cache
            body = {"structure": posted, "attention": attention}
            reply = httpx.post(f"{address}/predict", json=body, timeout=60)
            assert reply.status_code == httpx.codes.OK, reply.text
            [prediction] = reply.json()["predictions"]
            assert prediction["value"] == pytest.approx(
                Predictor.load("gated-bulk-modulus", store=gated.store.root).predict_structures([crystal])[0].value,
                abs=1e-5,
            )
            if attention == "none":
                assert "attention" not in prediction
            else:
                assert (prediction["attention"], prediction["attention_reason"]) == (None, REASON)


def test_its_card_names_the_network_and_its_publication(gated: Trained) -> None:
    card = " ".join((gated.store.folder(gated.manifest.reference) / CARD).read_text("utf-8").split())
    assert "CGCNN with set2set pooling (Xie and Grossman, doi:10.1103/PhysRevLett.120.145301)" in card
    assert "with 2 CGCNN layers of 12 channels; " in card
    assert f"Predictions have no attention: {REASON}." in card
    assert "architecture: cgcnn-set2set" in card


def test_it_is_not_published_again(gated: Trained) -> None:
    [again] = run(gated.config, gated.store, gated.runs, device=CPU, report=lambda _: None, plots=False)
    assert again == gated.manifest


def test_another_run_starts_from_it_with_frozen_layers(gated: Trained, tmp_path: Path) -> None:
    document = yaml.safe_load(YAML) | {"name": "tuned", "start": "gated-bulk-modulus", "members": 1}
    document["optimization"] |= {"epochs": 1, "frozen_layers": 1, "layer_decay": 0.5}
    document["targets"][0]["model"] = "tuned-bulk-modulus"
    config = TrainingConfig.model_validate(document)
    [manifest] = run(config, gated.store, tmp_path / "runs", device=CPU, report=lambda _: None, plots=False)
    tuned, before = (
        load_artifact(gated.store.folder(reference))[1][0].state_dict()
        for reference in (manifest.reference, gated.manifest.reference)
    )
    changed = {name for name, value in tuned.items() if not torch.equal(value, before[name])}
    assert not {name for name in changed if name.startswith(("embedding.", "body.layers.0", "body.norms.0"))}
    assert {name for name in changed if name.startswith(("body.layers.1", "pooling.", "head."))}


def test_attention_that_is_not_there_cannot_be_fitted(gated: Trained, tmp_path: Path) -> None:
    document = yaml.safe_load(YAML) | {"name": "faithful"}
    document["optimization"]["attention_weight"] = 0.1
    config = TrainingConfig.model_validate(document)
    with pytest.raises(ConfigError, match=f"attention_weight is 0.1, but {REASON}: set it to 0"):
        run(config, gated.store, tmp_path, device=CPU, report=lambda _: None, plots=False)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"body": "cgcn"}, "network.body: .*no body 'cgcn': did you mean 'cgcnn'"),
        ({"body": {"kind": "cgcnn", "agregation": "sum"}}, "agregation is not a known key: did you mean 'aggregation'"),
        ({"pooling": {"kind": "set2set", "steps": 0}}, "network.pooling.set2set: .*steps is 0"),
        ({"attention": "none"}, "pooling weighted needs an attention"),
    ],
)
def test_a_part_that_does_not_fit_is_refused_by_its_place(
    network: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(YAML) | {"network": network}), "utf-8")
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_a_configuration_of_before_there_was_a_choice_is_completed() -> None:
    document = yaml.safe_load(YAML) | {"network": {"layers": 2}}
    now = TrainingConfig.model_validate(document).model_dump(mode="json")
    before = now | {"network": {key: value for key, value in now["network"].items() if not isinstance(value, dict)}}
    assert before != now
    assert completed(before) == now
    assert completed({"unknown": 1}) == {"unknown": 1}
