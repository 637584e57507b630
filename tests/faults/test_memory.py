"""The service does not grow with the number of requests; DEEPERGATGNN_TEST_REQUESTS makes the run a long one."""

import asyncio
import contextlib
import os

import httpx
import psutil

from tests.support.faulty_service import Stage
from tests.support.processes import load

REQUESTS = int(os.environ.get("DEEPERGATGNN_TEST_REQUESTS", "800"))
WARM = 300
GROWTH_MIB = 24


def resident_mib(stage: Stage) -> dict[str, float]:
    """Memory in use by the largest process of each role."""
    found: dict[str, float] = {"broker": psutil.Process(stage.broker.pid).memory_info().rss / 2**20}
    api = psutil.Process(stage.process.pid)
    for process in (api, *api.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # a parse process was replaced meanwhile
            command = " ".join(process.cmdline())
            role = "api" if process == api else "worker" if "deepergatgnn.service.worker" in command else "parser"
            found[role] = max(found.get(role, 0.0), process.memory_info().rss / 2**20)
    return found


def test_memory_does_not_grow_with_requests(stage: Stage) -> None:
    async def scenario() -> tuple[dict[str, float], dict[str, float]]:
        async with load(stage.address, clients=8) as made:
            await made.more(WARM)
            made.replies.clear()
            before = resident_mib(stage)
            for _ in range(REQUESTS // 100):
                await made.more(100)
                refused = [reply.text for reply in made.replies if reply.status_code != httpx.codes.OK]
                assert refused == []
                made.replies.clear()
            after = resident_mib(stage)
        assert made.broken == []
        return before, after

    before, after = asyncio.run(scenario())
    assert before.keys() == after.keys() == {"api", "broker", "parser", "worker"}
    assert max(after[role] - before[role] for role in before) < GROWTH_MIB, f"MiB {before}, {after} later"
    print(f"MiB {before} after {WARM}, {after} after {REQUESTS} more")  # noqa: T201 - with pytest -s
