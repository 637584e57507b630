"""A version scored on a data set: the object of `evaluate --json`."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from deepergatgnn.commands.main import app
from deepergatgnn.errors import ConfigError
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.data.cache import prepared_dataset
from deepergatgnn.training.data.catalogue import locate
from deepergatgnn.training.data.splits import split_rows
from deepergatgnn.training.evaluation.metrics import by_element, summarise
from deepergatgnn.training.evaluation.scoring import evaluate, score
from tests.support.fixtures import BUNDLED, Published, bundled

KEYS = {
    "model", "version", "target", "unit", "n", "mae", "rmse", "r2", "coverage_90", "mean_width_90", "flagged",
    "mae_flagged", "mae_unflagged", "refused",
}  # fmt: skip


@pytest.fixture(scope="module")
def predictor(tiny: Published) -> Predictor:
    return Predictor.load(tiny.folder)


def documents(count: int | None = None) -> list[dict[str, Any]]:
    lines = gzip.decompress(locate(BUNDLED).read_bytes()).splitlines()[:count]
    return [json.loads(line) for line in lines]


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "mine.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def test_the_object_has_every_key_of_the_contract_and_is_json(predictor: Predictor) -> None:
    found = evaluate(predictor, BUNDLED, None, None)
    assert found.keys() == KEYS | {"figures"}
    assert (found["model"], found["version"]) == ("tiny-bulk-modulus", "1.0.0")
    assert (found["target"], found["unit"], found["n"]) == ("log10_K_VRH", "log10(GPa)", 1128)
    assert type(found["n"]) is type(found["flagged"]) is int
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_no_figure_is_said_twice_and_none_is_lost(predictor: Predictor) -> None:
    found, scored = evaluate(predictor, BUNDLED, None, None), score(predictor, BUNDLED, None, None)
    assert not found.keys() & found["figures"].keys()
    flat = {name: value for name, value in (found | found["figures"]).items() if isinstance(value, float | int)}
    assert flat == pytest.approx(summarise(scored))
    assert found["figures"]["by_element"] == pytest.approx(by_element(scored))


def test_the_test_part_scored_again_has_the_errors_of_the_manifest(
    tiny: Published, predictor: Predictor, tmp_path: Path
) -> None:
    rows = split_rows(prepared_dataset(BUNDLED, tiny.config.graph), tiny.config.split, tiny.config.seed).test
    everything = documents()
    found = evaluate(predictor, written(tmp_path, [everything[row] for row in rows]), None, None)
    for key, value in tiny.manifest.metrics["test"].items():
        assert (found | found["figures"])[key] == pytest.approx(value, rel=1e-4), key
    for part in ("by_size", "by_element", "by_width"):
        assert found["figures"][part] == pytest.approx(tiny.manifest.metrics[f"test_{part}"], rel=1e-4)


def test_rows_are_chosen_by_a_column(predictor: Predictor) -> None:
    wanted = sum(row.fields["space_group"] == 225 for row in bundled().rows)
    assert evaluate(predictor, BUNDLED, None, "space_group=225")["n"] == wanted
    for where in ("space_group=999", "spacegroup=225", "space_group", "spacegroup=None"):
        with pytest.raises(ConfigError, match=where):
            evaluate(predictor, BUNDLED, None, where)


def test_another_column_may_be_the_truth(predictor: Predictor) -> None:
    found = evaluate(predictor, BUNDLED, "log10_G_VRH", "space_group=225")
    assert found["target"] == "log10_G_VRH"
    assert found["mae"] != evaluate(predictor, BUNDLED, None, "space_group=225")["mae"]
    for missing in ("band_gap", "elastic_tensor_GPa"):  # not there; there, but no number
        with pytest.raises(ConfigError, match=f"no row with a number in target '{missing}'"):
            evaluate(predictor, BUNDLED, missing, None)


def test_rows_without_a_number_are_skipped_and_refused_ones_listed(predictor: Predictor, tmp_path: Path) -> None:
    rows = documents(12)
    rows[0]["targets"]["log10_K_VRH"] = None
    rows[1]["targets"]["log10_K_VRH"] = float("nan")
    del rows[2]["targets"]
    rows[3]["structure"]["species"][0] = "Xx"
    found = evaluate(predictor, written(tmp_path, rows), None, None)
    assert found["n"] == 8
    assert found["refused"] == [{"id": rows[3]["id"], "code": "unknown_element"}]
    rest = evaluate(predictor, written(tmp_path, rows[4:]), None, None)
    assert found["mae"] == pytest.approx(rest["mae"], rel=1e-5)
    assert score(predictor, written(tmp_path, rows), None, None).ids == [row["id"] for row in rows[4:]]


def test_figures_that_do_not_exist_are_none(predictor: Predictor, tmp_path: Path) -> None:
    found = evaluate(predictor, written(tmp_path, documents(1)), None, None)
    assert found["n"] == 1
    assert found["r2"] is None
    assert found["figures"]["mae_se"] is None
    assert [found["mae_flagged"], found["mae_unflagged"]].count(None) == 1


def test_a_set_of_refused_rows_only_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    """An atom alone in its box: a readable structure, no graph."""
    [row] = documents(1)
    row["structure"] = {"lattice": (20 * np.eye(3)).tolist(), "species": ["He"], "frac_coords": [[0, 0, 0]]}
    with pytest.raises(ConfigError, match="all 1 rows were refused"):
        evaluate(predictor, written(tmp_path, [row]), None, None)
    other = {"id": "mp-1", "structure": {}}
    with pytest.raises(ConfigError, match="all 2 rows were refused, the first 'The object has the keys none"):
        evaluate(predictor, written(tmp_path, [other, row]), None, None)


def test_a_bad_line_is_counted_and_ends_nothing(tiny: Published, tmp_path: Path) -> None:
    rows = documents(12)
    truth = rows[1]["targets"]["log10_K_VRH"]
    rows[1]["targets"]["log10_K_VRH"] = str(truth)
    rows[2]["targets"]["log10_K_VRH"] = "stiff"
    rows[3]["structure"]["limits"] = {}
    rows[4]["structure"] = None
    rows[5]["id"] = rows[0]["id"]
    del rows[6]["structure"]["species"]
    del rows[7]["targets"]
    path = tmp_path / "mine.jsonl.gz"
    path.write_bytes(gzip.compress(Path(written(tmp_path, rows)).read_bytes() + b'{"id": "cut"'))
    arguments = ["evaluate", "tiny-bulk-modulus", str(path), "--store", str(tiny.store.root), "--json"]
    for more in ([], ["--target", "log10_K_VRH"]):
        found = json.loads(CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False).stdout)
        assert found["n"] == 7
        assert found["refused"] == [
            {"id": rows[2]["id"], "code": "bad_target"},
            {"id": rows[4]["id"], "code": "no_structure"},
            {"id": rows[0]["id"], "code": "duplicate_id"},
            {"id": rows[6]["id"], "code": "unreadable"},
            {"id": "13", "code": "bad_row"},
        ]
    rows[1]["targets"]["log10_K_VRH"] = truth
    kept = [rows[index] for index in (0, 1, 3, 8, 9, 10, 11)]
    assert evaluate(Predictor.load(tiny.folder), written(tmp_path, kept), None, None)["mae"] == found["mae"]


def test_the_command_prints_tables_for_people_and_the_object_for_programs(
    tiny: Published, predictor: Predictor, tmp_path: Path
) -> None:
    rows = documents(40)
    rows[3]["structure"]["species"][0] = "Xx"
    path = written(tmp_path, rows)
    arguments = ["evaluate", "tiny-bulk-modulus", path, "--store", str(tiny.store.root)]
    found = evaluate(predictor, path, None, None)
    table, document = (CliRunner().invoke(app, [*arguments, *more]).stdout for more in ([], ["--json"]))
    assert json.loads(document) == found
    lines = [line.split() for line in table.splitlines()]
    assert ["mae", f"{found['mae']:.4g}"] in lines
    assert ["spearman_width", f"{found['figures']['spearman_width']:.4g}"] in lines
    sizes, elements = found["figures"]["by_size"], found["figures"]["by_element"]
    assert ["3-4", f"{sizes['n_3-4']:.0f}", f"{sizes['mae_3-4']:.4g}"] in lines
    assert ["O", f"{elements['n_O']:.0f}", f"{elements['mae_O']:.4g}"] in lines
    assert ["refused", f"{rows[3]['id']}:", "unknown_element"] in lines
