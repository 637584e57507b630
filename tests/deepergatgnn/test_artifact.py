"""A checkpoint folder: what is written is what is read, and nothing else is ever loaded."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from deepergatgnn.artifact import (
    CARD,
    MANIFEST,
    WEIGHTS,
    digest,
    read_manifest,
    verify_files,
)
from deepergatgnn.errors import ArtifactError
from deepergatgnn.manifest import SCHEMA_VERSION, Manifest
from deepergatgnn.network import DeeperGATGNN
from deepergatgnn.predictor import Predictor
from deepergatgnn.weights import load_artifact, pack_weights
from tests.fixtures import Published, some_crystals

Tensors = dict[str, Tensor]
Document = dict[str, Any]


@pytest.fixture
def folder(tiny: Published, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny.folder, tmp_path / "1.0.0"))


def refused(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load_artifact(folder)
    assert folder.name in str(caught.value) or "manifest has schema_version" in str(caught.value)
    return str(caught.value)


def edit_manifest(folder: Path, change: Callable[[Document], object]) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    change(document)
    (folder / MANIFEST).write_text(json.dumps(document))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Put other content there, with a manifest that vouches for it."""
    (folder / name).write_bytes(content)
    edit_manifest(folder, lambda document: document["files"].update({name: digest(content)}))


def edit_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load((folder / WEIGHTS).read_bytes())
    change(tensors)
    replace_file(folder, WEIGHTS, save(tensors))


def test_loading_and_packing_again_gives_the_same_bytes(tiny: Published) -> None:
    manifest, networks, domain = load_artifact(tiny.folder)
    files = tiny.files()
    assert pack_weights(networks, domain) == {WEIGHTS: files[WEIGHTS]}
    assert manifest.model_dump_json(indent=2).encode() + b"\n" == files[MANIFEST]
    assert manifest == tiny.manifest == read_manifest(tiny.folder)


def test_every_weight_and_statistic_comes_back_to_the_bit(tiny: Published) -> None:
    manifest, [network], domain = load_artifact(tiny.folder)
    other = DeeperGATGNN(manifest.network, manifest.graph)
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape))
    tensors = load(pack_weights([other], domain)[WEIGHTS])
    for name, tensor in other.state_dict().items():
        assert tensors[f"network.{name}"].numpy().tobytes() == tensor.numpy().tobytes()
    assert set(tensors) == {f"network.{name}" for name in network.state_dict()} | {"domain.mean", "domain.whitening"}


def test_a_loaded_network_is_for_evaluation_only(tiny: Published) -> None:
    _, [network], _ = load_artifact(tiny.folder)
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_reading_changes_no_file(tiny: Published) -> None:
    before = tiny.files()
    Predictor.load(tiny.folder).predict_structures(some_crystals(2))
    assert tiny.files() == before


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_one_flipped_byte_is_found(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    for place in [0, len(content) - 1, *rng.integers(0, len(content), 8).tolist()]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(flipped)
        assert "sha256" in refused(folder)
    (folder / name).write_bytes(content)
    load_artifact(folder)


def test_a_flipped_byte_of_a_digest_is_found(folder: Path) -> None:
    content = (folder / MANIFEST).read_bytes()
    start = content.index(digest((folder / WEIGHTS).read_bytes()).encode())
    (folder / MANIFEST).write_bytes(
        content[:start] + (b"0" if content[start] != ord("0") else b"1") + content[start + 1 :]
    )
    assert "sha256" in refused(folder)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, CARD])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refused(folder)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, CARD])
def test_a_folder_in_place_of_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in refused(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "not a checkpoint folder" in refused(tmp_path / "nothing")


FOREIGN = ["../../secret", "../x.png", "a/b.png", "X.png", ".png", "x.png.py", "x.svg", "model-2.safetensors", MANIFEST]


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "network.py", ".hidden", "model-2.safetensors", "plot.png"])
def test_a_foreign_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps({"weights": [1.0]}))
    assert name in refused(folder)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {WEIGHTS: "0" * 64},
        *({WEIGHTS: "0" * 64, CARD: "0" * 64, name: "0" * 64} for name in FOREIGN),
    ],
    ids=["nothing", "no card", *FOREIGN],
)
def test_the_manifest_must_list_the_other_files_and_no_foreign_one(folder: Path, files: dict[str, str]) -> None:
    edit_manifest(folder, lambda document: document.update(files=files))
    message = refused(folder)
    assert "needs" in message if len(files) < 2 else next(reversed(files)) in message


class Exploding:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_under_the_name_of_the_weights_is_not_unpickled(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    for content in (pickle.dumps(Exploding(trace)), pickle.dumps({"network": [0.0]})):
        replace_file(folder, WEIGHTS, content)
        assert "not a safetensors file" in refused(folder)
    torch.save({"weights": torch.zeros(3)}, folder / WEIGHTS)
    replace_file(folder, WEIGHTS, (folder / WEIGHTS).read_bytes())
    assert "not a safetensors file" in refused(folder)
    assert not trace.exists()


def test_truncated_weights_are_refused_even_if_the_manifest_vouches_for_them(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    for length in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
        replace_file(folder, WEIGHTS, content[:length])
        assert "not a safetensors file" in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["network.head.weight", "network.norms.0.running_var", "domain.whitening"])
def test_values_that_are_not_finite_are_refused(folder: Path, name: str, value: float) -> None:
    edit_tensors(folder, lambda tensors: tensors[name].view(-1)[0].fill_(value))
    message = refused(folder)
    assert name in message
    assert "finite" in message


@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
def test_normalization_without_running_statistics_is_refused_with_the_reason(folder: Path, statistic: str) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop(f"network.norms.0.{statistic}"))
    assert "who shares the batch" in refused(folder)


def test_missing_and_foreign_weights_are_named(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"network.tail": tensors.pop("network.head.bias")}))
    message = refused(folder)
    assert "network.head.bias" in message
    assert "network.tail" in message


@pytest.mark.parametrize("name", ["domain.mean", "domain.whitening"])
def test_the_arrays_of_the_domain_score_must_be_there(folder: Path, name: str) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    assert name in refused(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("network.head.weight", lambda tensor: tensor.repeat(2, 1)),
        ("network.head.weight", lambda tensor: tensor.double()),
        ("network.layers.0.weight", lambda tensor: tensor.T.contiguous()[:, :-1].contiguous()),
        ("network.layers.0.norm.running_var", lambda tensor: tensor.double()),
        ("domain.mean", lambda tensor: tensor[:-1].clone()),
        ("domain.whitening", lambda tensor: tensor.half()),
    ],
)
def test_another_shape_or_type_is_refused_by_name(folder: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({name: change(tensors[name])}))
    assert name in refused(folder)


def test_a_manifest_of_another_size_does_not_fit_the_weights(folder: Path) -> None:
    edit_manifest(folder, lambda document: document["network"].update(layers=2))
    assert "layers.1.attention" in refused(folder)
    edit_manifest(folder, lambda document: document["network"].update(layers=1, heads=1))
    assert "layers.0" in refused(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"not json", b"\xff\xfe", b'{"schema_version": 1', b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000],
    ids=["empty", "cut", "prose", "bytes", "half", "deep list", "deep object", "long number"],
)
def test_a_manifest_that_is_not_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    assert MANIFEST in refused(folder)


@pytest.mark.parametrize("document", [[], "manifest", 1, None, True])
def test_a_manifest_that_is_no_object_is_refused(folder: Path, document: object) -> None:
    (folder / MANIFEST).write_text(json.dumps(document))
    assert "not a JSON object" in refused(folder)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, -1, str(SCHEMA_VERSION), None, [1], {}])
def test_an_unknown_schema_version_is_refused_with_the_remedy(folder: Path, version: object) -> None:
    edit_manifest(folder, lambda document: document.update(schema_version=version))
    message = refused(folder)
    assert repr(version) in message
    assert "upgrade the package" in message


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("architecture", lambda d: d.update(architecture="resnet")),
        ("architecture", lambda d: d.update(architecture=["deepergatgnn"])),
        ("name", lambda d: d.update(name="../evil")),
        ("version", lambda d: d.update(version="1.0")),
        ("surprise", lambda d: d.update(surprise=1)),
        ("network: Value error, layers is 0", lambda d: d["network"].update(layers=0)),
        ("network: Value error, group_scale is inf", lambda d: d["network"].update(group_scale=float("inf"))),
        ("network.heads", lambda d: d["network"].update(heads=2.5)),
        ("network.skip", lambda d: d["network"].update(skip="perhaps")),
        ("network", lambda d: d.update(network="deep")),
        ("network", lambda d: d.pop("network")),
        ("graph.radius", lambda d: d["graph"].update(radius=8)),
        ("graph.cutoff", lambda d: d["graph"].update(cutoff="far")),
        ("network.aggregation", lambda d: d["network"].update(aggregation="max")),
        ("graph: Value error, cutoff is -8", lambda d: d["graph"].update(cutoff=-8)),
        ("members", lambda d: d.update(members=0)),
        ("members", lambda d: d.update(members=33)),
        ("scaler.transform", lambda d: d["scaler"].update(transform="sqrt")),
        ("scaler.std", lambda d: d["scaler"].update(std=0)),
        ("scaler.mean", lambda d: d["scaler"].update(mean=float("nan"))),
        ("target", lambda d: d.pop("target")),
        ("domain.distance_limit", lambda d: d["domain"].update(distance_limit=0)),
        ("network.targets", lambda d: d["network"].update(targets=2)),
        ("calibration.half_widths", lambda d: d["calibration"].update(half_widths={"0.5": 1.0})),
        ('no level "0.9"', lambda d: d["calibration"].update(factors={"0.5": [1.0]})),
        ("calibration.factors.0.9", lambda d: d["calibration"]["factors"].update({"0.9": [-1.0]})),
        ("one more than edges", lambda d: d["calibration"].update(edges=[1.0])),
    ],
)
def test_what_the_schema_does_not_know_is_refused_by_place(
    folder: Path, place: str, change: Callable[[Document], object]
) -> None:
    edit_manifest(folder, change)
    assert place in refused(folder)


def test_a_manifest_cannot_be_changed_in_memory(tiny: Published) -> None:
    with pytest.raises(ValueError, match="frozen"):
        tiny.manifest.version = "2.0.0"  # type: ignore[misc]


def test_verified_content_is_what_is_on_disk(tiny: Published) -> None:
    files = tiny.files()
    assert verify_files(tiny.folder, tiny.manifest) == {name: files[name] for name in tiny.manifest.files}


def test_the_schema_says_which_sizes_a_manifest_must_have(tiny: Published) -> None:
    document = json.loads((tiny.folder / MANIFEST).read_text())
    assert Manifest.model_validate(document) == tiny.manifest
    assert tiny.manifest.parameters == sum(p.numel() for p in load_artifact(tiny.folder)[1][0].parameters())
