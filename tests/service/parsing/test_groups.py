"""Files that a parse process reads together: answers as of each alone, and nobody blamed for another's fault."""

import asyncio
import contextlib
from collections.abc import Sequence

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.io.cif import CifWriter

from deepergatgnn.errors import StructureError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.service.parsing import fork_server
from deepergatgnn.service.parsing.pool import ParsePool
from deepergatgnn.service.parsing.process import GROUP_FILES
from deepergatgnn.service.parsing.wire import Frames, ParsedStructure, Reply, WireError, decode_reply, frame
from deepergatgnn.structures import crystal_to_pymatgen
from tests.service.parsing.test_pool import CIF, parse_processes, with_pool
from tests.support import hostile_parsing
from tests.support.fixtures import some_crystals
from tests.support.parsing import parse

CONFIGS = (GraphConfig(angles=8), GraphConfig())
EMPTY = b"data_x\n"
SPARSE = b"Na\n1.0\n40 0 0\n0 40 0\n0 0 40\nNa\n1\ndirect\n0 0 0\n"  # it is read, and has no graph


def texts(count: int) -> list[bytes]:
    return [str(CifWriter(crystal_to_pymatgen(crystal))).encode() for crystal in some_crystals(count)]


async def together(pool: ParsePool, files: Sequence[bytes], configs: Sequence[GraphConfig] = CONFIGS) -> list[object]:
    """The results of files that all wait before the only process begins."""
    [process] = parse_processes()
    process.suspend()
    tasks = [asyncio.create_task(pool.parse(file, "auto", configs)) for file in files]
    await asyncio.sleep(0.02)
    process.resume()
    return list(await asyncio.gather(*tasks, return_exceptions=True))


def outcome(result: object) -> object:
    """All of a result but times."""
    if isinstance(result, StructureError):
        return result.code, result.detail
    assert isinstance(result, ParsedStructure)
    graphs = [(graph.content, graph.n_edges) for graph in result.graphs]
    return result.formula, result.reduced_formula, list(result.symbols), result.cell, graphs


def alone(file: bytes) -> object:
    try:
        return outcome(parse(file, "auto", CONFIGS))
    except StructureError as error:
        return outcome(error)


def test_files_that_are_read_together_are_answered_as_each_alone() -> None:
    files = [*texts(5), EMPTY, SPARSE, *texts(12)[5:], b"nonsense", CIF]
    results = with_pool(lambda pool: together(pool, files))
    assert [outcome(result) for result in results] == [alone(file) for file in files]
    refused = [result.code for result in results if isinstance(result, StructureError)]
    assert refused == ["no_structure", "too_sparse", "unreadable"]


def test_files_that_wait_together_get_their_graphs_at_once() -> None:
    results = with_pool(lambda pool: together(pool, [CIF] * 2 * GROUP_FILES))
    times = [result.graph_ms for result in results if isinstance(result, ParsedStructure)]
    assert len(times) == 2 * GROUP_FILES
    assert len(set(times)) < len(times)  # it is told of all together


def test_files_for_different_models_are_read_together() -> None:
    async def scenario(pool: ParsePool) -> list[object]:
        [process] = parse_processes()
        process.suspend()
        wanted = [CONFIGS, CONFIGS[:1], CONFIGS[1:], CONFIGS[::-1]]
        tasks = [asyncio.create_task(pool.parse(CIF, "auto", configs)) for configs in wanted]
        await asyncio.sleep(0.02)
        process.resume()
        return list(await asyncio.gather(*tasks))

    one, other = parse(CIF, "auto", CONFIGS).graphs
    found = [
        [graph.content for graph in result.graphs]
        for result in with_pool(scenario)
        if isinstance(result, ParsedStructure)
    ]
    assert found == [[one.content, other.content], [one.content], [other.content], [other.content, one.content]]


def test_a_process_that_dies_over_several_files_fails_none() -> None:
    async def scenario(pool: ParsePool) -> list[object]:
        process = parse_processes()[0]
        process.suspend()  # whichever files it gets, it holds
        files = [asyncio.create_task(pool.parse(CIF, "cif", CONFIGS)) for _ in range(12)]
        await asyncio.sleep(0.05)
        process.kill()
        return list(await asyncio.gather(*files))

    assert len(with_pool(scenario, processes=2)) == 12


@pytest.mark.parametrize(
    ("mark", "detail"),
    [
        (hostile_parsing.DIES, "crashed on this file"),
        (hostile_parsing.HANGS, r"took more than 0\.6 s"),
        (hostile_parsing.DIES_LATER, "crashed on this file"),
    ],
)
def test_of_files_that_are_read_together_the_one_at_fault_is_refused(
    monkeypatch: pytest.MonkeyPatch, mark: bytes, detail: str
) -> None:
    """It is the third of five that wait when the only process begins."""
    monkeypatch.setattr(fork_server, "run_parser", hostile_parsing.serve)
    results = with_pool(lambda pool: together(pool, [CIF, CIF, mark + CIF, CIF, CIF]), timeout_s=0.6)
    assert [isinstance(result, ParsedStructure) for result in results] == [True, True, False, True, True]
    with pytest.raises(StructureError, match=detail):
        raise results[2]  # type: ignore[misc]


def test_a_file_that_hangs_takes_one_process_and_keeps_no_other_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "run_parser", hostile_parsing.serve)

    async def scenario(pool: ParsePool) -> list[psutil.Process]:
        before = parse_processes()
        hanging = asyncio.create_task(pool.parse(hostile_parsing.HANGS + CIF, "cif", CONFIGS))
        others = [asyncio.create_task(pool.parse(CIF, "cif", CONFIGS)) for _ in range(20)]
        await asyncio.gather(*others)
        assert not hanging.done()  # all were answered while it hung
        with pytest.raises(StructureError, match="took more than"):
            await hanging
        return psutil.wait_procs(before, timeout=0.5)[1]

    assert len(with_pool(scenario, processes=2, timeout_s=1.5)) == 1


def test_a_process_that_stops_before_it_begins_fails_none() -> None:
    async def scenario(pool: ParsePool) -> list[object]:
        [process] = parse_processes()
        process.suspend()
        files = [asyncio.create_task(pool.parse(CIF, "cif", CONFIGS)) for _ in range(5)]
        return list(await asyncio.gather(*files))

    assert len(with_pool(scenario, timeout_s=0.6)) == 5


def test_frames_are_received_as_they_were_sent() -> None:
    frames = Frames()
    frames.feed(b"".join(frame(b"head", [b"con", b"tent"])))
    assert frames.take() == (False, b"head", b"content")
    assert frames.take() is None
    for exclusive in (False, True, False):
        frames.feed(b"".join(frame(b"", [b"x" * 1000], exclusive=exclusive)))
    assert frames.take(grouped=True) is not None
    assert frames.take(grouped=True) is None  # the next one is exclusive
    following = frames.take()
    assert following is not None
    assert following.exclusive
    assert frames.take(grouped=True) is not None
    sent = b"".join(frame(b"", [b"x" * 1000]))
    frames.feed(sent[:500])
    assert frames.take() is None  # not complete yet
    frames.feed(sent[500:])
    assert frames.take() == (False, b"", b"x" * 1000)
    assert len(frames) == 0


def test_a_frame_is_not_joined_nor_its_payload_copied() -> None:
    pieces = [b"x" * 1000, b"y" * 1000]
    _, *payload = frame(b"head", pieces)
    assert all(sent is piece for sent, piece in zip(payload, pieces, strict=True))


@given(st.binary(max_size=200))
def test_what_a_parser_that_was_taken_over_sends_is_a_reply_or_an_error(content: bytes) -> None:
    with contextlib.suppress(WireError):
        assert isinstance(decode_reply(memoryview(content)), Reply)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", b"\xdd\xff\xff\xff\xff", b"\x81\xa4type\xa9structure", b"\x91" * 100_000, b"\x80\x04\x95"],
    ids=["empty", "no fields", "a long array", "no structure", "deep", "a pickle"],
)
def test_a_reply_of_another_kind_is_none(content: bytes) -> None:
    with pytest.raises(WireError):
        decode_reply(memoryview(content))


def test_a_frame_that_is_too_long_is_none() -> None:
    frames = Frames(100)
    frames.feed(b"".join(frame(b"", [b"x" * 100]))[:20])
    with pytest.raises(WireError):
        frames.take()


@pytest.mark.parametrize("mark", [hostile_parsing.TALKS, hostile_parsing.OVERSIZED, hostile_parsing.ANOTHER])
def test_a_process_that_breaks_the_wire_format_is_replaced(monkeypatch: pytest.MonkeyPatch, mark: bytes) -> None:
    monkeypatch.setattr(fork_server, "run_parser", hostile_parsing.serve)

    async def scenario(pool: ParsePool) -> None:
        with pytest.raises(StructureError, match="crashed on this file"):
            await pool.parse(mark + CIF, "cif", CONFIGS)
        assert (await pool.parse(CIF, "cif", CONFIGS)).n_atoms == 12

    with_pool(scenario)
