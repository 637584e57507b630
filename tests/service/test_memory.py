"""The service does not grow with the number of requests; DEEPERGATGNN_TEST_REQUESTS makes the run a long one."""

import asyncio
import os
from pathlib import Path

import httpx

from tests.service.processes import load
from tests.service.stage import Stage

REQUESTS = int(os.environ.get("DEEPERGATGNN_TEST_REQUESTS", "800"))
WARM = 300
GROWTH_MIB = 24


def resident_mib(process: int) -> float:
    """Memory of a process that is in use."""
    lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def test_memory_does_not_grow_with_requests(stage: Stage) -> None:
    processes = [stage.process.pid, *stage.workers()]

    async def scenario() -> tuple[list[float], list[float]]:
        async with load(stage.address, clients=8) as made:
            await made.more(WARM)
            made.replies.clear()
            before = [resident_mib(process) for process in processes]
            for _ in range(REQUESTS // 100):
                await made.more(100)
                refused = [reply.text for reply in made.replies if reply.status_code != httpx.codes.OK]
                assert refused == []
                made.replies.clear()
            after = [resident_mib(process) for process in processes]
        assert made.broken == []
        return before, after

    before, after = asyncio.run(scenario())
    growth = [now - then for then, now in zip(before, after, strict=True)]
    assert max(growth) < GROWTH_MIB, f"MiB before {before}, after {REQUESTS} requests {after}"
    print(f"MiB of API and workers: {before} after {WARM}, {after} after {REQUESTS} more")  # noqa: T201 - with pytest -s
