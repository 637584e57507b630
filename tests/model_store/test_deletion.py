"""Deleting versions: for good, never the one in production by mistake, and no number is given twice."""

import json
import shutil
import subprocess

import pytest

from deepergatgnn.errors import ArtifactError, ConfigError, ModelNotFoundError
from deepergatgnn.model_store import ModelStore
from tests.conftest import COMMAND, ROOT
from tests.support.fixtures import Make


def test_a_version_is_gone_and_its_number_stays_taken(store: ModelStore, make: Make) -> None:
    assert store.delete("metal", "1.1.0") == "1.0.0"
    assert store.versions("metal") == ["1.0.0"]
    assert not [path.name for path in (store.root / "metal").iterdir() if "1.1.0" in path.name]
    assert store.next_version("metal") == "1.2.0"
    with pytest.raises(ArtifactError, match=r"metal@1\.1\.0 was deleted"):
        store.publish("metal", "1.1.0", make("metal", "1.1.0"))
    with pytest.raises(ModelNotFoundError, match=r"no version 1\.1\.0"):
        store.delete("metal", "1.1.0")
    store.publish("metal", "1.2.0", make("metal", "1.2.0"))
    assert store.verify("metal@1.2.0")
    assert store.production("metal") == "1.0.0"


def test_that_in_production_only_by_force(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match=r"metal@1\.0\.0 is in production: promote another one first \(1\.1\.0\)"):
        store.delete("metal", "1.0.0")
    with pytest.raises(ConfigError, match="it is the only version"):
        store.delete("oxide", "1.0.0")
    assert store.names() == ["metal", "oxide"]
    assert store.delete("oxide", "1.0.0", force=True) is None
    assert store.names() == ["metal"]
    assert store.next_version("oxide") == "1.1.0"


def test_by_force_the_one_before_it_is_in_production(store: ModelStore, make: Make) -> None:
    store.publish("metal", "2.0.0", make("metal", "2.0.0"))
    for version in ("1.1.0", "2.0.0", "1.1.0", "2.0.0"):
        store.promote("metal", version)
    assert store.delete("metal", "2.0.0", force=True) == "1.1.0" == store.production("metal")
    assert store.rollback("metal") == "1.0.0"
    store.promote("metal", "1.1.0")
    assert store.delete("metal", "1.0.0") == "1.1.0"
    with pytest.raises(ConfigError, match="no other version"):
        store.rollback("metal")
    assert store.delete("metal", "1.1.0", force=True) is None  # never promoted versions are not taken for it
    with pytest.raises(ModelNotFoundError):
        store.production("metal")


def test_nothing_is_deleted_for_a_damaged_version(store: ModelStore) -> None:
    store.promote("metal", "1.1.0")
    (store.root / "metal" / "1.0.0" / "card.md").write_text("other", "utf-8")
    with pytest.raises(ArtifactError):
        store.delete("metal", "1.1.0", force=True)
    assert store.production("metal") == "1.1.0"
    assert store.delete("metal", "1.0.0") == "1.1.0"  # the damaged one itself goes


def test_the_command_says_what_is_left(store: ModelStore) -> None:
    command = [*COMMAND, "models", "delete", "--store", str(store.root)]

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    for arguments, said in (
        (["metal@1.0.0"], "metal@1.0.0 is in production"),
        (["metal"], "'metal' has no version: write metal@VERSION"),
        (["metal@9.0.0"], "no version 9.0.0"),
        (["../metal@1.0.0"], "is not a model"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    before = shutil.copytree(store.root, store.root.with_name("before"))
    assert sorted(path.name for path in before.rglob("*")) == sorted(path.name for path in store.root.rglob("*"))
    done = run("metal@1.1.0", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"deleted": "metal@1.1.0", "production": "1.0.0"}
    assert run("metal@1.0.0", "--force").stdout == "metal@1.0.0 is deleted; no version is in production\n"
    assert store.names() == ["oxide"]
