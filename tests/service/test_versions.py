"""Versions change under load: no request fails, and what is not sound never answers."""

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import safetensors.torch

from model_store import ModelStore
from tests.conftest import COMMAND, running, until
from tests.service.brokers import free_port
from tests.service.processes import MODEL, NEW, OLD, Load, load, small_store

UNSOUND, TAMPERED = "1.2.0", "1.3.0"


@dataclass
class Served:
    """A service on a store that a test may change."""

    address: str
    store: ModelStore
    metrics: str

    async def models(self, *arguments: str) -> int:
        """Exit status of a `models` command, which others do not wait for."""
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


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    store = small_store(tmp_path_factory.mktemp("versions") / "store", OLD, NEW)
    port = free_port()
    environment = {"DEEPERGATGNN_MODEL_STORE": str(store), "DEEPERGATGNN_METRICS_PORT": str(port)}
    with running("serve", "--port", "0", ready="^ready on ", **environment) as (_, line):
        yield Served(line.removeprefix("ready on "), ModelStore(store), f"http://127.0.0.1:{port}/metrics")


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


def under_load(served: Served, change: Callable[[Load], Awaitable[None]]) -> Load:
    """Change something while clients post; whatever happens none of them notices more than another version."""

    async def scenario() -> Load:
        async with load(served.address, clients=4) as made:
            await made.more(10)
            await change(made)
        return made

    made = asyncio.run(scenario())
    assert made.broken == []
    assert set(made.statuses) == {200}
    return made


async def switched(made: Load, version: str) -> None:
    """Wait until a version answers."""
    for _ in range(200):
        await made.more(8)
        if set(made.versions[-8:]) == {version}:
            return
    raise AssertionError(f"{version} does not answer: {made.versions[-8:]}")


def test_promotion_and_rollback_fail_no_request(served: Served) -> None:
    async def change(made: Load) -> None:
        assert await served.models("promote", f"{MODEL}@{NEW}") == 0
        await switched(made, NEW)
        assert await served.models("rollback", MODEL) == 0
        await switched(made, OLD)

    made = under_load(served, change)
    assert made.versions[0] == OLD
    assert served.summary() == (OLD, OLD)
    assert served.failures() == 0


def test_a_version_that_does_not_give_its_golden_values_never_answers(served: Served) -> None:
    publish_unsound(served.store)
    served.store.verify(f"{MODEL}@{UNSOUND}")
    before = served.failures()

    async def change(made: Load) -> None:
        assert await served.models("promote", f"{MODEL}@{UNSOUND}") == 0
        await asyncio.to_thread(until, lambda: served.failures() > before, "the worker refuses it")
        # A production pointer is believed for a second before it is read again.
        await asyncio.to_thread(until, lambda: served.summary() == (UNSOUND, OLD), "the API sees what is promoted")
        await made.more(10)
        assert await served.models("rollback", MODEL) == 0
        await made.more(10)

    assert set(under_load(served, change).versions) == {OLD}


def point(pointer: Path, version: str) -> None:
    """At once, as the store does it: whoever reads sees one version or the other."""
    new = pointer.with_name("pointed")
    new.write_text(version, "utf-8")
    new.replace(pointer)


def test_a_version_with_a_changed_byte_is_not_promoted_and_never_answers(served: Served) -> None:
    publish_tampered(served.store)
    before = served.failures()
    pointer = served.store.root / MODEL / "production"

    async def change(made: Load) -> None:
        assert await served.models("promote", f"{MODEL}@{TAMPERED}") == 1
        assert served.store.production(MODEL) == OLD
        await asyncio.to_thread(point, pointer, TAMPERED)  # past the command that checks
        await asyncio.to_thread(until, lambda: served.failures() > before, "the worker refuses it")
        await made.more(10)
        await asyncio.to_thread(point, pointer, OLD)

    assert set(under_load(served, change).versions) == {OLD}
