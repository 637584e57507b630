"""extxyz files and ASE databases."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import ase
import ase.db
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.data.catalogue import read_dataset
from tests.support.data_set_forms import KEY, ROWS, atoms_of, codes

NUMBERS = [str(number) for number in range(1, len(ROWS) + 1)]


def frames() -> list[ase.Atoms]:
    return [
        atoms_of(
            row, material_id=row.id, k_vrh=row.targets[KEY], fold=n % 5, family="metal oxide", ok=True, axis=[0, 0, 1]
        )
        for n, row in enumerate(ROWS)
    ]


def database(path: Path, structures: list[ase.Atoms]) -> Path:
    with ase.db.connect(path, use_lock_file=False) as opened:
        for each in structures:
            pairs = {key: value for key, value in each.info.items() if not isinstance(value, list)}
            opened.write(each, key_value_pairs=pairs)
    return path


@pytest.mark.parametrize("name", ["t.extxyz", "t.xyz", "t.db"])
def test_frames_come_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "t.db":
        database(path, frames())
    else:
        write(path, frames(), format="extxyz")
    dataset = read_dataset(str(path))
    assert dataset.refused == ()
    assert [row.id for row in dataset.rows] == [row.id for row in ROWS]
    for n, (found, expected) in enumerate(zip(dataset.rows, ROWS, strict=True)):
        assert found.crystal.symbols == expected.crystal.symbols
        np.testing.assert_allclose(found.crystal.lattice, expected.crystal.lattice, atol=1e-7)
        apart = found.crystal.frac_coords - expected.crystal.frac_coords
        np.testing.assert_allclose(apart, 0, atol=1e-7)
        assert found.targets == {"k_vrh": pytest.approx(expected.targets[KEY], abs=1e-12)}
        assert found.fields == {"fold": n % 5, "family": "metal oxide", "ok": True}


def test_frames_of_one_name_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "t.extxyz", [atoms_of(row, material_id="mp-1", k_vrh=row.targets[KEY]) for row in ROWS])
    dataset = read_dataset(str(tmp_path / "t.extxyz"))
    assert [row.id for row in dataset.rows] == NUMBERS
    assert dataset.rows[0].fields == {"material_id": "mp-1"}


def test_a_calculated_energy_is_a_target(tmp_path: Path) -> None:
    structures = [atoms_of(row) for row in ROWS]
    for n, each in enumerate(structures):
        each.calc = SinglePointCalculator(each, energy=-1.5 * n)
    write(tmp_path / "t.extxyz", structures)
    database(tmp_path / "t.db", structures)
    for name in ("t.extxyz", "t.db"):
        dataset = read_dataset(str(tmp_path / name))
        assert [row.targets["energy"] for row in dataset.rows] == [-1.5 * n for n in range(len(ROWS))]


def test_what_is_no_crystal_is_listed(tmp_path: Path) -> None:
    structures = frames()
    structures[1].pbc = (True, True, False)
    structures[2] = ase.Atoms("H2O", positions=np.eye(3), info={"k_vrh": 1.0})
    structures[3].numbers[0] = 0
    structures[4].positions[1] = structures[4].positions[0]
    for each in structures:
        each.info.pop("material_id", None)
    write(tmp_path / "t.extxyz", structures)
    database(tmp_path / "t.db", structures)
    for name in ("t.extxyz", "t.db"):
        dataset = read_dataset(str(tmp_path / name))
        assert [row.id for row in dataset.rows] == ["1", "6", "7", "8"]
        assert codes(dataset) == [
            ("2", "no_structure"),
            ("3", "no_structure"),
            ("4", "unknown_element"),
            ("5", "overlapping_atoms"),
        ]
        assert all(refusal.detail for refusal in dataset.refused)


@pytest.mark.parametrize("lattice", ["Lattice=[[4, 0, 0], [0, 5, 0], [0, 0, 6]]", 'Lattice="{4 0 0} {0 5 0} {0 0 6}"'])
def test_a_cell_is_read_as_the_service_reads_it(tmp_path: Path, lattice: str) -> None:
    path = tmp_path / "t.extxyz"
    path.write_text(f"1\nenergy=-1.5 {lattice} pbc=[T, T, T] lattice=sc\nNa 0 0 0\n")
    [row] = read_dataset(str(path)).rows
    np.testing.assert_allclose(row.crystal.lattice, np.diag([4, 5, 6]))
    assert (row.targets, row.fields) == ({"energy": -1.5}, {})


def test_a_damaged_frame_falls_alone_and_a_lost_count_ends_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.extxyz"
    write(path, [atoms_of(row, k_vrh=1.5) for row in ROWS])
    lines = path.read_text().splitlines()
    lines[2] = "Xx not numbers"
    second = 2 + ROWS[0].crystal.n_atoms
    lines[second + 1] = 'Lattice="1 0 0'
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    dataset = read_dataset(str(path))
    assert [row.id for row in dataset.rows] == NUMBERS[2:]
    assert [refusal.id for refusal in dataset.refused] == ["1", "2"]
    path.write_text("\n".join([*lines[second + 2 + ROWS[1].crystal.n_atoms :], "the end", "of it"]))
    dataset = read_dataset(str(path))
    assert len(dataset.rows) == len(ROWS) - 2
    assert codes(dataset) == [(str(len(ROWS) - 1), "unreadable")]


def test_no_other_database_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    opened = sqlite3.connect(path)
    opened.execute("CREATE TABLE mine (x)")
    opened.commit()
    opened.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="no table `systems`"):
        read_dataset(str(path))
    assert path.read_bytes() == before
    path.write_bytes(b"no database at all, but long enough to be taken for one")
    with pytest.raises(ConfigError, match="not an ASE database"):
        read_dataset(str(path))


def test_reading_a_database_leaves_it_as_it_is(tmp_path: Path) -> None:
    path = database(tmp_path / "t.db", frames())
    before = path.read_bytes()
    assert len(read_dataset(str(path)).rows) == len(ROWS)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["t.extxyz", "t.db"])
def test_without_ase_the_remedy_is_said(tmp_path: Path, name: str) -> None:
    database(tmp_path / "t.db", frames())
    write(tmp_path / "t.extxyz", frames())
    code = (
        "import sys; sys.modules['ase'] = None\n"
        "from deepergatgnn.errors import ConfigError\n"
        "from deepergatgnn.training.data.catalogue import read_dataset\n"
        "try: read_dataset(sys.argv[1])\n"
        "except ConfigError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True, check=True
    )
    assert "pip install deepergatgnn[ase]" in done.stdout
