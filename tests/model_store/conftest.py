"""The fixtures that these tests share, and some that others have too."""

import json
from pathlib import Path

import pytest

from deepergatgnn.checkpoints.files import MANIFEST
from deepergatgnn.model_store import ModelStore
from tests.support.fixtures import Files, Make, Published, tiny

__all__ = ["tiny"]


@pytest.fixture
def make(tiny: Published) -> Make:
    """Files of the tiny network under another name and version."""

    def files(name: str, version: str) -> Files:
        document = json.loads(tiny.files()[MANIFEST])
        return tiny.files() | {MANIFEST: json.dumps(document | {"name": name, "version": version}).encode()}

    return files


@pytest.fixture
def store(tmp_path: Path, make: Make) -> ModelStore:
    """Metal at 1.0.0 and 1.1.0, oxide at 1.0.0."""
    store = ModelStore(tmp_path / "store")
    for name, version in (("metal", "1.0.0"), ("metal", "1.1.0"), ("oxide", "1.0.0")):
        store.publish(name, version, make(name, version))
    return store
