"""The YAML file of a run: what is wrong is said with its place."""

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from deepergatgnn.errors import ConfigError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.training.config.optimization import OptimizationConfig
from deepergatgnn.training.config.run import GRAPH, NETWORK, TrainingConfig, read_config

RECIPES = sorted((Path(__file__).parents[3] / "training" / "recipes").glob("*.yaml"))
SMALLEST: dict[str, Any] = {
    "name": "run",
    "data": "elastic_tensor_2015",
    "targets": [{"model": "bulk", "key": "log10_K_VRH", "unit": "log10(GPa)"}],
}


def written(folder: Path, document: object) -> Path:
    path = folder / "config.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document), "utf-8")
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_and_says_where_its_data_is_from(path: Path) -> None:
    config = read_config(path)
    assert config.source
    assert config.licence
    assert config.network.targets == len(config.targets)


def test_the_smallest_file_takes_the_defaults(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, SMALLEST))
    assert config.graph == GraphConfig(**GRAPH)
    assert config.network == NetworkConfig(**NETWORK)
    assert config.optimization == OptimizationConfig()
    assert config.members == 1
    assert config == TrainingConfig.model_validate(config.model_dump(mode="json"))


def test_the_network_has_an_output_for_every_target(tmp_path: Path) -> None:
    two = [*SMALLEST["targets"], {"model": "shear", "key": "log10_G_VRH", "unit": "log10(GPa)"}]
    assert read_config(written(tmp_path, SMALLEST | {"targets": two})).network.targets == 2
    assert read_config(written(tmp_path, SMALLEST | {"targets": two, "network": {"layers": 3}})).network.targets == 2


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"name": "../run"}, "name"),
        ({"name": None}, "name"),
        ({"data": ["a"]}, "data"),
        ({"targets": []}, "targets"),
        ({"targets": "bulk"}, "targets"),
        ({"targets": [{"model": "Bulk", "key": "k", "unit": "u"}]}, "targets.0.model"),
        ({"targets": [{"model": "bulk", "key": "k"}]}, "targets.0.unit"),
        ({"targets": [SMALLEST["targets"][0] | {"weight": 0}]}, "targets.0.weight"),
        ({"targets": SMALLEST["targets"] * 2}, "same model name"),
        ({"network": {"targets": 2}}, "network.targets is 2, but 1"),
        ({"network": {"layers": 0}}, "network: Value error, layers is 0, it must be at least 1"),
        ({"network": {"layers": "many"}}, "network.layers"),
        ({"network": {"spread": "wide"}}, "network.spread"),
        ({"network": {"depth": 3}}, "network.depth"),
        ({"network": "deep"}, "network"),
        ({"graph": {"cutoff": "far"}}, "graph.cutoff"),
        ({"graph": {"cutoff": 0}}, "graph: Value error, cutoff is 0.0, it must be above 0"),
        ({"graph": {"radius": 8}}, "graph.radius"),
        ({"optimization": {"epochs": 0}}, "optimization: Value error, epochs is 0"),
        ({"optimization": {"epochs": 1.5}}, "optimization.epochs"),
        ({"optimization": {"momentum": 0.9}}, "optimization.momentum"),
        ({"members": 0}, "members"),
        ({"targets": [SMALLEST["targets"][0] | {"transform": "sqrt"}]}, "targets.0.transform"),
        ({"optimization": {"loss": "l3"}}, "optimization.loss"),
        ({"optimization": {"learning_rate": -1}}, "optimization: Value error, learning_rate is -1"),
        ({"split": {"test_fraction": 1.5}}, "split.test_fraction"),
        ({"split": {"test_field": "fold"}}, "both test_field and test_fold"),
        ({"split": {"by": "luck"}}, "split.by"),
        ({"version": 1.1}, "version"),
        ({"version": "1.1"}, "version"),
        ({"sed": 1}, "sed"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_place(tmp_path: Path, change: dict[str, Any], place: str) -> None:
    path = written(tmp_path, SMALLEST | change)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert place in str(caught.value)


def test_what_is_given_is_put_over_the_defaults_of_training_not_of_the_network(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, SMALLEST | {"network": {"channels": 32}}))
    assert config.network == NetworkConfig(**NETWORK, channels=32)
    assert read_config(written(tmp_path, SMALLEST | {"network": None})).network == NetworkConfig(**NETWORK)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, SMALLEST | {"sed": 1, "optimization": {"epochs": 0}})
    with pytest.raises(ConfigError, match=r"optimization: Value error, epochs is 0.*; .*sed"):
        read_config(path)


@pytest.mark.parametrize("text", ["a: [1", "\tname: x", "%", "a: !!python/object/apply:os.getcwd []"])
def test_what_is_not_plain_yaml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is not YAML"):
        read_config(written(tmp_path, text))


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b\n", "1"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is not a mapping of options"):
        read_config(written(tmp_path, text))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError) as caught:
            read_config(path)
        assert str(path) in str(caught.value)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9t\xe9")
    with pytest.raises(ConfigError, match="is not YAML"):
        read_config(tmp_path / "latin.yaml")


def test_it_is_frozen() -> None:
    config = TrainingConfig.model_validate(SMALLEST)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        config.optimization.epochs = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"optimisation": {}},
            "optimisation is not a known key: did you mean 'optimization'? the file may have name, data, ",
        ),
        (
            {"optimization": {"epoch": 2}},
            "optimization.epoch is not a known key: did you mean 'epochs'? optimization may have ",
        ),
        (
            {"network": {"layer": 2}},
            "network.layer is not a known key: did you mean 'layers'? network may have layers, ",
        ),
        ({"graph": {"cut_off": 2}}, "graph.cut_off is not a known key: did you mean 'cutoff'? graph may have cutoff, "),
        ({"split": {"train_fraction": 0.8}}, "'calibration_fraction'? split may have test_field, test_fold, "),
        ({"split": {"lists": {"train": ["a"], "test": ["b"], "val": []}}}, "validation, calibration, test"),
        (
            {"targets": [SMALLEST["targets"][0] | {"units": "eV"}]},
            "targets.0.units is not a known key: did you mean 'unit'? ",
        ),
        ({"targets": [{"model": "bulk", "unit": "eV"}]}, "targets.0.key is missing (Field required): targets.0 may "),
        ({"exclude": [{"dataset": "x"}]}, "exclude.0.dataset is not a known key: did you mean 'data'? "),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"seed": 2**40}, "seed: Input should be less than or equal to"),
        ({"seed": "first"}, "seed: Input should be a valid integer"),
        ({"targets": [SMALLEST["targets"][0] | {"weight": float("inf")}]}, "finite number"),
    ],
)
def test_a_wrong_key_is_told_with_those_there_are(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as told:
        read_config(written(tmp_path, SMALLEST | change))
    assert said in str(told.value)
    assert "\n" not in str(told.value)
