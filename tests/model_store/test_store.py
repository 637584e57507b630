"""The store: versions never change, and no name ever becomes a path."""

import json
from pathlib import Path

import pytest

from deepergatgnn.checkpoints.files import CARD, MANIFEST, WEIGHTS
from deepergatgnn.errors import ArtifactError, ConfigError, ModelNotFoundError
from deepergatgnn.model_store import ModelStore, split_reference
from deepergatgnn.predictor import Predictor
from tests.support.fixtures import SODIUM, Make


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_what_is_published_is_there_and_loads(store: ModelStore, make: Make) -> None:
    assert store.names() == ["metal", "oxide"]
    assert store.versions("metal") == ["1.0.0", "1.1.0"]
    folder = store.folder("metal@1.1.0")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == make("metal", "1.1.0")
    assert Predictor.load(folder).predict_structure(SODIUM).value
    assert store.manifest("metal@1.1.0").version == "1.1.0"


def test_the_first_version_becomes_production_and_later_ones_do_not(store: ModelStore) -> None:
    assert store.production("metal") == "1.0.0"
    assert store.folder("metal") == store.folder("metal@1.0.0")
    assert store.manifest("metal").version == "1.0.0"


def test_a_version_is_immutable(store: ModelStore, make: Make) -> None:
    before = everything(store.root)
    changed = make("metal", "1.0.0")
    document = json.loads(changed[MANIFEST])
    document["scaler"]["mean"] += 1
    with pytest.raises(ArtifactError, match=r"metal@1\.0\.0 exists and is immutable.*next version"):
        store.publish("metal", "1.0.0", changed | {MANIFEST: json.dumps(document).encode()})
    assert everything(store.root) == before


def test_promotion_and_the_way_back(store: ModelStore, make: Make) -> None:
    store.publish("metal", "2.0.0", make("metal", "2.0.0"))
    store.promote("metal", "1.1.0")
    store.promote("metal", "2.0.0")
    assert store.production("metal") == "2.0.0"
    assert store.rollback("metal") == "1.1.0"
    assert store.rollback("metal") == "1.0.0"
    with pytest.raises(ConfigError, match=r"no other version in production.*1\.0\.0"):
        store.rollback("metal")
    assert store.production("metal") == "1.0.0"


def test_promoting_what_is_in_production_leaves_no_trace(store: ModelStore) -> None:
    before = everything(store.root)
    store.promote("metal", "1.0.0")
    assert everything(store.root) == before


def test_after_going_back_one_can_go_forward_again(store: ModelStore) -> None:
    store.promote("metal", "1.1.0")
    store.rollback("metal")
    store.promote("metal", "1.1.0")
    assert store.production("metal") == "1.1.0"
    assert store.rollback("metal") == "1.0.0"


def test_a_damaged_version_is_not_promoted_and_production_stays(store: ModelStore) -> None:
    card = store.folder("metal@1.1.0") / CARD
    card.write_bytes(card.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match="sha256"):
        store.promote("metal", "1.1.0")
    assert store.production("metal") == "1.0.0"
    with pytest.raises(ArtifactError, match="sha256"):
        store.verify("metal@1.1.0")
    assert store.verify("metal").version == "1.0.0"


def test_nothing_is_rolled_back_to_a_damaged_version(store: ModelStore) -> None:
    store.promote("metal", "1.1.0")
    (store.folder("metal@1.0.0") / WEIGHTS).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        store.rollback("metal")
    assert store.production("metal") == "1.1.0"


def test_a_version_in_the_wrong_folder_is_refused(store: ModelStore) -> None:
    store.folder("metal@1.1.0").rename(store.root / "metal" / "1.2.0")
    with pytest.raises(ArtifactError, match=r"metal/1\.2\.0 holds the manifest of metal@1\.1\.0"):
        store.verify("metal@1.2.0")


def test_the_next_version_is_one_minor_up_in_numbers_not_letters(store: ModelStore, make: Make) -> None:
    assert store.next_version("fresh") == "1.0.0"
    assert store.next_version("metal") == "1.2.0"
    for version in ("1.9.3", "1.10.0", "1.2.7"):
        store.publish("metal", version, make("metal", version))
    assert store.versions("metal") == ["1.0.0", "1.1.0", "1.2.7", "1.9.3", "1.10.0"]
    assert store.next_version("metal") == "1.11.0"


BAD_REFERENCES = [
    "../x",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "~",
    "Metal",
    "métal",
    "ｍetal",
    "metal\n",
    "metal\0",
    " metal",
    "-metal",
    "metal-",
    "metal--two",
    ".metal",
    "a" * 101,
    "a" * 100_000,
    "metal@",
    "metal@1",
    "metal@1.0",
    "metal@1.0.0.0",
    "metal@01.0.0",
    "metal@1.0.0\n",
    "metal@../1.0.0",
    "metal@1.0.0/..",
    "metal@1٣.0.0",
    "metal@latest",
    "metal@production",
    "metal@1.0.0@1.0.0",
    "@1.0.0",
]


@pytest.mark.parametrize("reference", BAD_REFERENCES, ids=range(len(BAD_REFERENCES)))
def test_a_bad_reference_never_becomes_a_path(store: ModelStore, make: Make, reference: str) -> None:
    before = everything(store.root.parent)
    for question in (split_reference, store.folder, store.manifest, store.verify):
        with pytest.raises(ModelNotFoundError, match=r"is not a model: write NAME or NAME@MAJOR\.MINOR\.PATCH"):
            question(reference)
    name, at, version = reference.partition("@")
    version = version if at else "1.0.0"
    with pytest.raises(ModelNotFoundError, match="is not a model"):
        store.publish(name, version, make("metal", "9.0.0"))
    with pytest.raises(ModelNotFoundError):
        store.promote(name, version)
    assert everything(store.root.parent) == before


@pytest.mark.parametrize("name", ["../store", "/etc", "a/b", "métal", "a" * 300])
def test_a_bad_name_is_no_question_either(store: ModelStore, name: str) -> None:
    for question in (store.versions, store.production, store.rollback, store.next_version):
        with pytest.raises(ModelNotFoundError):
            question(name)


def test_a_long_bad_reference_is_quoted_in_part_only() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        split_reference("x/" * 10_000)
    assert len(str(caught.value)) < 200


def test_an_unknown_model_is_answered_with_those_that_are_there(store: ModelStore) -> None:
    with pytest.raises(ModelNotFoundError, match="no model 'gold': the store has metal, oxide"):
        store.folder("gold")
    with pytest.raises(ModelNotFoundError, match=r"'metal' has no version 3\.0\.0: it has \['1\.0\.0', '1\.1\.0'\]"):
        store.folder("metal@3.0.0")


def test_an_empty_or_missing_store_has_no_models(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        empty = ModelStore(root)
        assert empty.names() == []
        with pytest.raises(ModelNotFoundError, match="the store has none"):
            empty.folder("metal")


@pytest.mark.parametrize("content", ["", "2.0.0\n", "../oxide/1.0.0\n"])
def test_a_production_file_that_names_no_version_serves_none(store: ModelStore, content: str) -> None:
    (store.root / "metal" / "production").write_text(content)
    with pytest.raises(ModelNotFoundError, match="no version in production: promote one of"):
        store.folder("metal")
    assert store.folder("metal@1.0.0").is_dir()


def test_files_beside_the_models_are_no_models(store: ModelStore) -> None:
    (store.root / "README.md").write_text("about the store")
    (store.root / "empty").mkdir()
    (store.root / ".hidden").mkdir()
    assert store.names() == ["metal", "oxide"]


def test_the_shipped_store_is_the_default() -> None:
    assert ModelStore().root.name == "checkpoints"
    assert ModelStore().root.parent.name == "model_store"
