"""The threads of a worker: chosen by measurement, again while it runs, reported in the metrics and the log."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from deepergatgnn import threads
from deepergatgnn.service.settings import Settings
from deepergatgnn.service.telemetry.worker_metrics import worker_report
from deepergatgnn.service.worker import device_tuning
from deepergatgnn.service.worker.measurements import measure_threads
from deepergatgnn.service.worker.process import WorkerParts
from tests.support.processes import small_store


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_chosen", None)
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


async def chosen(parts: WorkerParts) -> tuple[int, int]:
    """The threads that a worker reports, and those of its device thread."""
    await parts.tuner.choose_threads()
    return parts.tuner.threads, await parts.device.run(torch.get_num_threads)


@pytest.mark.parametrize(("setting", "cores", "expected"), [(0, 2, 1), (3, 2, 3), (1, 16, 1)])
def test_two_cores_have_one_thread_unless_more_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, setting: int, cores: int, expected: int
) -> None:
    async def scenario() -> tuple[int, int]:
        return await chosen(WorkerParts(Settings(threads=setting, device="cpu"), "unix:///nowhere"))

    monkeypatch.setattr(device_tuning, "available_cores", lambda: cores)
    assert asyncio.run(scenario()) == (expected, expected)
    assert f"deepergatgnn_threads {expected}.0" in worker_report().decode()


def test_threads_are_measured_again_as_the_load_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def scenario() -> list[tuple[int, int]]:
        parts = WorkerParts(Settings(device="cpu", model_store=small_store(tmp_path)), "unix:///nowhere")
        await parts.device.run(parts.loader.load_production)
        real = measure_threads(parts.engine.predictors[0], [1, 2])
        assert list(real) == [1, 2]
        assert min(real.values()) > 0
        found = []
        for alone in (True, False):
            seconds = {1: 1.0, 2: 0.6, 4: 0.4} if alone else {1: 1.0, 2: 5.0, 4: 9.0}
            monkeypatch.setattr(device_tuning, "measure_threads", lambda *_, seconds=seconds: seconds)
            found.append(await chosen(parts))
        return found

    monkeypatch.setattr(device_tuning, "available_cores", lambda: 8)
    with capture_logs() as logs:
        assert asyncio.run(scenario()) == [(4, 4), (1, 1)]
    assert [line["threads"] for line in logs if line["event"] == "threads"] == [4, 1]
