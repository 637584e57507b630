"""What a busy host does to parse processes: it is never held against a file, and no file is read twice for it."""

import asyncio
from pathlib import Path

import pytest

from deepergatgnn.errors import StructureError
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.parsing import fork_server
from deepergatgnn.service.parsing import pool as parse_pool
from deepergatgnn.service.parsing.parse_worker import TRIES
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.service.parsing.wire import ParsedStructure
from tests.service.parsing.test_pool import CIF, CONFIGS, parse_processes, with_pool
from tests.support import hostile_parsing

QUICK_S = 0.6


@pytest.fixture(autouse=True)
def _hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "run_parser", hostile_parsing.serve)


def parse_all(*files: bytes, processes: int = 1, timeout_s: float = 30.0) -> list[object]:
    """What becomes of files that are posted at once."""

    async def scenario(pool: ParsePool) -> list[object]:
        work = (pool.parse(file, "cif", CONFIGS) for file in files)
        return list(await asyncio.gather(*work, return_exceptions=True))

    return with_pool(scenario, processes=processes, timeout_s=timeout_s)


def readings(folder: Path) -> int:
    """How often a process began to read a counted file."""
    return len(list(folder.iterdir()))


def test_a_good_file_that_gets_little_processor_time_is_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its process runs for a quarter of the time, so that it takes longer than the limit by the clock on the wall."""
    monkeypatch.setattr(parse_pool, "WAIT_FACTOR", 1000)  # this host may have other things to do too

    async def scenario(pool: ParsePool) -> tuple[ParsedStructure, float]:
        [process] = parse_processes()
        loop = asyncio.get_running_loop()
        began = loop.time()
        parsing = asyncio.create_task(pool.parse(hostile_parsing.counted(tmp_path) + CIF, "cif", CONFIGS))
        while not parsing.done():
            process.suspend()
            await asyncio.sleep(0.06)
            process.resume()
            await asyncio.sleep(0.02)
        return await parsing, loop.time() - began

    parsed, seconds = with_pool(scenario, timeout_s=QUICK_S)
    assert parsed.n_atoms == 12
    assert seconds > QUICK_S
    assert readings(tmp_path) == 1


@pytest.mark.parametrize("mark", [hostile_parsing.STOPS, hostile_parsing.KILLED])
def test_a_file_whose_processes_the_host_takes_away_is_no_error_of_its_client(mark: bytes) -> None:
    [result] = parse_all(mark + CIF)
    assert isinstance(result, ServiceError)
    assert result.code == "parsing_delayed"
    assert result.retry_after_s


def test_a_file_that_waits_for_too_long_is_to_be_sent_again() -> None:
    """All processes that there are were stopped, and so are those that take their place."""
    mark = hostile_parsing.STOPS + CIF
    results = parse_all(*[mark] * 4, timeout_s=0.2)
    assert [type(result) for result in results] == [ServiceError] * 4


@pytest.mark.parametrize("kills", range(1, TRIES))
def test_a_file_whose_process_is_killed_has_another_try(tmp_path: Path, kills: int) -> None:
    async def scenario(pool: ParsePool) -> ParsedStructure:
        parsing = asyncio.create_task(pool.parse(hostile_parsing.counted(tmp_path) + CIF, "cif", CONFIGS))
        for number in range(kills):
            while readings(tmp_path) == number:  # noqa: ASYNC110 - another process is watched
                await asyncio.sleep(0.005)
            parse_processes()[0].kill()
        return await parsing

    assert with_pool(scenario).n_atoms == 12
    assert readings(tmp_path) == kills + 1


@pytest.mark.parametrize("processes", [1, 2])
def test_files_that_take_long_are_read_once_each(tmp_path: Path, processes: int) -> None:
    """They look small: more than one is sent to a process before it is seen that each takes long."""
    results = parse_all(*[hostile_parsing.counted(tmp_path) + CIF] * 8, processes=processes)
    assert [type(result) for result in results] == [ParsedStructure] * 8
    assert readings(tmp_path) == 8


def test_files_behind_a_process_that_was_stopped_are_read_once_each(tmp_path: Path) -> None:
    async def scenario(pool: ParsePool) -> list[ParsedStructure]:
        one = parse_processes()[0]
        one.suspend()
        work = [
            asyncio.create_task(pool.parse(hostile_parsing.counted(tmp_path) + CIF, "cif", CONFIGS)) for _ in range(4)
        ]
        await asyncio.sleep(0.5)
        one.resume()
        return await asyncio.gather(*work)

    assert len(with_pool(scenario, processes=2)) == 4
    assert readings(tmp_path) == 4


@pytest.mark.parametrize("mark", [hostile_parsing.HANGS, hostile_parsing.LIMITED])
def test_what_is_said_of_a_file_that_takes_too_long_fits_a_small_cell(mark: bytes) -> None:
    [result] = parse_all(mark + CIF, timeout_s=QUICK_S)
    assert isinstance(result, StructureError)
    assert "of processor time" in result.detail
    assert "cell" not in result.detail
    assert "memory" not in result.detail
