"""Publishing: a version appears whole or not at all, once, and only if it is a checkpoint."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deepergatgnn.checkpoints.files import CARD, MANIFEST, WEIGHTS, digest
from deepergatgnn.errors import ArtifactError, ModelNotFoundError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from tests.support.fixtures import SODIUM, Files, Make


def refuse_publication(store: ModelStore, name: str, version: str, files: Files) -> str:
    before = store.names(), store.versions("metal")
    with pytest.raises(ArtifactError) as caught:
        store.publish(name, version, files)
    assert (store.names(), store.versions("metal")) == before
    assert not [path.name for path in store.root.rglob(".*")], "a staging folder was left behind"
    return str(caught.value)


def test_what_is_no_checkpoint_is_not_published(store: ModelStore, make: Make) -> None:
    good = make("metal", "2.0.0")
    short = {name: content for name, content in good.items() if name != CARD}
    assert "2.0.0/card.md is missing" in refuse_publication(store, "metal", "2.0.0", short)
    assert "not ['card.md'" in refuse_publication(store, "metal", "2.0.0", {CARD: good[CARD]})
    assert "model.pt" in refuse_publication(store, "metal", "2.0.0", good | {"model.pt": b""})
    assert "../x" in refuse_publication(store, "metal", "2.0.0", short | {"../x": b""})
    assert "sha256" in refuse_publication(store, "metal", "2.0.0", good | {WEIGHTS: good[WEIGHTS][:-1] + b"\0\0"})
    assert "not JSON" in refuse_publication(store, "metal", "2.0.0", good | {MANIFEST: b"{"})


PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def with_files(files: Files, **more: bytes) -> Files:
    """More files, vouched for by the manifest."""
    document = json.loads(files[MANIFEST])
    document["files"] |= {name: digest(content) for name, content in more.items()}
    return files | more | {MANIFEST: json.dumps(document).encode()}


def test_images_are_published_and_verified_with_the_rest(store: ModelStore, make: Make) -> None:
    files = with_files(make("metal", "2.0.0"), **{"parity.png": PNG, "learning-curve.png": PNG + b"2"})
    folder = store.publish("metal", "2.0.0", files)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert store.verify("metal@2.0.0").files["parity.png"] == digest(PNG)
    assert Predictor.load(folder).predict_structure(SODIUM).value
    (folder / "parity.png").write_bytes(PNG + b" ")
    with pytest.raises(ArtifactError, match=r"2\.0\.0/parity\.png does not have the sha256"):
        store.verify("metal@2.0.0")
    (folder / "parity.png").unlink()
    with pytest.raises(ArtifactError, match=r"2\.0\.0/parity\.png is missing"):
        store.promote("metal", "2.0.0")


@pytest.mark.parametrize("name", ["parity.svg", "parity.PNG", "a b.png", ".png", "model.pt", "model-2.safetensors"])
def test_what_is_neither_an_image_nor_weights_is_not_published(store: ModelStore, make: Make, name: str) -> None:
    files = with_files(make("metal", "2.0.0"), **{name: PNG})
    assert f"'{name}'" in refuse_publication(store, "metal", "2.0.0", files)
    listed_not_there = {key: content for key, content in files.items() if key != name}
    assert name in refuse_publication(store, "metal", "2.0.0", listed_not_there)
    there_not_listed = make("metal", "2.0.0") | {name: PNG}
    assert name in refuse_publication(store, "metal", "2.0.0", there_not_listed)


def test_a_version_with_fewer_members_than_it_says_is_not_published(store: ModelStore, make: Make) -> None:
    files = make("metal", "2.0.0")
    document = json.loads(files[MANIFEST]) | {"members": 2}
    message = refuse_publication(store, "metal", "2.0.0", files | {MANIFEST: json.dumps(document).encode()})
    assert "2 members needs ['model-2.safetensors']" in message


def test_a_manifest_of_another_version_is_not_published(store: ModelStore, make: Make) -> None:
    assert "manifest of oxide@2.0.0" in refuse_publication(store, "metal", "2.0.0", make("oxide", "2.0.0"))
    assert "manifest of gold@1.0.0" in refuse_publication(store, "silver", "1.0.0", make("gold", "1.0.0"))


def test_a_half_published_version_is_never_seen(store: ModelStore, make: Make) -> None:
    """As after a power cut: the staging folder is still there, one file short."""
    staging = store.root / "metal" / ".2.0.0-abc"
    staging.mkdir()
    (staging / MANIFEST).write_bytes(make("metal", "2.0.0")[MANIFEST])
    fresh = store.root / "gold" / ".1.0.0-abc"
    fresh.mkdir(parents=True)
    assert store.names() == ["metal", "oxide"]
    assert store.versions("metal") == ["1.0.0", "1.1.0"]
    with pytest.raises(ModelNotFoundError):
        store.folder("metal@2.0.0")
    store.publish("metal", "2.0.0", make("metal", "2.0.0"))
    assert store.verify("metal@2.0.0").version == "2.0.0"


def test_readers_see_a_version_whole_or_not_at_all(store: ModelStore, make: Make) -> None:
    stop, seen, partial, whole = threading.Event(), set(), [], set(make("metal", "1.0.0"))

    def watch() -> None:
        while not stop.is_set():
            for version in store.versions("metal"):
                names = {path.name for path in (store.root / "metal" / version).iterdir()}
                seen.add(version)
                if names != whole:
                    partial.append((version, names))

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        for minor in range(2, 12):
            store.publish("metal", f"1.{minor}.0", make("metal", f"1.{minor}.0"))
        stop.set()
        watching.result()
    assert partial == []
    assert {"1.0.0", "1.1.0"} <= seen


def test_of_many_publications_of_one_version_exactly_one_wins(tmp_path: Path, make: Make) -> None:
    store, writers = ModelStore(tmp_path / "store"), 8
    for round_ in range(4):
        name = f"metal-{round_}"
        start = threading.Barrier(writers)

        def publish(writer: int, name: str = name, start: threading.Barrier = start) -> int | str:
            files = make(name, "1.0.0")
            document = json.loads(files[MANIFEST])
            document["created"] = f"writer {writer}"
            start.wait()
            try:
                store.publish(name, "1.0.0", files | {MANIFEST: json.dumps(document).encode()})
            except ArtifactError as error:
                return str(error)
            return writer

        with ThreadPoolExecutor(writers) as pool:
            results = list(pool.map(publish, range(writers)))
        winners = [result for result in results if isinstance(result, int)]
        assert len(winners) == 1, results
        assert store.verify(name).created == f"writer {winners[0]}"
        assert all("1.0.0" in str(result) for result in results if isinstance(result, str))
        assert [path.name for path in (store.root / name).iterdir() if path.name.startswith(".")] == []


def test_many_promotions_at_once_leave_one_version_in_production(store: ModelStore) -> None:
    def promote(index: int) -> None:
        store.promote("metal", ("1.0.0", "1.1.0")[index % 2])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(promote, range(32)))
    assert store.production("metal") in {"1.0.0", "1.1.0"}
    assert [path.name for path in (store.root / "metal").iterdir() if path.name.startswith(".")] == []
