"""Versions change under load: no request fails, and what is not sound never answers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from deepergatgnn.model_store import ModelStore
from tests.conftest import running, until
from tests.support.brokers import free_port
from tests.support.processes import MODEL, NEW, OLD, Load, load, small_store
from tests.support.versions import TAMPERED, UNSOUND, Served, point, publish_tampered, publish_unsound


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    store = small_store(tmp_path_factory.mktemp("versions") / "store", OLD, NEW)
    port = free_port()
    environment = {"DEEPERGATGNN_MODEL_STORE": str(store), "DEEPERGATGNN_METRICS_PORT": str(port)}
    with running("serve", "--port", "0", ready="^ready on ", **environment) as (_, line):
        yield Served(line.removeprefix("ready on "), ModelStore(store), f"http://127.0.0.1:{port}/metrics")


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
