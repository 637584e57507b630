"""What may lie in a store beside sound models: each fault costs the model that has it, and no read ever waits."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deepergatgnn.checkpoints.files import MANIFEST, WEIGHTS, manifest_digest_path, read_manifest
from deepergatgnn.errors import ArtifactError, DeeperGATGNNError, ModelNotFoundError
from deepergatgnn.model_store import ModelStore
from tests.support.fixtures import Make


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def as_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def as_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def holding(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


POINTERS: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b"") and None,
    "garbled": holding(b"1.0.0 1.1.0"),
    "not UTF-8": holding(b"\xff\xfe1\0"),
    "zeros": holding(b"\0" * 10),
    "long": holding(b"1.0.0" + b" " * 10_000),
    "absent version": holding(b"9.9.9\n"),
    "path": holding(b"../oxide/1.0.0"),
    "folder": as_folder,
    "FIFO": as_fifo,
    "link": as_link,
    "link to itself": as_link_to_itself,
    "device": as_device,
}


@pytest.mark.parametrize("fault", POINTERS)
def test_a_bad_pointer_costs_its_model_alone(store: ModelStore, fault: str) -> None:
    POINTERS[fault](store.root / "metal" / "production")
    assert store.names() == ["metal", "oxide"]
    for question in (store.production, store.preferred, store.folder, store.manifest):
        with pytest.raises(ModelNotFoundError, match="no version in production: promote one of"):
            question("metal")
    assert store.manifest("metal@1.0.0").version == "1.0.0"
    assert store.manifest("oxide").name == "oxide"
    if fault != "folder":  # which holds what only its owner can judge
        store.promote("metal", "1.1.0")
        assert store.production("metal") == "1.1.0"


HISTORIES = {name: fault for name, fault in POINTERS.items() if name not in {"missing", "absent version"}}


@pytest.mark.parametrize("fault", HISTORIES)
def test_a_bad_history_has_no_version(store: ModelStore, fault: str) -> None:
    history = store.root / "metal" / "history"
    history.write_text("1.0.0\n")
    HISTORIES[fault](history)
    assert store.preferred("metal")[0] == "1.0.0"


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, "../1.0.0.sha256"])
@pytest.mark.parametrize("fault", [as_folder, as_fifo, as_link, as_link_to_itself, as_device])
def test_what_is_no_plain_file_is_refused_at_once(store: ModelStore, name: str, fault: Callable[[Path], None]) -> None:
    fault(store.root / "metal" / "1.0.0" / name)
    with pytest.raises(ArtifactError, match=r"cannot be read|does not list"):
        store.verify("metal@1.0.0")
    assert store.verify("metal@1.1.0").version == "1.1.0"


def test_what_is_no_folder_is_no_model_and_no_version(store: ModelStore) -> None:
    (store.root / "iron").write_text("not a folder")
    (store.root / "gold").symlink_to("gold")
    os.mkfifo(store.root / "lead")
    (store.root / "empty").mkdir()
    (store.root / "metal" / "3.0.0").write_text("not a folder")
    assert store.names() == ["metal", "oxide"]
    assert store.versions("metal") == ["1.0.0", "1.1.0"]
    assert store.next_version("metal") == "3.1.0"


def test_a_version_reached_through_a_link_is_not_believed(store: ModelStore, tmp_path: Path) -> None:
    """The manifest digest beside the link is not that of the folder, so a replacement would not be detected."""
    outside = tmp_path / "outside"
    shutil.copytree(store.root / "metal", outside)
    shutil.rmtree(store.root / "metal" / "1.0.0")
    (store.root / "metal" / "1.0.0").symlink_to(outside / "1.0.0")
    with pytest.raises(ArtifactError, match="reached through a link"):
        store.verify("metal@1.0.0")
    shutil.rmtree(store.root / "metal")
    (store.root / "metal").symlink_to(outside)
    with pytest.raises(ArtifactError, match="reached through a link"):
        store.verify("metal@1.1.0")
    assert store.verify("oxide").name == "oxide"


def test_the_seal_is_that_beside_the_name_that_was_read(store: ModelStore, tmp_path: Path) -> None:
    """Another version that is sound by itself does not pass for one that was sealed."""
    there = tmp_path / "other" / "1.0.0"
    shutil.copytree(store.root / "metal" / "1.1.0", there)
    link = tmp_path / "sealed" / "1.0.0"
    link.parent.mkdir()
    shutil.copy(manifest_digest_path(store.root / "metal" / "1.0.0"), link.parent)
    link.symlink_to(there)
    with pytest.raises(ArtifactError, match="sha256"):
        read_manifest(link)


def test_a_store_that_is_a_link_is_a_store(store: ModelStore, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(store.root)
    assert ModelStore(link).verify("metal").name == "metal"


@pytest.mark.parametrize(
    "golden",
    [
        [],
        [{"species": ["Xx"]}],
        [{"species": []}],
        [{"species": ["Na"] * 99}],
        [{"lattice": [[1.0, 0.0, 0.0]]}],
        [{"frac_coords": []}],
    ],
)
def test_a_golden_set_that_cannot_be_computed_is_not_published(
    store: ModelStore, make: Make, golden: list[dict[str, object]]
) -> None:
    files = make("metal", "2.0.0")
    document = json.loads(files[MANIFEST])
    document["golden"] = [document["golden"][0] | changed for changed in golden]
    with pytest.raises(DeeperGATGNNError, match="golden"):
        store.publish("metal", "2.0.0", files | {MANIFEST: json.dumps(document).encode()})
    assert store.versions("metal") == ["1.0.0", "1.1.0"]


def test_the_same_number_with_other_weights_has_another_identity(store: ModelStore, make: Make) -> None:
    files = make("metal", "1.0.0")
    document = json.loads(files[MANIFEST])
    document["scaler"]["mean"] += 1
    other = ModelStore(store.root.parent / "other")
    other.publish("metal", "1.0.0", files | {MANIFEST: json.dumps(document).encode()})
    ours, theirs = store.version("metal").identity, other.version("metal").identity
    assert ours.partition(":")[0] == theirs.partition(":")[0] == "metal@1.0.0"
    assert ours != theirs
