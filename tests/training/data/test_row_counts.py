"""What became of the rows of a data set is told before the training; when nothing is left, the reason is."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from deepergatgnn.commands.main import app
from deepergatgnn.errors import ConfigError
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.row_counts import RowGroup, row_counts
from deepergatgnn.training.data.run_data import assemble_run_data
from tests.training.data.test_catalogue import real_documents, written
from tests.training.experiments.test_run import changed

Documents = list[dict[str, Any]]
KEY = "log10_K_VRH"
SPLIT = {"test_fraction": 0.2, "validation_fraction": 0.2, "calibration_fraction": 0.2}
LOG = [{"model": "bulk", "key": KEY, "unit": "u", "transform": "log10"}]


def documents(rows: int, refused: int = 0, empty: int = 0, negative: int = 0) -> Documents:
    found = copy.deepcopy(real_documents(rows))
    for document in found[:refused]:
        document["structure"]["species"][0] = "Xx"
    for document in found[refused : refused + empty]:
        document["targets"][KEY] = None
    for document in found[refused + empty : refused + empty + negative]:
        document["targets"][KEY] = -1.0
    return found


def configured(folder: Path, rows: Documents, **changes: Any) -> TrainingConfig:
    return changed(**({"data": str(written(folder, rows)), "split": SPLIT} | changes))


def test_each_row_is_counted_with_its_reason(tmp_path: Path) -> None:
    rows = documents(80, refused=10, empty=7, negative=20)
    config = configured(tmp_path, rows, targets=LOG)
    run_data = assemble_run_data(config)
    groups = {group.name: group for group in row_counts(run_data.dataset, run_data.split, config.targets)}
    ids = [row["id"] for row in rows]
    assert groups["read"].count == 80
    assert groups["refused: unknown_element"] == RowGroup("refused: unknown_element", 10, tuple(ids[:3]))
    assert groups[f"without a number for {KEY}"].count == 7
    assert groups[f"not above zero, so without a log10 of {KEY}"].count == 20
    assert groups[f"not above zero, so without a log10 of {KEY}"].examples == tuple(ids[17:20])
    for part, size in run_data.split.sizes().items():
        assert groups[part].count == size
    assert groups[f"test, with {KEY}"].count < groups["test"].count


@pytest.mark.parametrize("command", ["train", "cross-validate"])
def test_training_begins_with_the_table(tmp_path: Path, command: str) -> None:
    split = {"folds": 2, "validation_fraction": 0.2} if command == "cross-validate" else SPLIT
    config = configured(tmp_path, documents(60, refused=4, empty=3), split=split)
    document = config.model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document), "utf-8")
    places = ["--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    done = CliRunner().invoke(app, [command, str(tmp_path / "run.yaml"), *places], catch_exceptions=False)
    assert done.exit_code == 0
    lines = [line.split() for line in done.stderr.splitlines()]
    assert lines.index(["rows", "of", "mine", "count", "examples"]) == 0
    assert ["read", "60"] in lines
    assert [line for line in lines if line[:3] == ["refused:", "unknown_element", "4"]]
    assert [line for line in lines if line[:6] == ["without", "a", "number", "for", KEY, "3"]]
    assert sum(line[0] == "read" for line in lines if line) == 1


NOTHING = {
    "all refused": (documents(30, refused=30), {}, r"every row was refused: 30 refused: unknown_element \(.*'Xx'"),
    "nearly all refused": (documents(30, refused=27), {}, r"leaves no rows for .*27 refused: unknown_element"),
    "no row": ([], {}, "mine has no row to learn from: it is empty"),
    "no number": (documents(30, empty=30), {}, f"no number for target '{KEY}' of mine: its column holds none"),
    "no logarithm": (documents(30, negative=30), {"targets": LOG}, "30 not above zero, so without a log10"),
    "some without": (documents(30, empty=12, negative=18), {"targets": LOG}, "12 without a number.*18 not above"),
    "no column": (
        documents(30),
        {"targets": [{"model": "bulk", "key": "log10_k_vrh", "unit": "u"}]},
        f"it has no such column; did you mean '{KEY}'. columns with numbers: G_Reuss_GPa, .*poisson_ratio",
    ),
    "no field": (
        documents(30),
        {"split": {"test_field": "spacegroup", "test_fold": 1}},
        "no field|has a field 'spacegroup': did you mean 'space_group'. its fields are",
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_where_nothing_is_left_the_error_names_the_reason(tmp_path: Path, name: str) -> None:
    rows, changes, reason = NOTHING[name]
    with pytest.raises(ConfigError, match=reason):
        assemble_run_data(configured(tmp_path, rows, **changes))


@pytest.mark.parametrize("value", [1e300, -1e300, 1e31])
def test_a_number_beyond_all_reason_is_named_with_its_row(tmp_path: Path, value: float) -> None:
    rows = documents(40)
    rows[5]["targets"][KEY] = value
    with pytest.raises(ConfigError, match=rf"1 numbers beyond .*, {rows[5]['id']} \({value:g}\)".replace("+", r"\+")):
        assemble_run_data(configured(tmp_path, rows))


@pytest.mark.parametrize("value", [0.1, 0.0, -3.7, 1e-300])
def test_a_target_without_variance_is_refused_whatever_the_rounding(tmp_path: Path, value: float) -> None:
    rows = documents(40)
    for row in rows:
        row["targets"][KEY] = value
    with pytest.raises(ConfigError, match="is the same in the whole training part"):
        assemble_run_data(configured(tmp_path, rows))
