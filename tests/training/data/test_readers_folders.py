"""Folders of structure files with a table of values."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.io import write

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.data.catalogue import DATA_VARIABLE, describe, known_datasets, read_dataset
from tests.support.data_set_forms import (
    KEY,
    ROWS,
    VALUES,
    assert_back,
    atoms_of,
    cif,
    codes,
    folder_of,
    poscar,
    pymatgen_dict,
)

NUMBERED = list(enumerate(zip(ROWS, VALUES, strict=True)))


def ids() -> list[str]:
    return [row.id for row in ROWS]


@pytest.mark.parametrize("suffix", ["", ".cif"])
def test_cgcnn(tmp_path: Path, suffix: str) -> None:
    table = "".join(f"{row.id}{suffix},{value}\n" for row, value in zip(ROWS, VALUES, strict=True))
    folder = folder_of(tmp_path, table=table)
    dataset = read_dataset(str(folder))
    assert dataset.name == "mine"
    assert_back(dataset, turned=True)
    assert describe(str(folder))["targets"]["target"] == {
        "known": len(VALUES),
        "mean": pytest.approx(np.mean(VALUES)),
        "std": pytest.approx(np.std(VALUES)),
        "min": min(VALUES),
        "max": max(VALUES),
    }


@pytest.mark.parametrize("name", ["{}.vasp", "POSCAR_{}", "POSCAR-{}.vasp", "{}.POSCAR"])
def test_alignn(tmp_path: Path, name: str) -> None:
    dataset = read_dataset(str(folder_of(tmp_path, name=name)))
    assert_back(dataset, turned=False)


def test_alignn_names_whole_files(tmp_path: Path) -> None:
    table = "".join(f"POSCAR-{row.id}.vasp,{value}\n" for row, value in zip(ROWS, VALUES, strict=True))
    dataset = read_dataset(str(folder_of(tmp_path, name="POSCAR-{}.vasp", table=table)))
    assert_back(dataset, turned=False, ids=[f"POSCAR-{row.id}" for row in ROWS])


@pytest.mark.parametrize("header", ["", "structure_id,target\n"])
@pytest.mark.parametrize("writer", ["ase", "pymatgen"])
def test_matdeeplearn(tmp_path: Path, header: str, writer: str) -> None:
    for row in ROWS:
        path = tmp_path / f"{row.id}.json"
        if writer == "pymatgen":
            path.write_text(json.dumps(pymatgen_dict(row)))
        else:
            write(path, atoms_of(row))
    lines = "".join(f"{row.id},{value}\n" for row, value in zip(ROWS, VALUES, strict=True))
    (tmp_path / "targets.csv").write_text(header + lines)
    assert_back(read_dataset(str(tmp_path)), turned=False)


def test_columns_are_named_by_the_header_else_counted(tmp_path: Path) -> None:
    lines = "".join(f"{row.id},{value},{value / 2}\n" for row, value in zip(ROWS, VALUES, strict=True))
    folder = folder_of(tmp_path, table=lines)
    first = read_dataset(str(folder))
    np.testing.assert_array_equal(first.values(["target", "target_2"]), [[value, value / 2] for value in VALUES])
    (folder / "id_prop.csv").write_text("id,bulk modulus,half\n" + lines)
    second = read_dataset(str(folder))
    np.testing.assert_array_equal(second.values(["bulk modulus", "half"]), first.values(["target", "target_2"]))
    assert first.sha256 != second.sha256


def test_a_header_may_name_columns_of_text_and_of_folds(tmp_path: Path) -> None:
    lines = "".join(f"{row.id},{value},oxide,{n % 5}\n" for n, (row, value) in NUMBERED)
    dataset = read_dataset(str(folder_of(tmp_path, table="id,K,family,fold\n" + lines)))
    assert [row.fields for row in dataset.rows] == [{"family": "oxide", "fold": n % 5} for n in range(len(ROWS))]
    assert [row.targets for row in dataset.rows] == [{"K": value} for value in VALUES]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_what_spreadsheets_write(tmp_path: Path, separator: str) -> None:
    lines = ["id,K", *(f"{row.id},{value}" for row, value in zip(ROWS, VALUES, strict=True)), "", ","]
    folder = folder_of(tmp_path)
    table = "\r\n".join(lines).replace(",", separator)
    (folder / "id_prop.csv").write_bytes(b"\xef\xbb\xbf" + table.encode())
    assert_back(read_dataset(str(folder)), turned=True, key="K")


def test_whatever_cannot_be_read_is_listed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    names = ids()
    (folder / f"{names[0]}.cif").write_text("data_nothing\n")
    (folder / f"{names[1]}.cif").unlink()
    (folder / "stranger.cif").write_text(cif(ROWS[0]))
    (folder / f"{names[7]}.vasp").write_text(poscar(ROWS[7]))
    lines = [
        f"{names[0]},1.5",
        f"{names[1]},1.5",
        f"{names[2]},",
        f"{names[3]},high",
        f"{names[4]},1.5",
        f"{names[4]}.cif,2.5",
        f"{names[5]},inf",
        f"{names[6]}",
        f"{names[7]},1.5",
        "../mine/../../secret,1.5",
        ",1.5",
    ]
    (folder / "id_prop.csv").write_text("\n".join(lines))
    dataset = read_dataset(str(folder))
    assert [row.id for row in dataset.rows] == [names[4]]
    assert dataset.rows[0].targets == {"target": 1.5}
    assert codes(dataset) == [
        (names[0], "no_structure"),
        (names[1], "no_file"),
        (names[2], "no_target"),
        (names[3], "bad_target"),
        (names[4], "duplicate_id"),
        (names[5], "bad_target"),
        (names[6], "bad_row"),
        (names[7], "several_files"),
        ("../mine/../../secret", "no_file"),
        ("", "bad_row"),
        ("stranger.cif", "no_row"),
    ]
    said = {refusal.id: refusal.detail for refusal in dataset.refused}
    assert "line 4 of id_prop.csv" in said[names[3]]
    assert "'high'" in said[names[3]]
    assert "line 6" in said[names[4]]
    assert "line 5" in said[names[4]]
    assert f"{names[7]}.cif, {names[7]}.vasp" in said[names[7]]
    assert describe(str(folder))["refused"][1] == {"id": names[1], "code": "no_file", "detail": said[names[1]]}


def test_of_several_targets_some_may_be_missing(tmp_path: Path) -> None:
    lines = "".join(f"{row.id},{value},{'nan' if n % 2 else n}\n" for n, (row, value) in NUMBERED)
    dataset = read_dataset(str(folder_of(tmp_path, table=lines)))
    assert dataset.refused == ()
    found = dataset.values(["target", "target_2"])
    np.testing.assert_array_equal(found[:, 0], VALUES)
    np.testing.assert_array_equal(found[:, 1], [np.nan if n % 2 else n for n in range(len(ROWS))])


def test_a_whole_name_needs_no_known_suffix(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, name="{}_POSCAR", table="".join(f"{row.id}_POSCAR,{row.targets[KEY]}\n" for row in ROWS)
    )
    assert_back(read_dataset(str(folder)), turned=False, ids=[f"{row.id}_POSCAR" for row in ROWS])
    (folder / "id_prop.csv").write_text("atom_init.json,1\nid_prop.csv,1\n")
    assert codes(read_dataset(str(folder))) == [("atom_init.json", "no_file"), ("id_prop.csv", "no_file")]


def test_a_number_for_an_id_is_no_header(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, rows=ROWS[:2])
    for number, row in enumerate(ROWS[:2], start=1):
        (folder / f"{row.id}.cif").rename(folder / f"{number}.cif")
    (folder / "id_prop.csv").write_text("1,high\n2,0.5\n")
    dataset = read_dataset(str(folder))
    assert [row.id for row in dataset.rows] == ["2"]
    assert codes(dataset) == [("1", "bad_target")]


def test_the_digest_is_of_names_and_contents_of_the_files_that_are_used(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    before = read_dataset(str(folder)).sha256
    assert read_dataset(str(folder / "id_prop.csv")).sha256 == before
    (folder / "README.md").write_text("mine")
    (folder / "atom_init.json").write_text("{}")
    assert read_dataset(str(folder)).sha256 == before
    path = folder / f"{ROWS[0].id}.cif"
    path.write_text(path.read_text() + "\n# edited")
    assert read_dataset(str(folder)).sha256 != before


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "is empty"),
        ("mp-1\nmp-2\n", "has no value"),
        ("id,K,K\nmp-1,1,2\n", "same name"),
        ('"mp-1,1', "not a CSV"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_dataset(str(folder_of(tmp_path, table=table)))


def test_a_folder_with_two_tables_or_none_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "targets.csv").write_bytes((folder / "id_prop.csv").read_bytes())
    with pytest.raises(ConfigError, match="give the path of the one"):
        read_dataset(str(folder))
    assert_back(read_dataset(str(folder / "targets.csv")), turned=True)
    for name in ("targets.csv", "id_prop.csv"):
        (folder / name).unlink()
    with pytest.raises(ConfigError, match=r"neither id_prop\.csv nor targets\.csv"):
        read_dataset(str(folder))


def test_a_folder_in_the_data_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert known_datasets()["mine"] == tmp_path / "mine"
    assert_back(read_dataset("mine"), turned=True)
    assert KEY not in read_dataset("mine").rows[0].targets


def test_a_file_of_vasp_4_without_names_is_not_trained_on(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, name="POSCAR_{}")
    for row in ROWS[:2]:
        path = folder / f"POSCAR_{row.id}"
        lines = path.read_text().split("\n")
        # Neither the title, the names line nor the line ends name an element.
        path.write_text("\n".join(["title", *lines[1:5], *lines[6:8], *(" ".join(x.split()[:3]) for x in lines[8:])]))
    dataset = read_dataset(str(folder))
    assert [row.id for row in dataset.rows] == [row.id for row in ROWS[2:]]
    assert codes(dataset) == [(row.id, "unknown_element") for row in ROWS[:2]]
    assert all("names no elements" in refusal.detail for refusal in dataset.refused)
