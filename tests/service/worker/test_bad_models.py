"""A bad model costs itself alone: others answer, nothing ends, and it is said which one is bad and why."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch

from deepergatgnn.checkpoints.files import MANIFEST, WEIGHTS, digest
from deepergatgnn.errors import ArtifactError
from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.serialization import pack_graph
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.service.messages import InferenceRequest
from deepergatgnn.service.prediction.catalogue import Catalogue
from deepergatgnn.service.worker import engine as engines
from deepergatgnn.service.worker.engine import Engine
from deepergatgnn.service.worker.model_loader import ModelLoader
from tests.conftest import COMMAND, running, until
from tests.support.fixtures import Published, some_crystals, tiny
from tests.support.processes import CIF, HEADERS, PREDICT

__all__ = ["tiny"]
GOOD = "good"


def put(store: Path, name: str, files: dict[str, bytes]) -> Path:
    """A version as a careless hand puts it there, without any check and without a manifest digest."""
    folder = store / name / "1.0.0"
    folder.mkdir(parents=True)
    document = json.loads(files[MANIFEST]) | {"name": name, "version": "1.0.0"}
    for file, content in (files | {MANIFEST: json.dumps(document).encode()}).items():
        (folder / file).write_bytes(content)
    (store / name / "production").write_text("1.0.0\n", "utf-8")
    return folder


def edited(change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        document = json.loads((folder / MANIFEST).read_text("utf-8"))
        change(document)
        (folder / MANIFEST).write_text(json.dumps(document), "utf-8")

    return edit


def golden(**fields: object) -> Callable[[Path], None]:
    def change(document: dict[str, object]) -> None:
        document["golden"] = [dict(each) | fields for each in document["golden"]]  # type: ignore[attr-defined]

    return edited(change)


def of_zeros(folder: Path) -> None:
    """Weights that are whole, have the right sha256, and are none."""
    content = bytes(len((folder / WEIGHTS).read_bytes()))
    (folder / WEIGHTS).write_bytes(content)
    edited(lambda document: document["files"].update({WEIGHTS: digest(content)}))(folder)  # type: ignore[attr-defined]


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FAULTS: dict[str, Callable[[Path], object]] = {
    "no-pointer": lambda folder: (folder.parent / "production").unlink(),
    "empty-pointer": lambda folder: (folder.parent / "production").write_bytes(b""),
    "pointer-no-text": lambda folder: (folder.parent / "production").write_bytes(b"\xff\xfe\0"),
    "pointer-a-fifo": lambda folder: as_fifo(folder.parent / "production"),
    "pointer-elsewhere": lambda folder: (folder.parent / "production").write_text("3.0.0"),
    "golden-empty": edited(lambda document: document.update(golden=[])),
    "golden-unknown-element": golden(species=["Xx", "Xx"]),
    "golden-too-many-species": golden(species=["Na"] * 50),
    "golden-flat-cell": golden(lattice=[[0.0, 0.0, 0.0]] * 3),
    "golden-other-value": golden(value=1e6),
    "manifest-no-json": lambda folder: (folder / MANIFEST).write_bytes(b"{" * 100_000),
    "manifest-a-fifo": lambda folder: as_fifo(folder / MANIFEST),
    "weights-missing": lambda folder: (folder / WEIGHTS).unlink(),
    "weights-cut": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100]),
    "weights-of-zeros": of_zeros,
    "weights-a-fifo": lambda folder: as_fifo(folder / WEIGHTS),
    "other-channels": edited(lambda document: document["network"].update(channels=8)),  # type: ignore[attr-defined]
}


@pytest.fixture(scope="module")
def store(tiny: Published, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """One good model among all the bad ones."""
    root = tmp_path_factory.mktemp("bad-models") / "store"
    put(root, GOOD, tiny.files())
    for name, fault in FAULTS.items():
        fault(put(root, name, tiny.files()))
    shutil.copytree(root / GOOD, root / "unreadable")
    (root / "a-file").write_text("no folder", "utf-8")
    return ModelStore(root)


@pytest.fixture(scope="module")
def engine(store: ModelStore) -> Engine:
    return Engine(store, torch.device("cpu"), "test")


@pytest.fixture(scope="module")
def loader(store: ModelStore, engine: Engine) -> ModelLoader:
    made = ModelLoader(store, engine)
    made.load_production()
    return made


def test_the_good_model_is_loaded_and_each_bad_one_named_with_its_reason(
    store: ModelStore, engine: Engine, loader: ModelLoader
) -> None:
    assert engine.loaded == [store.version(GOOD).identity]
    assert {which.partition("@")[0] for which in loader.failed} == {*FAULTS, "unreadable"}
    production, missing = loader.read_production()
    assert store.version(GOOD).identity in production
    assert f"{GOOD}@1.0.0" not in missing


def test_verify_finds_what_a_worker_would_find(store: ModelStore, loader: ModelLoader) -> None:
    command = [*COMMAND, "models", "verify", "--json", "--store", str(store.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert (done.returncode, f"{GOOD}@1.0.0" in told["verified"]) == (1, True), done.stderr
    assert {which.partition("@")[0] for which in told["failed"]} == {which.partition("@")[0] for which in loader.failed}


def test_a_bad_version_that_is_asked_for_is_an_error_of_its_entry_alone(store: ModelStore, engine: Engine) -> None:
    good = store.version(GOOD)
    graph = pack_graph(build_graph(some_crystals(3)[1], good.manifest.graph))

    def request(name: str, identity: str) -> InferenceRequest:
        late = time.time() + 60
        return InferenceRequest(id=name, reply_to="api", models=(identity,), deadline=late, packed=graph)

    bad = [f"{name}@1.0.0:{'0' * 32}" for name in FAULTS] + [f"{GOOD}@1.0.0", f"{GOOD}@1.0.0:{'0' * 32}", "no model"]
    bad += [store.version(f"{name}@1.0.0").identity for name in ("golden-other-value", "weights-missing")]
    entries = [request(str(number), identity) for number, identity in enumerate(bad)]
    answers = engine.answer([*entries, request("good", good.identity)]).replies
    assert answers.pop().error is None
    assert {answer.error and answer.error[0] for answer in answers} == {"model_unavailable"}


@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("x"), RecursionError(), MemoryError(), ArtifactError("x")]
)
def test_whatever_goes_wrong_with_a_version_ends_no_worker(
    store: ModelStore, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Predictor:
        raise error

    monkeypatch.setattr(engines.Predictor, "load", broken)
    with pytest.raises(ArtifactError):
        Engine(store, torch.device("cpu"), "test").load(f"{GOOD}@1.0.0")


def test_a_request_without_models_gets_the_loaded_ones(store: ModelStore, engine: Engine, loader: ModelLoader) -> None:
    catalogue = Catalogue(store, lambda: frozenset(engine.loaded), lambda: loader.failed)
    assert [version.manifest.name for version in catalogue.resolve([]).versions] == [GOOD]
    offer = catalogue.availability()
    assert list(offer.ready) == [f"{GOOD}@1.0.0"]
    assert {which.partition("@")[0] for which in offer.failed} == {*FAULTS, "unreadable"}
    assert all(offer.failed.values())


def test_a_version_that_was_put_there_anew_is_read_anew(tiny: Published, tmp_path: Path) -> None:
    folder = put(tmp_path, GOOD, tiny.files())
    catalogue = Catalogue(ModelStore(tmp_path))
    before = catalogue.version(GOOD, "1.0.0").identity
    edited(lambda document: document["target"].update(description="another"))(folder)  # type: ignore[attr-defined]
    assert catalogue.version(GOOD, "1.0.0").identity != before


@dataclass
class Served:
    address: str
    process: "subprocess.Popen[str]"


@pytest.fixture(scope="module")
def served(store: ModelStore) -> Iterator[Served]:
    environment = {"DEEPERGATGNN_MODEL_STORE": str(store.root)}
    with running("serve", "--port", "0", ready="^ready on ", **environment) as (process, line):
        yield Served(line.removeprefix("ready on "), process)


def test_no_route_fails_for_a_bad_model(served: Served) -> None:
    names = [GOOD, *FAULTS, "unreadable", "a-file"]
    with httpx.Client(base_url=served.address, timeout=60) as client:
        until(lambda: client.get("/readyz").status_code == httpx.codes.OK, "it is ready")
        models = client.get("/readyz").json()["models"]
        assert models["ready"] == [f"{GOOD}@1.0.0"]
        assert {which.partition("@")[0] for which in models["failed"]} == {*FAULTS, "unreadable"}
        listed = client.get("/models")
        assert GOOD in {model["name"] for model in listed.json()["models"]}
        reply = client.post(PREDICT, content=CIF, headers=HEADERS)
        assert [each["model"] for each in reply.json()["predictions"]] == [GOOD], reply.text
        for name in names:
            statuses = {client.get(f"/models/{name}").status_code, client.get(f"/models/{name}/1.0.0").status_code}
            for reference in (name, f"{name}@1.0.0"):
                reply = client.post(PREDICT, params={"models": reference}, content=CIF, headers=HEADERS)
                statuses.add(reply.status_code)
                assert str(Path(served.address).parent) not in reply.text
            assert statuses <= {200, 404, 503}, name
        assert client.post(PREDICT, content=CIF, headers=HEADERS).status_code == httpx.codes.OK
