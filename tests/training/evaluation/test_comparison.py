"""Versions and runs side by side."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import sem
from typer.testing import CliRunner

from deepergatgnn.commands.main import app
from deepergatgnn.errors import ConfigError, ModelNotFoundError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.data.dataset import Refusal
from deepergatgnn.training.evaluation.comparison import compare, paired_difference
from deepergatgnn.training.evaluation.scoring import score
from deepergatgnn.training.experiments.run import run
from deepergatgnn.training.fit.checkpoint import STATE
from tests.support.fixtures import BUNDLED, Published

CPU = torch.device("cpu")
A, B = "tiny-bulk-modulus@1.0.0", "tiny-bulk-modulus@1.1.0"


@pytest.fixture(scope="module")
def two(tiny: Published, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The tiny version and one from another seed."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(tiny.store.root, folder / "store")
    store, config = ModelStore(folder / "store"), tiny.config.model_copy(update={"seed": 1, "members": 2})
    [manifest] = run(config, store, folder / "runs", device=CPU, report=lambda _: None, plots=False)
    return Published(config, store, folder / "runs", manifest)


def test_versions_are_told_from_their_manifests(two: Published) -> None:
    first, second = compare([A, B], two.store, None, None, None, CPU)
    assert (first["name"], second["name"]) == (A, B)
    assert (first["seed"], second["seed"], first["members"], second["members"]) == (0, 1, 1, 2)
    for row, name in ((first, A), (second, B)):
        manifest = two.store.manifest(name)
        assert row["test_mae"] == manifest.metrics["test"]["mae"]
        assert row["test_coverage_90"] == manifest.metrics["test"]["coverage_90"]
        assert (row["parameters"], row["dataset"]) == (manifest.parameters, BUNDLED)
    assert compare(["tiny-bulk-modulus"], two.store, None, None, None, CPU) == [first]
    assert not [name for name in first if name.startswith(("scored", "difference"))]


def test_runs_are_told_from_their_states(two: Published) -> None:
    [row] = compare([str(two.runs / "tiny")], two.store, None, None, None, CPU)
    assert (row["kind"], row["members"], row["epochs"], row["best_epoch"]) == ("run", 2, 1, 1)
    assert 0 < row["best_validation_sd"] <= row["mean_validation_sd"] < 5
    both = compare([A, str(two.runs / "tiny")], two.store, None, None, None, CPU)
    assert [each["kind"] for each in both] == ["version", "run"]


def test_versions_are_scored_on_the_same_rows_with_their_paired_difference(two: Published) -> None:
    first, second = compare([A, B], two.store, BUNDLED, None, "space_group=225", CPU)
    one, other = (score(Predictor.load(two.store.folder(name)), BUNDLED, None, "space_group=225") for name in (A, B))
    assert (first["scored_n"], second["scored_n"]) == (len(one.truth), len(other.truth))
    assert second["scored_mae"] == pytest.approx(np.abs(other.values - other.truth).mean())
    gained = other.off - one.off
    assert second["difference"] == pytest.approx(gained.mean())
    assert second["difference"] == pytest.approx(second["scored_mae"] - first["scored_mae"])
    assert second["difference_se"] == pytest.approx(sem(gained))
    assert second["difference_n"] == len(gained)
    assert "difference" not in first


def test_a_version_differs_from_itself_by_nothing(two: Published) -> None:
    _, same = compare([A, A], two.store, BUNDLED, "log10_G_VRH", "space_group=225", CPU)
    assert (same["difference"], same["difference_se"]) == (0, 0)


def test_rows_that_one_of_the_two_refused_do_not_count(two: Published) -> None:
    whole = score(Predictor.load(two.store.folder(A)), BUNDLED, None, "space_group=225")
    fewer = type(whole)(
        graphs=whole.graphs[1:],
        predictions=whole.predictions[1:],
        truth=whole.truth[1:] + 0.1,
        target=whole.target,
        ids=whole.ids[1:],
        refused=(Refusal(whole.ids[0], "too_dense", "by its own limits"),),
    )
    for one, other, sign in ((fewer, whole, 1), (whole, fewer, -1)):
        found = paired_difference(one, other)
        assert found["difference_n"] == len(whole.ids) - 1
        assert found["difference"] == pytest.approx(sign * (fewer.off - whole.off[1:]).mean())


def test_what_cannot_be_compared_is_refused(two: Published, tmp_path: Path) -> None:
    run_folder = str(two.runs / "tiny")
    with pytest.raises(ConfigError, match="name one"):
        compare([A], two.store, None, "log10_G_VRH", None, CPU)
    with pytest.raises(ConfigError, match="only versions can be scored"):
        compare([run_folder], two.store, BUNDLED, None, None, CPU)
    for missing in (str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(ConfigError, match="holds no state of a run"):
            compare([missing], two.store, None, None, None, CPU)
    with pytest.raises(ModelNotFoundError):
        compare(["nothing"], two.store, None, None, None, CPU)
    (tmp_path / STATE).write_bytes(b"not a state")
    with pytest.raises(ConfigError, match="is not the state of a run"):
        compare([str(tmp_path)], two.store, None, None, None, CPU)


def test_the_command_prints_a_table_or_json(two: Published) -> None:
    arguments = ["compare", A, B, str(two.runs / "tiny"), "--store", str(two.store.root), "--dataset", BUNDLED]
    table, document = (CliRunner().invoke(app, [*arguments, *more]).stdout for more in ([], ["--json"]))
    rows = json.loads(document)
    assert [row["kind"] for row in rows] == ["version", "version", "run"]
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert len({len(line) for line in table.splitlines()}) == 1
    assert lines["name"] == [A, B, str(two.runs / "tiny")]
    assert lines["scored_mae"] == [f"{rows[0]['scored_mae']:.4g}", f"{rows[1]['scored_mae']:.4g}", "-"]
    assert lines["difference"] == ["-", f"{rows[1]['difference']:.4g}", "-"]
    assert lines["members"] == ["1", "2", "2"]
