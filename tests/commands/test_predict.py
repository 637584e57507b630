"""`predict` as it is typed: one wrong file costs itself alone, and programs read all of it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from deepergatgnn.predictor import Predictor
from tests.commands.conftest import Command
from tests.conftest import ROOT
from tests.support.fixtures import Published

CIF = (ROOT / "examples/ZrO2.cif").read_bytes()
POSCAR = (ROOT / "examples/ZnO.POSCAR").read_bytes()
NOT_UTF8 = "set/\ufffd\ufffd.cif"
CHARGED = b"""data_MgO
_cell_length_a 4.2
_cell_length_b 4.2
_cell_length_c 4.2
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Mg1 Mg2+ 0 0 0
O1 O2- 0.5 0.5 0.5
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with files of every kind, good and bad."""
    deep = tmp_path / "set" / "a" / "deep"
    deep.mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (deep / "ZrO2.CIF").write_bytes(CIF)
    (tmp_path / "set" / "POSCAR_2").write_bytes(POSCAR)
    (tmp_path / "set" / "b.cif").write_bytes(CHARGED)
    (tmp_path / "set" / "c.cif").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    (Path(os.fsdecode(os.fsencode(tmp_path / "set") + b"/\xff\n.cif"))).write_bytes(POSCAR)
    (tmp_path / "set" / "readme.txt").write_bytes(b"not a structure")
    os.mkfifo(tmp_path / "set" / "pipe")
    return tmp_path


@pytest.mark.usefixtures("files")
def test_every_other_file_is_predicted(command: Command) -> None:
    done = command("predict", "missing.cif", "set", "empty", "-", "nul\\0.cif", "set/b.cif", "--json", stdin=POSCAR)
    assert done.returncode == 2
    results = json.loads(done.stdout)
    assert [(result["file"], result.get("error", {}).get("code")) for result in results] == [
        ("missing.cif", "no_file"),
        ("set/POSCAR_2", None),
        ("set/b.cif", None),
        ("set/c.cif", "unreadable"),
        ("set/\ufffd\n.cif", None),
        ("set/a/deep/ZrO2.CIF", None),
        ("empty", "no_file"),
        ("-", None),
        ("nul\\0.cif", "no_file"),
        ("set/b.cif", None),
    ]
    for result in results:
        assert ("predictions" in result) != ("error" in result)
        if "error" in result:
            assert result["error"]["detail"].endswith(".")
        else:
            [prediction] = result["predictions"]
            assert len(prediction["attention"]) == result["n_atoms"]
            assert prediction["interval"]["low"] < prediction["value"] < prediction["interval"]["high"]
    assert [bool(result["warnings"]) for result in results if "warnings" in result] == [
        False,
        True,
        False,
        False,
        False,
        True,
    ]
    assert results[1]["predictions"] == results[4]["predictions"] == results[7]["predictions"]
    lines = done.stdout.decode().splitlines()
    assert [json.loads(line.rstrip(",")) for line in lines[1:-1]] == results


@pytest.mark.usefixtures("files")
def test_people_read_a_line_for_each_file(command: Command) -> None:
    done = command("predict", "missing.cif", "set/b.cif", "set/c.cif", "set")
    assert done.returncode == 2
    printed, told = done.stdout.decode().splitlines(), done.stderr.decode().splitlines()
    assert [line.split()[0] for line in printed] == [
        "set/b.cif",
        "set/POSCAR_2",
        "set/b.cif",
        NOT_UTF8,
        "set/a/deep/ZrO2.CIF",
    ]
    assert "missing.cif: refused, no_file: There is no such file." in told
    assert sum(line.startswith("set/c.cif: refused, unreadable:") for line in told) == 2
    assert any(line.startswith("set/b.cif: Oxidation states") for line in told)
    assert told[-1] == "5 of 8 files predicted"
    assert "Traceback" not in done.stderr.decode()


def test_good_files_end_well_and_their_vectors_are_written(command: Command, files: Path, tiny: Published) -> None:
    done = command("predict", "set/POSCAR_2", "set/a", "--model", "tiny-bulk-modulus", "--embeddings", "out.npz")
    assert (done.returncode, done.stderr) == (0, b"")
    with np.load(files / "out.npz") as found:
        assert found["files"].tolist() == ["set/POSCAR_2", "set/a/deep/ZrO2.CIF"]
        vectors = found["tiny-bulk-modulus@1.0.0"]
    expected = Predictor.load(tiny.folder).embed_structures([files / "set/POSCAR_2", files / "set/a/deep/ZrO2.CIF"])
    np.testing.assert_allclose(vectors, expected, rtol=1e-5)
    assert sorted(path.name for path in files.iterdir()) == ["empty", "out.npz", "set"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["x.cif", "--model", "no-such-model"], 2, "no model 'no-such-model'"),
        (["x.cif", "--model", "tiny-bulk-modulus@3.0.0"], 2, "no version 3.0.0"),
        (["x.cif", "--store", "nowhere"], 2, "nowhere"),
        (["x.cif", "--embeddings", "nowhere/out.npz"], 2, "nowhere/out.npz is in a folder that does not exist"),
        (["x.cif", "--device", "cuda:99"], 2, "no device"),
        ([], 2, "FILE"),
    ],
)
def test_wrong_arguments_are_told_in_a_sentence(command: Command, arguments: list[str], code: int, said: str) -> None:
    done = command("predict", *arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_a_damaged_model_costs_itself_alone(command: Command, files: Path, tiny: Published) -> None:
    store = files / "store"
    shutil.copytree(tiny.store.root, store)
    shutil.copytree(tiny.store.root / "tiny-bulk-modulus", store / "another")
    (store / "another" / "1.0.0" / "card.md").write_text("other", "utf-8")
    (store / "unused" / "1.0.0").mkdir(parents=True)  # never promoted
    done = command("predict", "set/POSCAR_2", "--json", "--store", store)
    assert done.returncode == 1
    [result] = json.loads(done.stdout)
    assert [prediction["model"] for prediction in result["predictions"]] == ["tiny-bulk-modulus"]
    assert b"model another is skipped" in done.stderr
    alone = command("predict", "set/POSCAR_2", "--model", "another", "--store", store)
    assert (alone.returncode, alone.stdout) == (1, b"")
