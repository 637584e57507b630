"""The threads of a worker: what was chosen, while it runs, and where it is told."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from deepergatgnn import threads
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry.worker_metrics import worker_report
from deepergatgnn.service.worker import worker
from deepergatgnn.service.worker.worker import Worker
from tests.support.processes import small_store


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_chosen", None)
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


async def chosen(made: Worker) -> tuple[int, int]:
    """What a worker says, and what its device thread has."""
    await made.choose_threads()
    return made.threads, await made.on_device(torch.get_num_threads)


@pytest.mark.parametrize(("setting", "cores", "expected"), [(0, 2, 1), (3, 2, 3), (1, 16, 1)])
def test_two_cores_have_one_thread_unless_more_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, setting: int, cores: int, expected: int
) -> None:
    async def scenario() -> tuple[int, int]:
        return await chosen(Worker(Settings(threads=setting, device="cpu"), "unix:///nowhere"))

    monkeypatch.setattr(worker, "available_cores", lambda: cores)
    assert asyncio.run(scenario()) == (expected, expected)
    assert f"deepergatgnn_threads {expected}.0" in worker_report().decode()


def test_threads_are_measured_again_as_the_load_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def scenario() -> list[tuple[int, int]]:
        made = Worker(Settings(device="cpu", model_store=small_store(tmp_path)), "unix:///nowhere")
        await made.on_device(made.engine.load_production)
        real = made.engine.seconds_by_threads([1, 2])
        assert list(real) == [1, 2]
        assert min(real.values()) > 0
        found = []
        for alone in (True, False):
            seconds = {1: 1.0, 2: 0.6, 4: 0.4} if alone else {1: 1.0, 2: 5.0, 4: 9.0}
            monkeypatch.setattr(made.engine, "seconds_by_threads", lambda _, seconds=seconds: seconds)
            found.append(await chosen(made))
        return found

    monkeypatch.setattr(worker, "available_cores", lambda: 8)
    with capture_logs() as logs:
        assert asyncio.run(scenario()) == [(4, 4), (1, 1)]
    assert [line["threads"] for line in logs if line["event"] == "threads"] == [4, 1]
