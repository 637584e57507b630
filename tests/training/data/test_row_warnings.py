"""What was not taken literally is told at every command, by kind."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepergatgnn.commands import main
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.structures.ignored import CHARGE, OXIDATION_STATES
from deepergatgnn.training.data.cache import prepared_dataset
from deepergatgnn.training.data.catalogue import describe, read_dataset
from deepergatgnn.training.data.row_warnings import by_kind, joined, kind_of, warning_lines, warning_table
from tests.support.fixtures import Published, some_rows

ROWS = some_rows(60)
MOMENTS = "The site property magmom is ignored: the models know elements and positions."
CONFIG = """
name: warned
data: {data}
targets:
  - model: warned
    key: k
    unit: log10(GPa)
network: {{layers: 1, channels: 16, heads: 2, groups: 4}}
optimization: {{epochs: 1}}
"""
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The console script: exit code, stdout and stderr."""

    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["deepergatgnn", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return called


def structure(index: int) -> dict[str, Any]:
    """Every second one has a charge, every fifth one moments, and the last one no lattice."""
    crystal = ROWS[index].crystal
    value: dict[str, Any] = {
        "lattice": crystal.lattice.tolist(),
        "species": list(crystal.symbols),
        "frac_coords": crystal.frac_coords.tolist(),
    }
    value |= {"charge": 1} if index % 2 == 0 else {}
    value |= {"site_properties": {"magmom": [1.0] * crystal.n_atoms}} if index % 5 == 0 else {}
    return value if index < len(ROWS) - 1 else {}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPERGATGNN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "warned.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for index, row in enumerate(ROWS):
            document = {"id": f"r{index}", "structure": structure(index), "targets": {"k": row.targets["log10_K_VRH"]}}
            file.write(json.dumps(document) + "\n")
    return path


EXPECTED = {
    CHARGE: [f"r{index}" for index in range(0, 59, 2)],
    MOMENTS: [f"r{index}" for index in range(0, 59, 5)],
}
LINES = [f"warning in 30 rows (r0, r2, r4, ...): {CHARGE}", f"warning in 12 rows (r0, r5, r10, ...): {MOMENTS}"]


@pytest.mark.parametrize(
    ("warnings", "kind"),
    [
        (
            ["The site 3 is vacant and is left out.", "The site 12 is vacant and is left out."],
            "The site … is vacant and is left out.",
        ),
        (["The type 'Xe1' is read as Xe.", "The type 'Xe22' is read as Xe."], "The type … is read as Xe."),
        (
            ["The sites O1, O2 lie on one another.", "The sites H1A, H1B, H1C lie on one another."],
            "The sites … lie on one another.",
        ),
        (["The site 4 (Cl) has the occupancy 0 and is left out."], "The site … has the occupancy … and is left out."),
        (["Sites are left out: 2 of 4.", "Sites are left out: 1 of 12."], "Sites are left out: … of …."),
        ([OXIDATION_STATES], OXIDATION_STATES),
        ([MOMENTS], MOMENTS),
    ],
)
def test_a_kind_has_no_word_of_one_file(warnings: list[str], kind: str) -> None:
    assert {kind_of(warning) for warning in warnings} == {kind}


def test_a_row_is_once_in_a_kind_and_the_most_frequent_kind_is_first() -> None:
    found = by_kind([("a", ["rare", "site 1", "site 2"]), ("b", ["site 3"]), ("c", ())])
    assert list(found.items()) == [("site …", ["a", "b"]), ("rare", ["a"])]
    assert joined([(found, ["a"]), ({"rare": ["x", "y"]}, ["x", "y"])]) == {"rare": ["a", "x", "y"], "site …": ["a"]}
    assert warning_table(found)[0] == {"kind": "site …", "rows": 2, "ids": ["a", "b"]}
    assert (
        warning_lines(warning_table({str(index): ["a"] for index in range(25)}))[-1] == "and 5 more kinds of warnings"
    )


def test_a_prepared_set_keeps_them_in_memory_and_on_disk(data: Path) -> None:
    assert read_dataset(str(data)).warnings == EXPECTED
    for _ in range(2):  # made, and from the cache
        prepared = prepared_dataset(str(data), GraphConfig())
        assert prepared.warnings == EXPECTED
    assert prepared.take(np.array([1])).warnings == EXPECTED


def test_the_data_set_commands_list_them_beside_the_refusals(data: Path, command: Command, tmp_path: Path) -> None:
    table = warning_table(EXPECTED)
    assert describe(str(data))["warnings"] == table
    assert json.loads(command("datasets", "show", str(data), "--json")[1])["warnings"] == table
    shown = command("datasets", "show", str(data))[1].splitlines()
    assert shown[-2:] == LINES
    assert shown[-3].startswith("refused r59: no_structure")
    fetched = command("datasets", "fetch", str(data), "--out", str(tmp_path / "sets"), "--json")[1]
    assert json.loads(fetched)["warnings"] == table
    (tmp_path / "run.yaml").write_text(CONFIG.format(data=data), "utf-8")
    code, out, _ = command("datasets", "prepare", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "prepared"))
    assert (code, out.splitlines()[-2:]) == (0, LINES)
    assert "refused r59: no_structure" in out


def test_a_training_begins_with_them(data: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG.format(data=data), "utf-8")
    folders = ["--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    code, _, err = command("train", str(tmp_path / "run.yaml"), *folders)
    assert (code, set(LINES) <= set(err.splitlines())) == (0, True)


def test_predict_prints_the_warnings_of_each_file(tiny: Published, command: Command, tmp_path: Path) -> None:
    files = [tmp_path / "charged.json", tmp_path / "plain.json"]
    for index, file in enumerate(files):
        file.write_text(json.dumps(structure(index * 3)), "utf-8")
    arguments = ["predict", *map(str, files), "--store", str(tiny.store.root), "--device", "cpu"]
    code, out, err = command(*arguments)
    assert (code, err.splitlines()) == (0, [f"{files[0]}: {CHARGE}", f"{files[0]}: {MOMENTS}"])
    assert all(str(file) in out for file in files)
    code, out, err = command(*arguments, "--json")
    assert (code, err) == (0, "")
    assert [answer["warnings"] for answer in json.loads(out)] == [[CHARGE, MOMENTS], []]
