"""Tables with a column of structures."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.data.catalogue import read_dataset
from tests.support.data_set_forms import (
    KEY,
    OBJECTS,
    ROWS,
    TEXTS,
    VALUES,
    assert_back,
    cif,
    codes,
    plain,
    pymatgen_dict,
)


def records(column: str, form: str, **more: Any) -> list[dict[str, Any]]:
    write = (TEXTS | OBJECTS)[form]
    return [{"material_id": row.id, column: write(row), "K": row.targets[KEY], **more} for row in ROWS]


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()} for row in rows)
    return text.getvalue().encode()


def for_parquet(cell: Any) -> Any:
    """Without empty objects, for which Parquet has no type."""
    if isinstance(cell, dict):
        return {key: for_parquet(value) for key, value in cell.items() if value != {}}
    return [for_parquet(value) for value in cell] if isinstance(cell, list) else cell


def put(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(path)


@pytest.mark.parametrize("form", [*TEXTS, *OBJECTS])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.json", "t.json.gz", "t.parquet"])
@pytest.mark.parametrize("column", ["structure", "anything"])
def test_every_form_in_every_table(tmp_path: Path, form: str, name: str, column: str) -> None:
    rows = records(column, form, family="oxide")
    if name == "t.parquet":
        parquet.write_table(pa.Table.from_pylist(for_parquet(rows)), tmp_path / name)
        path = str(tmp_path / name)
    else:
        path = put(tmp_path, name, as_csv(rows) if ".csv" in name else json.dumps(rows).encode())
    dataset = read_dataset(path)
    assert dataset.name == "t"
    assert_back(dataset, turned=form == "cif", key="K")
    assert [row.fields for row in dataset.rows] == [{"family": "oxide"}] * len(ROWS)


@pytest.mark.parametrize("orient", ["columns", "index", "split", "records"])
def test_every_orient_of_pandas(tmp_path: Path, orient: Any) -> None:
    rows = [{"structure": plain(row), "K": value} for row, value in zip(ROWS, VALUES, strict=True)]
    named = pd.DataFrame(rows, index=[row.id for row in ROWS])
    path = put(tmp_path, "t.json", named.to_json(orient=orient, double_precision=15).encode())
    numbers = [str(number) for number in range(1, len(ROWS) + 1)]
    ids = numbers if orient == "records" else [row.id for row in ROWS]
    assert_back(read_dataset(path), turned=False, key="K", ids=ids)
    counted = pd.DataFrame(rows)
    path = put(tmp_path, "t.json", counted.to_json(orient=orient, double_precision=15).encode())
    assert_back(read_dataset(path), turned=False, key="K", ids=numbers)


def test_columns_of_arrays_and_lists(tmp_path: Path) -> None:
    rows = [{"id": row.id, **plain(row), "K": row.targets[KEY]} for row in ROWS]
    for name, content in {
        "t.json": json.dumps({key: [row[key] for row in rows] for key in rows[0]}).encode(),
        "t.csv": as_csv(rows),
    }.items():
        assert_back(read_dataset(put(tmp_path, name, content)), turned=False, key="K")
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert_back(read_dataset(str(tmp_path / "t.parquet")), turned=False, key="K")


def test_columns_of_numbers_text_truth_and_folds(tmp_path: Path) -> None:
    mixed = ["1.5", "", "n/a", "2", "high", "3", "4", "5"]
    rows = [
        {"jid": row.id, "cif": cif(row), "x": n / 2, "count": n, "mixed": said, "fold": n % 5, "metal": bool(n % 2)}
        for n, (row, said) in enumerate(zip(ROWS, mixed, strict=True))
    ]
    for name, content in {"t.json": json.dumps(rows).encode(), "t.csv": as_csv(rows)}.items():
        dataset = read_dataset(put(tmp_path, name, content))
        nan = float("nan")
        np.testing.assert_array_equal(dataset.values(["x"])[:, 0], [n / 2 for n in range(8)])
        np.testing.assert_array_equal(dataset.values(["count"])[:, 0], range(8))
        np.testing.assert_array_equal(dataset.values(["mixed"])[:, 0], [1.5, nan, nan, 2, nan, 3, 4, 5])
        assert {key for row in dataset.rows for key in row.targets} == {"x", "count", "mixed"}
        assert [row.fields["fold"] for row in dataset.rows] == [n % 5 for n in range(8)]
        assert [row.fields["count"] for row in dataset.rows] == list(range(8))
        assert dataset.rows[4].fields["mixed"] == "high"
        assert all(isinstance(row.fields["fold"], int) for row in dataset.rows)


def test_nested_targets_and_a_missing_structure(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"structure": pymatgen_dict(row), "targets": {"K": row.targets[KEY]}} for row in ROWS]
    rows[1]["structure"] = None
    rows[2]["structure"] = "data_nothing\n"
    rows[3]["structure"] = 7
    del rows[4]["structure"]
    dataset = read_dataset(put(tmp_path, "t.json", json.dumps(rows).encode()))
    assert [row.id for row in dataset.rows] == ["1", "6", "7", "8"]
    assert [row.targets for row in dataset.rows] == [{"K": VALUES[n]} for n in (0, 5, 6, 7)]
    assert codes(dataset) == [("2", "no_structure"), ("3", "no_structure"), ("4", "unreadable"), ("5", "no_structure")]


def test_lines_that_do_not_fit_the_header_and_ids_that_come_twice_are_listed(tmp_path: Path) -> None:
    rows = records("poscar", "poscar")
    rows[2]["material_id"] = rows[0]["material_id"]
    content = as_csv(rows) + b"mp-x,1\r\nmp-y,1,2,3\r\n"
    dataset = read_dataset(put(tmp_path, "t.csv", b"\xef\xbb\xbf" + content))
    assert len(dataset.rows) == len(ROWS) - 1
    assert codes(dataset) == [(ROWS[0].id, "duplicate_id"), ("mp-x", "bad_row"), ("mp-y", "bad_row")]
    assert "row 3" in dataset.refused[0].detail
    assert "row 1" in dataset.refused[0].detail


def test_the_better_known_of_two_columns_is_read_and_a_draw_is_refused(tmp_path: Path) -> None:
    rows = [{"a": cif(row), "b": json.dumps(plain(row)), "K": value} for row, value in zip(ROWS, VALUES, strict=True)]
    with pytest.raises(ConfigError, match="a, b all hold structures"):
        read_dataset(put(tmp_path, "t.json", json.dumps(rows).encode()))
    rows = [{"cif": "none", "structure": row["b"], "K": row["K"]} for row in rows]
    numbers = [str(number) for number in range(1, len(ROWS) + 1)]
    assert_back(read_dataset(put(tmp_path, "t.json", json.dumps(rows).encode())), turned=False, key="K", ids=numbers)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"", "empty"),
        ("t.csv", b"id,K\nmp-1,1\n", "no column holds structures"),
        ("t.csv", b'id,cif\nmp-1,"data_', "not a table"),
        ("t.csv", b"id,id\n1,2\n", "same name"),
        ("t.csv", b"\xff\xfe\x00", "not a table"),
        ("t.json", b"7", "neither a list of objects"),
        ("t.json", b"[1, 2]", "neither a list of objects"),
        ("t.json", b'{"a": 1}', "neither a list of objects"),
        ("t.json", b"[" * 100_000, "not a table"),
        ("t.json.gz", b"", "not a table"),
        ("t.parquet", b"PAR1 not", "not a table"),
        ("t.xls", b"x", r"should end with \.jsonl"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_dataset(put(tmp_path, name, content))
    (tmp_path / "plain.csv.gz").write_bytes(content)
    with pytest.raises(ConfigError, match="not a table"):
        read_dataset(str(tmp_path / "plain.csv.gz"))
