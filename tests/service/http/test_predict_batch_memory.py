"""A batch is computed as its response is read: few results are buffered, in either form and of any size."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, Self, cast

import httpx
import psutil
import pytest
from fastapi import Request

from deepergatgnn.service.http import predict_batch as bulk
from deepergatgnn.service.http.dependencies import Dependencies
from deepergatgnn.service.http.rate_limits import ANONYMOUS
from deepergatgnn.service.parsing.wire import BodyItem, RequestBody
from deepergatgnn.service.prediction.pipeline import PredictionInput
from deepergatgnn.service.scheduling.admission import Admission, Demand, Ticket
from deepergatgnn.service.scheduling.parse_cost import Size
from deepergatgnn.service.settings import Settings
from tests.conftest import running
from tests.support.processes import MODEL, NEW, OLD, small_store

MIB = 1 << 20
COUNT = 120
MANY = 200
MANY_ATOMS = """data_x
_cell_length_a 14.4
_cell_length_b 14.4
_cell_length_c 14.4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Si1 Si 0.07 0.16 0.27
"""  # 192 of them


class PredictionPipeline:
    """Pipeline that answers with a given size, every seventh time more slowly, and counts its calls."""

    def __init__(self, size: int) -> None:
        self.size, self.begun = size, 0

    def demand(self, _models: Sequence[str], _size: Size) -> Demand:
        """Predict the seconds of each."""
        return Demand(0.0, 0.001)

    async def answer(self, posted: PredictionInput, *, ticket: Ticket, **_: Any) -> dict[str, Any]:
        """Answer one."""
        self.begun += 1
        for _ in range(50 if self.begun % 7 == 0 else 1):
            await asyncio.sleep(0)
        with ticket.crystal() as crystal:
            crystal.price(0.001)
        return {"id": posted.id, "text": "x" * self.size}


def results(pipeline: PredictionPipeline, *, in_order: bool) -> AsyncGenerator[tuple[int, bytes]]:
    """Results of a request for many crystals."""
    dependencies = SimpleNamespace(
        admission=Admission(Settings()), pipeline=pipeline, tracing=SimpleNamespace(enabled=False)
    )
    items = [BodyItem(str(number), "cif", memoryview(b"data_x")) for number in range(COUNT)]
    body = RequestBody([], attention=False, embedding=False, items=items)
    request = Request(
        {"type": "http", "state": {"request_id": "mine", "caller": ANONYMOUS}, "client": ("127.0.0.1", 1)}
    )
    return bulk._results(cast("Dependencies", dependencies), body, request, 1e12, in_order=in_order)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("size", [100, 100_000, MIB])
def test_no_more_is_started_than_may_be_buffered(size: int, in_order: bool) -> None:
    async def run() -> tuple[list[int], int]:
        pipeline = PredictionPipeline(size)
        given: list[int] = []
        ahead = 0
        async with aclosing(results(pipeline, in_order=in_order)) as found:
            async for index, content in found:
                assert json.loads(content)["id"] == str(index)
                given.append(index)
                ahead = max(ahead, pipeline.begun - len(given))
                await asyncio.sleep(0.002 if len(given) % 10 == 0 else 0)  # a reader that pauses
        return given, ahead

    given, ahead = asyncio.run(run())
    assert sorted(given) == list(range(COUNT))
    assert not in_order or given == sorted(given)
    assert ahead * size <= 1.1 * max(bulk.MAX_BUFFERED, bulk.WINDOW[0] * size)
    assert bulk._Buffer.total == 0


def test_a_disconnection_empties_the_buffer() -> None:
    async def run() -> None:
        async with aclosing(results(PredictionPipeline(100_000), in_order=True)) as found:
            async for index, _ in found:
                if index == 20:
                    break

    asyncio.run(run())
    assert bulk._Buffer.total == 0


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[psutil.Process, str]]:
    store = small_store(tmp_path_factory.mktemp("memory") / "store", OLD, NEW)
    with running("serve", "--port", "0", ready="^ready on ", DEEPERGATGNN_MODEL_STORE=str(store)) as (process, line):
        yield psutil.Process(process.pid), line.removeprefix("ready on ")


class Peak:
    """The most memory that a process had while a block ran, above what it had before."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._ended = process, threading.Event()
        self._before = self._most = 0
        self._thread = threading.Thread(target=self._watch)

    @property
    def mib(self) -> float:
        """In MiB."""
        return (self._most - self._before) / MIB

    def __enter__(self) -> Self:
        self._before = self._most = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self._most = max(self._most, self._process.memory_info().rss)


def test_the_service_does_not_keep_its_answer(serving: tuple[psutil.Process, str]) -> None:
    """As JSON, which once was buffered twice."""
    process, address = serving
    crystals = [{"structure": MANY_ATOMS}] * MANY
    models = [f"{MODEL}@{OLD}", f"{MODEL}@{NEW}"]
    httpx.post(f"{address}/predict/batch", json={"structures": crystals[:16], "models": models}, timeout=300)
    posted = {"structures": crystals, "models": models}
    with Peak(process) as peak, httpx.stream("POST", f"{address}/predict/batch", json=posted, timeout=300) as reply:
        assert reply.status_code == httpx.codes.OK
        answer = b"".join(reply.iter_bytes())
    results = json.loads(answer)["results"]
    assert [result["id"] for result in results] == [str(number) for number in range(MANY)]
    assert all(len(result["predictions"]) == len(models) for result in results)
    assert len(answer) > 7 * MIB
    assert peak.mib * MIB < len(answer)
