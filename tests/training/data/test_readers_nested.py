"""Structure files in subfolders, and tables with a column of their paths."""

import csv
from pathlib import Path

import numpy as np
import pytest

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.training.data.cache import prepared_dataset
from deepergatgnn.training.data.catalogue import Dataset, read_dataset
from tests.support.data_set_forms import ROWS, VALUES, cif, poscar

PLACES = ["a", "b/c", "b/d"]


def place(number: int) -> str:
    return f"{PLACES[number % 3]}/{ROWS[number].id}.cif"


def filled(folder: Path) -> Path:
    for number, row in enumerate(ROWS):
        file = folder / place(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(cif(row), "utf-8")
    return folder


def table(path: Path, header: list[str] | None, names: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([header] if header else [])
        writer.writerows([name, value] for name, value in zip(names, VALUES, strict=True))
    return path


def assert_whole(dataset: Dataset, key: str) -> None:
    assert dataset.refused == ()
    assert [row.crystal.reduced_formula for row in dataset.rows] == [row.crystal.reduced_formula for row in ROWS]
    np.testing.assert_array_equal(dataset.values([key])[:, 0], VALUES)


@pytest.mark.parametrize("form", ["id", "path", "path without suffix", "file name"])
def test_a_folder_of_subfolders_is_read_by_ids_or_paths(tmp_path: Path, form: str) -> None:
    whole = [place(number) for number in range(len(ROWS))]
    names = {
        "id": [row.id for row in ROWS],
        "path": whole,
        "path without suffix": [name.removesuffix(".cif") for name in whole],
        "file name": [Path(name).name for name in whole],
    }[form]
    table(filled(tmp_path) / "id_prop.csv", None, names)
    assert_whole(read_dataset(str(tmp_path)), "target")


def test_a_folder_for_each_crystal_is_read_by_its_name(tmp_path: Path) -> None:
    for row in ROWS:
        (tmp_path / row.id).mkdir()
        (tmp_path / row.id / "POSCAR").write_text(poscar(row), "utf-8")
    table(tmp_path / "id_prop.csv", None, [row.id for row in ROWS])
    assert_whole(read_dataset(str(tmp_path)), "target")


def test_files_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for folder, row in zip(("one", "two"), ROWS, strict=False):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.cif").write_text(cif(row), "utf-8")
    (tmp_path / "id_prop.csv").write_text("one/x,1.0\ntwo/x.cif,2.0\nx,3.0\n../one/x.cif,4.0\n", "utf-8")
    dataset = read_dataset(str(tmp_path))
    assert [(row.id, row.targets["target"]) for row in dataset.rows] == [("one/x", 1.0), ("two/x", 2.0)]
    assert [refusal.code for refusal in dataset.refused] == ["several_files", "no_file"]


@pytest.mark.parametrize("column", ["path", "file", "cif", "structure", "my crystals"])
def test_a_csv_may_have_a_column_of_paths(tmp_path: Path, column: str) -> None:
    filled(tmp_path / "files")
    names = [f"files/{place(number)}" for number in range(len(ROWS))]
    path = table(tmp_path / "mine.csv", [column, "K"], names)
    dataset = read_dataset(str(path))
    assert_whole(dataset, "K")
    assert [row.id for row in dataset.rows] == [name.removesuffix(".cif") for name in names]


def test_paths_may_be_absolute_and_ids_stay_those_of_their_column(tmp_path: Path) -> None:
    filled(tmp_path / "files")
    lines = [f"{row.id},{tmp_path}/files/{place(n)},{VALUES[n]}" for n, row in enumerate(ROWS)]
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "mine.csv"
    path.write_text("\n".join(["id,path,K", *lines]), "utf-8")
    dataset = read_dataset(str(path))
    assert_whole(dataset, "K")
    assert [row.id for row in dataset.rows] == [row.id for row in ROWS]


def test_a_file_that_is_not_there_is_refused_by_its_path(tmp_path: Path) -> None:
    names = [f"files/{place(number)}" for number in range(len(ROWS))]
    path = table(tmp_path / "mine.csv", ["path", "K"], names)
    dataset = read_dataset(str(path))
    assert {refusal.code for refusal in dataset.refused} == {"unreadable"}
    assert names[0] in dataset.refused[0].detail
    filled(tmp_path / "files")
    (tmp_path / names[2]).unlink()
    [refusal] = read_dataset(str(path)).refused
    assert names[2] in refusal.detail


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_a_changed_file_below_is_another_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("DEEPERGATGNN_CACHE", str(tmp_path / "cache"))
    filled(tmp_path / "data")
    names = [place(number) for number in range(len(ROWS))]
    name = "id_prop.csv" if kind == "folder" else "mine.csv"
    header = None if kind == "folder" else ["path", "K"]
    data = str(table(tmp_path / "data" / name, header, names))
    before = prepared_dataset(data, GraphConfig())
    assert prepared_dataset(data, GraphConfig()).sha256 == before.sha256 == read_dataset(data).sha256
    (tmp_path / "data" / place(0)).write_text(cif(ROWS[3]), "utf-8")
    after = prepared_dataset(data, GraphConfig())
    assert after.sha256 != before.sha256
    assert after.formulas[0] == before.formulas[3]
