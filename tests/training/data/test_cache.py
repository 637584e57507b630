"""Graphs on disk: the same bits as fresh ones, and never stale, damaged or in the way."""

import gzip
import hashlib
import json
import mmap
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.training.data.cache import CACHE_VARIABLE, cache_folder, prepare, prepared_dataset
from deepergatgnn.training.data.catalogue import BUNDLED as FOLDER
from deepergatgnn.training.data.catalogue import read_dataset
from deepergatgnn.training.data.dataset import PreparedDataset
from deepergatgnn.training.data.featurize import CHUNK, FEATURISER_VERSION, featurise
from deepergatgnn.training.data.graph_arrays import join
from deepergatgnn.training.data.storage import INDEX
from tests.support.fixtures import BUNDLED, bundled, some_crystals, some_rows
from tests.support.same_graphs import assert_same_graph, same_array

CONFIG = GraphConfig(angles=4)
ROOT = Path(__file__).parents[3]


def documents(count: int) -> list[dict[str, Any]]:
    with gzip.open(FOLDER / f"{BUNDLED}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]


def written(folder: Path, rows: list[dict[str, Any]], name: str = "mine.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "deep" / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A set with rows that are refused by reader and featuriser, targets that are missing, and uneven columns."""
    rows = documents(24)
    rows[3]["structure"]["species"][0] = "Xx"
    rows[5]["structure"]["lattice"] = (60 * np.eye(3)).tolist()
    rows[5]["structure"]["species"], rows[5]["structure"]["frac_coords"] = ["Na"], [[0, 0, 0]]
    rows[7]["targets"] = None
    rows[9]["targets"]["extra"] = 1.5
    rows[11]["fold"] = 3
    rows[12]["note"] = {"by": ["hand", None, 1e300]}
    return written(tmp_path, rows)


def assert_same(one: PreparedDataset, other: PreparedDataset) -> None:
    for name in ("name", "sha256", "graph", "refused"):
        assert getattr(one, name) == getattr(other, name), name
    assert (list(one.ids), list(one.formulas)) == (list(other.ids), list(other.formulas))
    assert one.fields == other.fields
    assert list(one.columns) == list(other.columns)
    assert all(same_array(one.columns[key], column) for key, column in other.columns.items())
    assert len(one.graphs) == len(one.cells) == len(other.graphs)
    for found, expected in zip(one.graphs, other.graphs, strict=True):
        assert_same_graph(found, expected)
    assert list(one.cells) == list(other.cells)


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if not path.name.startswith("."))


def test_graphs_from_the_cache_are_those_of_the_featuriser_bit_for_bit(cache: Path, mine: str) -> None:
    made, loaded = prepared_dataset(mine, CONFIG), prepared_dataset(mine, CONFIG)
    dataset = read_dataset(mine)
    assert_same(made, prepare(dataset, CONFIG))
    assert_same(loaded, prepare(dataset, CONFIG))
    crystals = {row.id: row.crystal for row in dataset.rows}
    assert len(loaded) == 22
    for row_id, graph, cell in zip(loaded.ids, loaded.graphs, loaded.cells, strict=True):
        assert_same_graph(graph, reduce_graph(build_graph(crystals[row_id], CONFIG)))
        assert np.array_equal(cell.lattice, crystals[row_id].lattice)
        assert np.array_equal(cell.frac_coords, crystals[row_id].frac_coords)
        assert cell.species == crystals[row_id].symbols
    assert [refusal.code for refusal in loaded.refused] == ["unknown_element", "too_sparse"]
    assert np.isnan(loaded.columns["extra"]).sum() == 21
    assert [value for value in loaded.fields["fold"] if value is not None] == [3]
    assert len(entries(cache)) == 1


def test_graphs_of_the_cache_are_slices_of_mapped_files(cache: Path, mine: str) -> None:
    graph = prepared_dataset(mine, CONFIG).graphs[4]
    for name, value in vars(graph).items():
        if name != "volume":
            base = value
            while isinstance(base, np.ndarray):
                base = base.base
            assert isinstance(base, mmap.mmap), name
            assert not value.flags.writeable
    assert cache.is_dir()


def test_an_entry_that_is_there_is_not_made_again(cache: Path, mine: str) -> None:
    prepared_dataset(mine, CONFIG)
    [entry] = entries(cache)
    before = [(path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(entry.iterdir())]
    prepared_dataset(mine, CONFIG)
    assert [(path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(entry.iterdir())] == before


def test_other_rows_or_other_constants_are_another_entry(cache: Path, tmp_path: Path) -> None:
    rows = documents(6)
    name = written(tmp_path, rows)
    prepared_dataset(name, CONFIG)
    fewer = prepared_dataset(name, replace(CONFIG, neighbours=4))
    assert_same(fewer, prepare(read_dataset(name), replace(CONFIG, neighbours=4)))
    assert len(entries(cache)) == 2
    rows[2]["targets"] = {"log10_K_VRH": 9.0}
    written(tmp_path, rows)
    assert prepared_dataset(name, CONFIG).values(["log10_K_VRH"])[2] == 9
    assert len(entries(cache)) == 3


@pytest.mark.usefixtures("cache")
def test_a_changed_structure_file_beside_an_unchanged_table_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    lines = []
    for number, crystal in enumerate(some_crystals(4)):
        (folder / f"{number}.cif").write_text(cif(crystal), "utf-8")
        lines.append(f"{number},{number / 10}\n")
    (folder / "id_prop.csv").write_text("".join(lines))
    for name in (str(folder), str(folder / "id_prop.csv")):
        (folder / "3.cif").write_text(cif(some_crystals(4)[3]), "utf-8")
        before = prepared_dataset(name, CONFIG)
        (folder / "3.cif").write_text(cif(some_crystals(5)[2]), "utf-8")
        after = prepared_dataset(name, CONFIG)
        assert before.formulas[3] != after.formulas[3]
        assert_same(after, prepare(read_dataset(name), CONFIG))


def cif(crystal: Any) -> str:
    from deepergatgnn.structures import crystal_to_pymatgen  # noqa: PLC0415

    return str(crystal_to_pymatgen(crystal).to(fmt="cif"))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [shorten, flip, Path.unlink])
def test_a_damaged_entry_is_made_anew(
    cache: Path, mine: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    fresh = prepare(read_dataset(mine), CONFIG)
    prepared_dataset(mine, CONFIG)
    [entry] = entries(cache)
    for name in sorted(path.name for path in entry.iterdir()):
        caplog.clear()
        damage(entry / name)
        assert_same(prepared_dataset(mine, CONFIG), fresh)
        assert "rebuilding" in caplog.text, name
        caplog.clear()
        prepared_dataset(mine, CONFIG)
        assert caplog.text == ""
    assert entries(cache) == [entry]
    assert not list(cache.glob(".*.part"))


def test_an_index_that_is_whole_json_of_something_else_is_no_entry(cache: Path, mine: str) -> None:
    fresh = prepared_dataset(mine, CONFIG)
    [entry] = entries(cache)
    for text in ("[]", "{}", "null", '{"content": {}, "sha256": ""}', "[" * 100_000):
        (entry / INDEX).write_text(text)
        assert_same(prepared_dataset(mine, CONFIG), fresh)


def test_two_processes_that_need_the_same_entry_both_get_it(cache: Path, mine: str) -> None:
    program = (
        "import sys; from deepergatgnn.training.data.cache import *\n"
        "from deepergatgnn.training.data.storage import INDEX\n"
        "d = prepared_dataset(sys.argv[1], GraphConfig(angles=4)); print(len(d), sum(g.n_links for g in d.graphs))"
    )
    command = [sys.executable, "-W", "error", "-c", program, mine]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0].split() for process in both]
    links = sum(graph.n_links for graph in prepare(read_dataset(mine), CONFIG).graphs)
    assert said == [["22", str(links)]] * 2
    assert len(entries(cache)) == 1
    assert not list(cache.glob(".*.part"))


def test_what_a_killed_process_left_behind_is_cleared_away(cache: Path, mine: str) -> None:
    prepared_dataset(mine, CONFIG)
    [entry] = entries(cache)
    left = cache / f".{entry.name}.abc.part"
    entry.rename(left)
    prepared_dataset(mine, CONFIG)
    assert entries(cache) == [entry]
    assert not left.exists()


def test_a_place_that_cannot_be_written_only_means_no_cache(
    tmp_path: Path, mine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    assert_same(prepared_dataset(mine, CONFIG), prepare(read_dataset(mine), CONFIG))
    assert "cache of graphs" in caplog.text


def test_a_disk_that_fills_up_only_means_no_cache(cache: Path, mine: str) -> None:
    program = (
        "import sys; from deepergatgnn.training.data.cache import *\n"
        "d = prepared_dataset(sys.argv[1], GraphConfig(angles=4)); print(len(d), sum(g.n_links for g in d.graphs))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, mine],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    links = sum(graph.n_links for graph in prepare(read_dataset(mine), CONFIG).graphs)
    assert done.stdout.split() == ["22", str(links)]
    assert "cache of graphs" in done.stderr
    assert entries(cache) == []
    assert not list(cache.glob(".*.part"))


def test_several_processes_give_the_same_chunks_in_the_same_order() -> None:
    rows = bundled().rows
    alone, together = (list(featurise(rows, CONFIG, processes)) for processes in (1, 2))
    assert len(together) == -(-len(rows) // CHUNK)
    for one, other in zip(alone, together, strict=True):
        assert repr(replace(one, arrays={})) == repr(replace(other, arrays={}))  # NaN is not equal to itself
        assert one.arrays.keys() == other.arrays.keys()
        assert all(same_array(one.arrays[key], other.arrays[key]) for key in one.arrays)


def test_a_set_without_any_graph_is_cached_too(cache: Path, tmp_path: Path) -> None:
    [row] = documents(1)
    row["structure"]["species"] = ["Xx"] * len(row["structure"]["species"])
    name = written(tmp_path, [row])
    for _ in range(2):
        dataset = prepared_dataset(name, CONFIG)
        assert (len(dataset), list(dataset.graphs), list(dataset.cells)) == (0, [], [])
        assert [refusal.code for refusal in dataset.refused] == ["unknown_element"]
    assert len(entries(cache)) == 1


def test_there_is_no_progress_bar_where_nobody_looks(
    cache: Path, mine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared_dataset(mine, CONFIG)
    assert capsys.readouterr() == ("", "")
    assert cache.is_dir()


def test_the_cache_is_where_the_user_or_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "deepergatgnn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "deepergatgnn"


def test_the_featuriser_still_makes_the_graphs_of_its_version() -> None:
    """If this fails on purpose, raise FEATURISER_VERSION with the new digest, so that older entries are not used."""
    arrays = join([chunk.arrays for chunk in featurise(some_rows(40), CONFIG)])
    whole = hashlib.sha256()
    for key in ("atomic_numbers", "degrees", "multiplicities", "senders", "counts", "node_of_atom"):
        whole.update(arrays[key].tobytes())
    assert (FEATURISER_VERSION, whole.hexdigest()[:16]) == (3, "9890e2a812243744")
    assert float(arrays["distances"].sum(dtype=np.float64)) == pytest.approx(1534.0923, rel=1e-6)
