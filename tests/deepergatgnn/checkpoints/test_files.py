"""A checkpoint folder: what is written is what is read, and nothing else is ever loaded."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from deepergatgnn.checkpoints.files import (
    CARD,
    MANIFEST,
    WEIGHTS,
    digest,
    read_manifest,
    verify_files,
)
from deepergatgnn.checkpoints.weights import load_artifact, pack_weights
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.predictor import Predictor
from tests.support.damaged import edit_manifest, edit_tensors, refused, replace_file
from tests.support.fixtures import Published, some_crystals


def test_loading_and_packing_again_gives_the_same_bytes(tiny: Published) -> None:
    manifest, networks, domain = load_artifact(tiny.folder)
    files = tiny.files()
    assert pack_weights(networks, domain) == {WEIGHTS: files[WEIGHTS]}
    assert manifest.model_dump_json(indent=2).encode() + b"\n" == files[MANIFEST]
    assert manifest == tiny.manifest == read_manifest(tiny.folder)


def test_every_weight_and_statistic_comes_back_to_the_bit(tiny: Published) -> None:
    manifest, [network], domain = load_artifact(tiny.folder)
    other = CrystalModel(manifest.network, manifest.graph)
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
@pytest.mark.parametrize("name", ["network.head.values.weight", "network.body.norms.0.running_var", "domain.whitening"])
def test_values_that_are_not_finite_are_refused(folder: Path, name: str, value: float) -> None:
    edit_tensors(folder, lambda tensors: tensors[name].view(-1)[0].fill_(value))
    message = refused(folder)
    assert name in message
    assert "finite" in message


@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
def test_normalization_without_running_statistics_is_refused_with_the_reason(folder: Path, statistic: str) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop(f"network.body.norms.0.{statistic}"))
    assert "the other crystals of the batch" in refused(folder)


def test_missing_and_foreign_weights_are_named(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"network.tail": tensors.pop("network.head.values.bias")}))
    message = refused(folder)
    assert "network.head.values.bias" in message
    assert "network.tail" in message


@pytest.mark.parametrize("name", ["domain.mean", "domain.whitening"])
def test_the_arrays_of_the_domain_score_must_be_there(folder: Path, name: str) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    assert name in refused(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("network.head.values.weight", lambda tensor: tensor.repeat(2, 1)),
        ("network.head.values.weight", lambda tensor: tensor.double()),
        ("network.body.layers.0.weight", lambda tensor: tensor.T.contiguous()[:, :-1].contiguous()),
        ("network.body.layers.0.norm.running_var", lambda tensor: tensor.double()),
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


def test_verified_content_is_what_is_on_disk(tiny: Published) -> None:
    files = tiny.files()
    assert verify_files(tiny.folder, tiny.manifest) == {name: files[name] for name in tiny.manifest.files}
