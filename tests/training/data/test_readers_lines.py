"""Our own lines: a bad one costs itself alone and is listed, whatever it holds."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepergatgnn.errors import ConfigError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.training.data.cache import prepared_dataset
from deepergatgnn.training.data.catalogue import Dataset, number, read_dataset
from tests.support.data_set_forms import KEY, ROWS, assert_back, cif, codes, plain, pymatgen_dict
from tests.support.fixtures import bundled
from tests.training.data.test_catalogue import real_documents, written
from tests.training.data.test_readers_hostile import JSON, NAMES, read, relaxed

LINES = [b'{"id": "a"', b"prose", b"[1, 2]", b"null", b"[" * 100_000, b'"\xff\xfe"', b"9" * 5000]
SAID = ["is not JSON .*column 11", "is not JSON", "is a list", "is a NoneType", "too deeply", "not UTF-8", "too long"]


def with_targets(folder: Path, values: list[Any]) -> Dataset:
    """Rows with these values of the target x."""
    documents = real_documents(len(values))
    for document, value in zip(documents, values, strict=True):
        document["targets"] = {"x": value}
    return read_dataset(str(written(folder, documents)))


@pytest.mark.parametrize(("line", "said"), [*zip(LINES, SAID, strict=True)], ids=SAID)
@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz"])
def test_a_line_that_is_no_object_is_listed_by_its_number(tmp_path: Path, name: str, line: bytes, said: str) -> None:
    first, second = real_documents(2)
    content = b"\n".join([json.dumps(first).encode(), b"", line, json.dumps(second).encode()])
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    dataset = read_dataset(str(path))
    assert [row.id for row in dataset.rows] == [first["id"], second["id"]]
    assert codes(dataset) == [("3", "bad_row")]
    assert re.search(f"^Line 3 .*{said}", dataset.refused[0].detail)
    path.write_bytes(gzip.compress(line) if name.endswith(".gz") else line)
    with pytest.raises(ConfigError, match=rf"mine\.jsonl.* is not JSON lines, .*: Line 1 .*{said}"):
        read_dataset(str(path))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d.pop("structure"), "no_structure"),
        (lambda d: d.update(structure=None), "no_structure"),
        (lambda d: d.update(structure={}), "no_structure"),
        (lambda d: d["structure"].pop("frac_coords"), "no_structure"),
        (lambda d: d["structure"].pop("species"), "unreadable"),
        (lambda d: d["structure"].update(species="NaCl"), "unreadable"),
        (lambda d: d["structure"].pop("lattice"), "bad_cell"),
        (lambda d: d.update(structure=[1, 2]), "unreadable"),
        (lambda d: d.update(targets=[1.0]), "bad_target"),
        (lambda d: d.update(targets="1.0"), "bad_target"),
        (lambda d: d.update(id=real_documents(1)[0]["id"]), "duplicate_id"),
    ],
)
def test_a_row_of_another_form_is_listed_with_its_reason(tmp_path: Path, change: Any, code: str) -> None:
    documents = real_documents(3)
    change(documents[1])
    dataset = read_dataset(str(written(tmp_path, documents)))
    assert [row.id for row in dataset.rows] == [documents[0]["id"], documents[2]["id"]]
    assert codes(dataset) == [(documents[1]["id"], code)]
    assert dataset.refused[0].detail.endswith(".")


def test_a_structure_is_read_by_its_three_keys_and_cannot_set_limits(tmp_path: Path) -> None:
    documents = real_documents(3)
    documents[0]["structure"] |= {"limits": {}}
    documents[1]["structure"] |= {"limits": {"max_atoms": 10**9}, "warnings": [1], "charge": 1}
    dataset = read_dataset(str(written(tmp_path, documents)))
    assert_back(dataset, turned=False, key=KEY, rows=bundled().rows[:3])
    assert [len(row.crystal.warnings) for row in dataset.rows] == [0, 1, 0]
    assert "charge" in dataset.rows[1].crystal.warnings[0]


def test_every_form_of_a_structure_may_stand_in_a_line(tmp_path: Path) -> None:
    for form in (plain, pymatgen_dict):
        documents = [{"id": row.id, "structure": form(row), "targets": {"K": row.targets[KEY]}} for row in ROWS]
        assert_back(read_dataset(str(written(tmp_path, documents))), turned=False, key="K")
    documents = [{"id": row.id, "structure": cif(row), "targets": {"K": row.targets[KEY]}} for row in ROWS]
    assert_back(read_dataset(str(written(tmp_path, documents))), turned=True, key="K")


def test_missing_numbers_are_nan_known_ones_are_kept_and_text_is_read(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    values = [1.5, None, "2.5", " -3e2 ", nan, inf, 2, "n/a", "", True, 10**400]
    dataset = with_targets(tmp_path, values)
    assert dataset.refused == ()
    read_as = [1.5, nan, 2.5, -300.0, nan, nan, 2.0, nan, nan, 1.0, nan]
    np.testing.assert_array_equal(dataset.values(["x"])[:, 0], read_as)
    assert np.isnan(dataset.values(["y"])).all()
    assert dataset.values([]).shape == (11, 0)
    assert np.isnan(number([1.0]))
    np.testing.assert_array_equal(with_targets(tmp_path, ["1", "2"]).values(["x"])[:, 0], [1, 2])


def test_a_target_that_is_no_number_is_listed_where_others_are(tmp_path: Path) -> None:
    dataset = with_targets(tmp_path, [1.5, "high", "1_0", [2.0], {"value": 2.0}, "inf", 2])
    assert [row.targets["x"] for row in dataset.rows] == [1.5, 2]
    assert [refusal.code for refusal in dataset.refused] == ["bad_target"] * 5
    assert dataset.refused[0].detail == "x in line 2 is 'high': give a number."


def test_columns_of_text_or_lists_among_the_targets_are_left_alone(tmp_path: Path) -> None:
    values: list[Any] = ["cubic", [[1.0]], None]
    dataset = with_targets(tmp_path, values)
    assert [row.targets["x"] for row in dataset.rows] == values
    assert np.isnan(dataset.values(["x"])).all()


def test_an_id_that_says_nothing_is_the_number_of_the_line(tmp_path: Path) -> None:
    documents = real_documents(4)
    for document, row_id in zip(documents, [None, "", " mp-1 ", 7], strict=True):
        document["id"] = row_id
    assert [row.id for row in read_dataset(str(written(tmp_path, documents))).rows] == ["1", "2", "mp-1", "7"]


def test_refused_lines_are_kept_with_the_graphs(tmp_path: Path) -> None:
    path = written(tmp_path, real_documents(3))
    path.write_bytes(b"{\n" + path.read_bytes())
    for _ in ("made", "from the cache"):
        prepared = prepared_dataset(str(path), GraphConfig())
        assert (len(prepared), [refusal.id for refusal in prepared.refused]) == (3, ["1"])


@relaxed
@given(rows=st.lists(st.dictionaries(NAMES, JSON, max_size=5), min_size=1, max_size=4))
def test_every_line_is_a_row_or_a_refusal(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    dataset = read(written(tmp_path, [{"structure": plain(ROWS[0])}, *rows]))
    assert dataset is not None
    assert len(dataset.rows) + len(dataset.refused) == len(rows) + 1
    assert all(refusal.code and refusal.detail for refusal in dataset.refused)
    assert dataset.values(sorted({key for row in dataset.rows for key in row.targets})).dtype == float
