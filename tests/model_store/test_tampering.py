"""A byte that is not what was published is found in every file of a version, wherever a version is read."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from deepergatgnn.checkpoints.files import MANIFEST, manifest_digest_line, manifest_digest_path
from deepergatgnn.errors import ArtifactError, DeeperGATGNNError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.service.worker.engine import Engine
from deepergatgnn.service.worker.model_loader import ModelLoader
from tests.conftest import COMMAND, ROOT
from tests.support.fixtures import Published, pair

__all__ = ["pair"]
FILES = ["1.0.0.sha256", "1.0.0/manifest.json", "1.0.0/card.md", "1.0.0/model.safetensors", "1.0.0/model-2.safetensors"]


@pytest.fixture
def store(pair: Published, tmp_path: Path) -> ModelStore:
    """A copy to tamper with."""
    return ModelStore(shutil.copytree(pair.store.root, tmp_path / "store"))


def test_these_are_all_files_of_a_version(store: ModelStore, pair: Published) -> None:
    name = pair.manifest.name
    present = {str(path.relative_to(store.root / name)) for path in (store.root / name).rglob("*") if path.is_file()}
    assert present == {*FILES, "production"}


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_refused(store: ModelStore, pair: Published, file: str) -> None:
    name = pair.manifest.name
    path = store.root / name / file
    content = path.read_bytes()
    folder = store.folder(name)
    rng = np.random.default_rng(0)
    places = {0, len(content) // 2, len(content) - 1, *rng.integers(0, len(content), 20).tolist()}
    for place in sorted(places):
        tampered = bytearray(content)
        tampered[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(tampered)
        for read in (Predictor.load, lambda _: store.verify(name), lambda _: store.promote(name, "1.0.0")):
            with pytest.raises(ArtifactError, match="sha256"):
                read(folder)
    path.write_bytes(content)
    assert store.verify(name) == pair.manifest


@pytest.mark.parametrize("file", FILES)
def test_a_longer_or_shorter_file_is_refused(store: ModelStore, pair: Published, file: str) -> None:
    path = store.root / pair.manifest.name / file
    content = path.read_bytes()
    for tampered in (content + b" ", content + b"\n", content[:-1], b""):
        path.write_bytes(tampered)
        with pytest.raises(ArtifactError, match="sha256"):
            store.verify(pair.manifest.name)


@pytest.mark.parametrize("file", FILES)
def test_the_command_says_so(store: ModelStore, pair: Published, file: str) -> None:
    path = store.root / pair.manifest.name / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    command = [*COMMAND, "models", "verify", "--store", str(store.root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert Path(file).name in done.stderr
    assert "sha256" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("file", FILES)
def test_a_worker_does_not_serve_it(store: ModelStore, pair: Published, file: str) -> None:
    path = store.root / pair.manifest.name / file
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(DeeperGATGNNError):
        ModelLoader(store, Engine(store, torch.device("cpu"), "test")).load_production()


def test_a_version_without_a_digest_of_its_manifest_is_read_and_one_of_another_version_is_not(
    store: ModelStore, pair: Published, tmp_path: Path
) -> None:
    folder = store.folder(pair.manifest.name)
    manifest_digest_path(folder).rename(tmp_path / "1.0.0.sha256")
    assert store.verify(pair.manifest.name) == pair.manifest
    manifest_digest_path(folder).write_text(
        manifest_digest_line(folder.with_name("1.0.1"), (folder / MANIFEST).read_bytes()), "utf-8"
    )
    with pytest.raises(ArtifactError, match="sha256"):
        store.verify(pair.manifest.name)
    manifest_digest_path(folder).unlink()
    manifest_digest_path(folder).mkdir()
    with pytest.raises(ArtifactError, match=r"1\.0\.0\.sha256 cannot be read"):
        store.verify(pair.manifest.name)


def test_sha256sum_agrees(store: ModelStore, pair: Published) -> None:
    subprocess.run(
        ["sha256sum", "--check", "--strict", "1.0.0.sha256"], cwd=store.root / pair.manifest.name, check=True
    )


def test_every_shipped_version_has_one() -> None:
    shipped = ModelStore()
    folders = [shipped.folder(f"{name}@{version}") for name in shipped.names() for version in shipped.versions(name)]
    assert folders
    assert [folder for folder in folders if not manifest_digest_path(folder).is_file()] == []
