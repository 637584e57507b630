"""Versions change while two workers answer single requests and bulk streams: nothing fails, nothing unsound answers.

A version may answer what was under way while it was live, or on its way to be: from the command that promotes it until
the API says that the next one answers.
"""

import asyncio
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from deepergatgnn.checkpoints.files import MANIFEST
from deepergatgnn.model_store import ModelStore
from tests.conftest import running, until
from tests.support.fixtures import Published, some_crystals, tiny
from tests.support.processes import MODEL, NEW, OLD, Load, load
from tests.support.versions import TAMPERED, UNSOUND, Served, copied, point, publish_tampered, publish_unsound

__all__ = ["tiny"]

WORKERS = 2
LATER = "1.4.0"  # published while clients post
NDJSON = {"Accept": "application/x-ndjson"}


@pytest.fixture
def served(tiny: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two workers on a store of one tiny model in two versions."""
    store = ModelStore(tmp_path_factory.mktemp("versions") / "store")
    document = json.loads(tiny.files()[MANIFEST]) | {"name": MODEL}
    for version in (OLD, NEW):
        manifest = json.dumps(document | {"version": version}).encode()
        store.publish(MODEL, version, tiny.files() | {MANIFEST: manifest})
    environment = {"DEEPERGATGNN_MODEL_STORE": str(store.root), "DEEPERGATGNN_HEARTBEAT_S": "0.5"}
    command = ["serve", "--port", "0", "--workers", str(WORKERS)]
    with running(*command, ready="^ready on ", **environment) as (_, line):
        address = line.removeprefix("ready on ")
        until(lambda: httpx.get(f"{address}/readyz").json().get("workers") == WORKERS, "both workers beat", 120)
        yield Served(address, store, f"{address}/metrics")


@dataclass
class Reign:
    """A version, and the time in which it may answer."""

    version: str
    since: float = -math.inf
    until: float = math.inf


@dataclass
class Said:
    """A version that answered, and when it was asked and had answered."""

    version: str
    asked: float
    answered: float


@dataclass
class Traffic:
    """What clients get while versions change.

    Attributes:
        served: the service.
        made: single requests.
        lines: of bulk requests.
        failed: of these, what is not a prediction.
        reigns: versions that may answer, in their order.
    """

    served: Served
    made: Load
    lines: list[Said] = field(default_factory=list)
    failed: list[Any] = field(default_factory=list)
    reigns: list[Reign] = field(default_factory=lambda: [Reign(OLD)])

    async def stream_on(self, client: httpx.AsyncClient) -> None:
        """Post many crystals again and again."""
        crystals = [c for c in some_crystals(200) if c.n_atoms <= 4][:24]
        structures = [
            {
                "id": str(index),
                "structure": {
                    "lattice": crystal.lattice.tolist(),
                    "species": list(crystal.symbols),
                    "frac_coords": crystal.frac_coords.tolist(),
                },
            }
            for index, crystal in enumerate(crystals)
        ]
        body = {"structures": structures, "attention": "none"}
        while not self.made.stopping:
            asked, names = time.monotonic(), list[str]()
            async with client.stream("POST", "/predict/batch", json=body, headers=NDJSON) as reply:
                if reply.status_code != httpx.codes.OK:
                    self.failed.append((reply.status_code, await reply.aread()))
                    continue
                async for line in reply.aiter_lines():
                    result = json.loads(line)
                    names.append(result["id"])
                    if "error" in result:
                        self.failed.append(result)
                    else:
                        [said] = result["predictions"]
                        self.lines.append(Said(said["version"], asked, time.monotonic()))
            if set(names) != {str(index) for index in range(len(structures))} or len(names) != len(structures):
                self.failed.append(names)

    def singles(self) -> list[Said]:
        """Of single requests."""
        return [Said(version, *span) for version, span in zip(self.made.versions, self.made.spans, strict=True)]

    def illegal(self) -> list[Said]:
        """Answers of a version that could not be live at any time of their request."""
        return [
            said
            for said in [*self.singles(), *self.lines]
            if not any(
                said.version == reign.version and said.asked <= reign.until and said.answered >= reign.since
                for reign in self.reigns
            )
        ]

    async def change_to(self, version: str, *command: str) -> None:
        """Promote or roll back, and go on when clients of both kinds have answers of that version."""
        self.reigns.append(Reign(version, time.monotonic()))
        assert await self.served.models(*command) == 0
        await eventually(lambda: self.served.summary() == (version, version), f"{version} answers")
        self.reigns[-2].until = now = time.monotonic()
        await self.have(version, now)

    async def have(self, version: str, since: float) -> None:
        """Wait until clients of both kinds have answers of a version to what they asked since."""
        end = time.monotonic() + 60
        while not all(
            any(said.version == version and said.asked >= since for said in latest)
            for latest in (self.singles()[-20:], self.lines[-50:])
        ):
            assert time.monotonic() < end, f"{version} does not answer: {self.lines[-1:]}, {self.failed[:3]}"
            await asyncio.sleep(0.05)

    async def keep(self, refused: str, before: dict[str, float]) -> None:
        """Both workers look at a version in production that is not sound, and that which answered goes on."""
        live = self.reigns[-1].version

        def known() -> bool:
            counted = refusals(self.served)
            return sum(count > before.get(worker, 0) for worker, count in counted.items()) == WORKERS

        await eventually(known, f"both workers refuse {refused}")
        await eventually(lambda: self.served.summary() == (refused, live), "the API sees what is in production")
        await self.have(live, time.monotonic())


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that clients do not wait for."""
    await asyncio.to_thread(until, condition, what)


def by_worker(served: Served, metric: str) -> dict[str, float]:
    """What each worker has counted."""
    found = re.finditer(
        rf'^{metric}{{(?=[^}}]*worker="([^"]+)")[^}}]*}} (\S+)$', httpx.get(served.metrics).text, re.MULTILINE
    )
    return {worker: float(value) for worker, value in (each.groups() for each in found)}


def refusals(served: Served) -> dict[str, float]:
    """Promoted versions that each worker found unsound."""
    return by_worker(served, "deepergatgnn_load_failures_total")


async def versions_change(traffic: Traffic) -> None:
    """Sound ones and unsound ones, by the commands and past them."""
    served, pointer = traffic.served, traffic.served.store.root / MODEL / "production"
    await traffic.have(OLD, 0)
    await traffic.change_to(NEW, "promote", f"{MODEL}@{NEW}")
    await traffic.change_to(OLD, "rollback", MODEL)
    await traffic.change_to(NEW, "promote", f"{MODEL}@{NEW}")

    publish_unsound(served.store)
    before = refusals(served)
    assert await served.models("promote", f"{MODEL}@{UNSOUND}") == 0
    await traffic.keep(UNSOUND, before)
    assert await served.models("rollback", MODEL) == 0
    await eventually(lambda: served.summary() == (NEW, NEW), "the API sees the rollback")

    publish_tampered(served.store)
    assert await served.models("promote", f"{MODEL}@{TAMPERED}") == 1
    before = refusals(served)
    await asyncio.to_thread(point, pointer, TAMPERED)
    await traffic.keep(TAMPERED, before)

    served.store.publish(MODEL, LATER, copied(served.store, LATER))
    await traffic.change_to(LATER, "promote", f"{MODEL}@{LATER}")


def test_with_two_workers_no_request_of_either_lane_fails_while_versions_change(served: Served) -> None:
    async def scenario() -> Traffic:
        async with (
            httpx.AsyncClient(base_url=served.address, timeout=120) as client,
            asyncio.TaskGroup() as group,
            load(served.address, clients=2) as made,
        ):
            traffic = Traffic(served, made)
            group.create_task(traffic.stream_on(client))
            await versions_change(traffic)
        return traffic

    traffic = asyncio.run(scenario())
    assert traffic.made.broken == []
    assert set(traffic.made.statuses) == {200}
    assert traffic.failed == []
    assert traffic.illegal() == []
    assert {said.version for said in traffic.lines} == {said.version for said in traffic.singles()} == {OLD, NEW, LATER}
    computed = by_worker(served, "deepergatgnn_batch_structures_count")
    assert len(computed) == WORKERS
    assert min(computed.values()) > 0
