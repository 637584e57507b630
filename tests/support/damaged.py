"""Checkpoint folders that are damaged on purpose."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save
from torch import Tensor

from deepergatgnn.checkpoints.files import MANIFEST, WEIGHTS, digest
from deepergatgnn.checkpoints.weights import load_artifact
from deepergatgnn.errors import ArtifactError

Tensors = dict[str, Tensor]
Document = dict[str, Any]


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
