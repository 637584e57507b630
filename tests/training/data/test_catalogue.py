"""Reading data sets: nothing is dropped in silence."""

import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepergatgnn.commands import main
from deepergatgnn.errors import ConfigError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.training.data.cache import prepare
from deepergatgnn.training.data.catalogue import (
    BUNDLED as FOLDER,
)
from deepergatgnn.training.data.catalogue import (
    DATA_VARIABLE,
    describe,
    fetch,
    known_datasets,
    locate,
    read_dataset,
)
from tests.support.data_set_forms import KEY, ROWS, assert_same, codes, folder_of
from tests.support.fixtures import BUNDLED, bundled

PATH = FOLDER / f"{BUNDLED}.jsonl.gz"


def real_documents(count: int) -> list[dict[str, Any]]:
    with gzip.open(PATH, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]


def written(folder: Path, documents: list[Any], name: str = "mine.jsonl") -> Path:
    path = folder / name
    content = "".join(json.dumps(document) + "\n" for document in documents).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def test_the_bundled_set_is_whole() -> None:
    dataset = bundled()
    assert dataset.name == BUNDLED
    assert dataset.sha256 == hashlib.sha256(PATH.read_bytes()).hexdigest()
    assert len(dataset.rows) == 1128
    assert dataset.refused == ()
    assert len({row.id for row in dataset.rows}) == 1128
    assert np.isfinite(dataset.values(["log10_K_VRH", "log10_G_VRH"])).all()


def test_a_row_keeps_structure_targets_and_its_other_columns() -> None:
    [document] = real_documents(1)
    row = bundled().rows[0]
    assert row.id == document["id"]
    assert list(row.crystal.symbols) == document["structure"]["species"]
    np.testing.assert_array_equal(row.crystal.frac_coords, document["structure"]["frac_coords"])
    assert row.targets == document["targets"]
    assert row.fields == {"space_group": document["space_group"]}


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz"])
def test_a_file_of_ones_own_is_read_compressed_or_not(tmp_path: Path, name: str) -> None:
    dataset = read_dataset(str(written(tmp_path, real_documents(5), name)))
    assert dataset.name == "mine"
    assert [row.id for row in dataset.rows] == [row.id for row in bundled().rows[:5]]


def test_refused_rows_are_listed_with_their_reason(tmp_path: Path) -> None:
    overlapping, fictional, flat, good = real_documents(4)
    overlapping["structure"]["frac_coords"][1] = overlapping["structure"]["frac_coords"][0]
    fictional["structure"]["species"][0] = "Xx"
    flat["structure"]["lattice"][2] = flat["structure"]["lattice"][1]
    dataset = read_dataset(str(written(tmp_path, [overlapping, fictional, flat, good])))
    assert [row.id for row in dataset.rows] == [good["id"]]
    assert [(refusal.id, refusal.code) for refusal in dataset.refused] == [
        (overlapping["id"], "overlapping_atoms"),
        (fictional["id"], "unknown_element"),
        (flat["id"], "bad_cell"),
    ]
    assert all(refusal.detail for refusal in dataset.refused)
    assert describe(str(tmp_path / "mine.jsonl"))["refused"] == [
        {"id": refusal.id, "code": refusal.code, "detail": refusal.detail} for refusal in dataset.refused
    ]


def test_rows_without_a_graph_join_the_refused() -> None:
    prepared = prepare(bundled(), GraphConfig(max_edges=300))
    assert 0 < len(prepared) == len(prepared.graphs) < 1128
    assert len(prepared) + len(prepared.refused) == 1128
    assert {refusal.code for refusal in prepared.refused} == {"too_many_edges"}
    crystals = {row.id: row.crystal for row in bundled().rows}
    for row_id, graph in zip(prepared.ids, prepared.graphs, strict=True):
        np.testing.assert_array_equal(crystals[row_id].atomic_numbers, graph.atomic_numbers[graph.node_of_atom])


def test_a_row_without_an_id_is_known_by_its_number(tmp_path: Path) -> None:
    documents = real_documents(2)
    del documents[1]["id"]
    assert [row.id for row in read_dataset(str(written(tmp_path, documents))).rows] == [documents[0]["id"], "2"]


@pytest.mark.parametrize(
    "content",
    [b"{", b"not json\n", b'{"id": 1}\n{', b"\xff\xfe\x00", b"[" * 100_000],
    ids=["brace", "prose", "second line", "bytes", "deep"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_not_json_lines_is_refused(tmp_path: Path, content: bytes, packed: bool) -> None:
    path = tmp_path / ("bad.jsonl.gz" if packed else "bad.jsonl")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ConfigError, match=r"bad\.jsonl.*is not JSON lines"):
        read_dataset(str(path))


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    content = PATH.read_bytes()[:50_000]
    damaged = bytearray(PATH.read_bytes())
    damaged[1000] ^= 0xFF
    for index, bad in enumerate((content, bytes(damaged), b"", b"plain text")):
        path = tmp_path / f"bad-{index}.jsonl.gz"
        path.write_bytes(bad)
        if bad:
            with pytest.raises(ConfigError, match="is not JSON lines: it is not a whole gzip file"):
                read_dataset(str(path))
        else:
            assert read_dataset(str(path)).rows == ()


def test_a_name_is_found_in_the_data_folder_and_a_bundled_one_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("steel", BUNDLED):
        (tmp_path / name).mkdir()
        written(tmp_path / name, real_documents(2), f"{name}.jsonl.gz")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert locate("steel") == tmp_path / "steel" / "steel.jsonl.gz"
    assert locate(BUNDLED) == PATH
    assert set(known_datasets()) == {"steel", BUNDLED}
    assert len(read_dataset("steel").rows) == 2


def test_an_unknown_name_is_answered_with_the_known_ones_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    for name in ("steel", "../steel", ""):
        with pytest.raises(ConfigError, match=f"{BUNDLED}.*{DATA_VARIABLE}"):
            read_dataset(name)


def test_the_description_counts(tmp_path: Path) -> None:
    found = describe(BUNDLED)
    assert (found["rows"], found["refused"]) == (1128, [])
    known = bundled().values(["log10_K_VRH"])
    assert found["targets"]["log10_K_VRH"] == {
        "known": 1128,
        "mean": pytest.approx(known.mean()),
        "std": pytest.approx(known.std()),
        "min": known.min(),
        "max": known.max(),
    }
    assert found["fields"] == ["space_group"]
    assert found["elements"] == len({symbol for row in bundled().rows for symbol in row.crystal.symbols})
    assert found["atoms_max"] == max(row.crystal.n_atoms for row in bundled().rows)
    json.dumps(found)
    empty = describe(str(written(tmp_path, [])))
    assert (empty["rows"], empty["atoms_mean"], empty["atoms_max"]) == (0, 0, 0)


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the console script."""
    monkeypatch.setattr(sys, "argv", ["deepergatgnn", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def test_a_set_is_written_where_its_name_finds_it_and_comes_back_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path)
    (folder / f"{ROWS[2].id}.cif").unlink()
    data = tmp_path / "data"
    path, before = fetch(str(folder), data)
    assert path == data / "mine" / "mine.jsonl.gz"
    assert codes(before) == [(ROWS[2].id, "no_file")]
    monkeypatch.setenv(DATA_VARIABLE, str(data))
    after = read_dataset("mine")
    assert [row.id for row in after.rows] == [row.id for row in before.rows]
    for found, expected in zip(after.rows, before.rows, strict=True):
        np.testing.assert_array_equal(found.crystal.frac_coords, expected.crystal.frac_coords)
        np.testing.assert_array_equal(found.crystal.lattice, expected.crystal.lattice)
        assert_same(found.crystal, expected.crystal, turned=False)
        assert (found.targets, found.fields) == (expected.targets, expected.fields)
    content = path.read_bytes()
    with pytest.raises(ConfigError, match="exists: remove it"):
        fetch("mine")
    path.unlink()
    fetch(str(folder))
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
    monkeypatch.delenv(DATA_VARIABLE)
    with pytest.raises(ConfigError, match="give --out FOLDER"):
        fetch(str(folder))


def test_a_folder_with_one_whole_set_is_that_set(tmp_path: Path) -> None:
    written(tmp_path, real_documents(3))
    assert locate(str(tmp_path)) == tmp_path
    assert read_dataset(str(tmp_path)).sha256 == read_dataset(str(tmp_path / "mine.jsonl")).sha256
    written(tmp_path, real_documents(3), "other.jsonl.gz")
    with pytest.raises(ConfigError, match="nor exactly one file"):
        read_dataset(str(tmp_path))


def test_the_commands_tell_people_and_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    folder = folder_of(tmp_path)
    (folder / f"{ROWS[2].id}.cif").write_text("data_nothing\n")
    code, out, _ = told(monkeypatch, capsys, "datasets", "list", "--json")
    assert (code, json.loads(out)) == (0, {name: str(path) for name, path in known_datasets().items()})
    assert told(monkeypatch, capsys, "datasets", "list")[1].split() == [BUNDLED, "mine"]
    code, out, _ = told(monkeypatch, capsys, "datasets", "show", str(folder), "--json")
    assert (code, json.loads(out)) == (0, describe(str(folder)))
    code, out, _ = told(monkeypatch, capsys, "datasets", "show", "mine")
    assert code == 0
    assert f"mine: {len(ROWS) - 1} rows" in out
    known = [row.targets[KEY] for row in ROWS if row is not ROWS[2]]
    words = next(line for line in out.splitlines() if line.startswith("target ") and "known" not in line).split()
    assert words == ["target", str(len(known)), *(f"{f(known):.5g}" for f in (np.mean, np.std, min, max))]
    assert f"refused {ROWS[2].id}: no_structure: " in out
    code, out, _ = told(monkeypatch, capsys, "datasets", "fetch", str(folder), "--out", str(tmp_path / "out"), "--json")
    assert code == 0
    assert json.loads(out)["rows"] == len(ROWS) - 1
    assert json.loads(out)["refused"] == describe(str(folder))["refused"]
    assert len(read_dataset(json.loads(out)["path"]).rows) == len(ROWS) - 1
    code, out, err = told(monkeypatch, capsys, "datasets", "fetch", "matbench:matbench_steels")
    assert (code, out) == (2, "")
    assert "matbench_steels" in err
    for command in ("list", "show", "fetch"):
        assert "Example: deepergatgnn datasets" in told(monkeypatch, capsys, "datasets", command, "--help")[1]
