"""A service on a store that a test may change, and versions that must never answer."""

import asyncio
import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx
import safetensors.torch

from deepergatgnn.model_store import ModelStore
from tests.conftest import COMMAND
from tests.support.processes import MODEL, NEW, OLD

UNSOUND, TAMPERED = "1.2.0", "1.3.0"


@dataclass
class Served:
    """A service on a store that a test may change."""

    address: str
    store: ModelStore
    metrics: str

    async def models(self, *arguments: str) -> int:
        """Return the exit status of a `models` command, without blocking the event loop."""
        command = [*COMMAND, "models", *arguments, "--store", str(self.store.root)]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return await process.wait()

    def failures(self) -> float:
        """Promoted versions that the worker found unsound."""
        for line in httpx.get(self.metrics).text.splitlines():
            if line.startswith(f'deepergatgnn_load_failures_total{{model="{MODEL}"}}'):
                return float(line.rpartition(" ")[2])
        return 0.0

    def summary(self) -> tuple[str, str]:
        """Version in production, version that answers."""
        said = httpx.get(f"{self.address}/models/{MODEL}").json()
        return said["production"], said["live"]


def copied(store: ModelStore, version: str) -> dict[str, bytes]:
    """The files of the new version under another number."""
    files = {path.name: path.read_bytes() for path in store.folder(f"{MODEL}@{NEW}").iterdir()}
    document = json.loads(files["manifest.json"]) | {"version": version}
    return files | {"manifest.json": json.dumps(document).encode()}


def publish_unsound(store: ModelStore) -> None:
    """A version whose every sha256 is right, but whose weights are not those that gave its golden values."""
    files = copied(store, UNSOUND)
    tensors = safetensors.torch.load(files["model.safetensors"])
    files["model.safetensors"] = safetensors.torch.save({name: tensor * 1.25 for name, tensor in tensors.items()})
    document = json.loads(files["manifest.json"])
    document["files"]["model.safetensors"] = hashlib.sha256(files["model.safetensors"]).hexdigest()
    files["manifest.json"] = json.dumps(document).encode()
    store.publish(MODEL, UNSOUND, files)


def publish_tampered(store: ModelStore) -> None:
    """A version in which one byte changed after it was published."""
    weights = store.publish(MODEL, TAMPERED, copied(store, TAMPERED)) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)


def point(pointer: Path, version: str) -> None:
    """Replace the pointer atomically, as the store does."""
    new = pointer.with_name("pointed")
    new.write_text(version, "utf-8")
    new.replace(pointer)


def other_weights(root: Path) -> Path:
    """A store of the model and version of `small_store`, sound, with other weights that give other values."""
    shipped = ModelStore()
    files = {path.name: path.read_bytes() for path in shipped.folder(f"{MODEL}@{OLD}").iterdir()}
    document = json.loads(files["manifest.json"])
    document["scaler"]["mean"] += 1.0
    for golden in document["golden"]:
        golden["value"] += 1.0
    store = ModelStore(root)
    store.publish(MODEL, OLD, files | {"manifest.json": json.dumps(document).encode()})
    return root
