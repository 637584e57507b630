"""Errors, intervals and the object of `evaluate --json`."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from deepergatgnn.domain import DomainJudgement
from deepergatgnn.errors import ConfigError
from deepergatgnn.predictor import Prediction, Predictor
from tests.fixtures import BUNDLED, Published, bundled
from tests.training.test_datasets import real_documents, written
from training.datasets import build_graphs
from training.evaluation import conformal_half_width, errors, evaluate, summarise
from training.splits import split_rows

KEYS = {
    "model",
    "version",
    "target",
    "unit",
    "n",
    "mae",
    "rmse",
    "r2",
    "coverage_90",
    "mean_width_90",
    "flagged",
    "mae_flagged",
    "mae_unflagged",
    "refused",
}


@pytest.fixture(scope="module")
def predictor(tiny: Published) -> Predictor:
    return Predictor.load(tiny.folder)


@pytest.fixture(scope="module")
def residuals(tiny: Published, predictor: Predictor) -> np.ndarray:
    """Of the rows that neither training nor early stopping saw."""
    dataset, graphs = build_graphs(bundled(), tiny.config.graph)
    split = split_rows(dataset, tiny.config.split, tiny.config.seed)
    rows = np.concatenate([split.calibration, split.test])
    values = [answer.value for answer in predictor.predict_graphs([graphs[row] for row in rows])]
    return np.array(values) - dataset.values(["log10_K_VRH"])[rows, 0]


def test_errors_by_hand() -> None:
    found = errors(np.array([1.0, 2.0, 4.0, 5.0]), np.array([1.0, 3.0, 2.0, 6.0]))
    assert found == pytest.approx(
        {"n": 4, "mae": (0 + 1 + 2 + 1) / 4, "rmse": math.sqrt((0 + 1 + 4 + 1) / 4), "r2": 1 - 6 / (4 + 0 + 1 + 9)}
    )


def test_errors_by_numpy_on_real_moduli() -> None:
    true, other = bundled().values(["log10_K_VRH", "log10_G_VRH"]).T
    found = errors(other, true)
    assert found["mae"] == pytest.approx(np.mean(np.abs(other - true)))
    assert found["rmse"] == pytest.approx(np.linalg.norm(other - true) / math.sqrt(len(true)))
    assert found["r2"] == pytest.approx(1 - np.mean((other - true) ** 2) / np.var(true))
    assert errors(true, true)["r2"] == 1
    assert errors(np.full_like(true, true.mean()), true)["r2"] == pytest.approx(0)


def test_there_is_no_r2_where_the_truth_does_not_vary() -> None:
    assert math.isnan(errors(np.array([1.0, 2.0]), np.array([3.0, 3.0]))["r2"])


@pytest.mark.parametrize(
    ("count", "level", "rank"),
    [(9, 0.9, 9), (19, 0.9, 18), (10, 0.9, 10), (99, 0.95, 95), (4, 0.5, 3), (3, 0.5, 2), (5, 0.9, 5), (1, 0.9, 1)],
)
def test_the_half_width_is_the_residual_of_the_conformal_rank(count: int, level: float, rank: int) -> None:
    """⌈(n+1)·level⌉-th smallest; residuals ±1, ±2, ... make the rank visible."""
    sizes = np.arange(1, count + 1) * np.where(np.arange(count) % 2, 1.0, -1.0)
    shuffled = np.random.default_rng(0).permutation(sizes)
    assert conformal_half_width(shuffled, level) == rank


def test_wider_levels_are_never_narrower(residuals: np.ndarray) -> None:
    widths = [conformal_half_width(residuals, level) for level in (0.1, 0.5, 0.8, 0.9, 0.95, 0.99)]
    assert widths == sorted(widths)


def test_intervals_cover_what_they_promise_on_real_residuals(residuals: np.ndarray) -> None:
    """Over random halves the coverage of split-conformal intervals is level to level + 1 / (n + 1) on average."""
    rng, half = np.random.default_rng(0), len(residuals) // 2
    for level in (0.5, 0.8, 0.9):
        coverage = []
        for _ in range(300):
            order = rng.permutation(len(residuals))
            width = conformal_half_width(residuals[order[:half]], level)
            coverage.append(np.mean(np.abs(residuals[order[half:]]) <= width))
        # 300 halves overlap; 0.015 is far more than their standard error and far less than a wrong rule would miss.
        assert level - 0.015 < np.mean(coverage) < level + 1 / (half + 1) + 0.015


def test_coverage_of_the_test_part_is_within_chance(tiny: Published) -> None:
    test, calibration = tiny.manifest.metrics["test"], tiny.manifest.calibration
    deviation = math.sqrt(0.9 * 0.1 * (1 / test["n"] + 1 / calibration.n))
    assert abs(test["coverage_90"] - 0.9) < 4 * deviation


def test_a_summary_by_hand() -> None:
    def answer(value: float, *, in_domain: bool) -> Prediction:
        return Prediction(value, value - 1, value + 1, DomainJudgement(in_domain, 0.0, ()), np.ones(1, np.float32))

    answers = [answer(value, in_domain=value < 2.5) for value in (1.0, 2.0, 3.0, 4.0)]
    found = summarise(answers, np.array([1.0, 3.0, 5.5, 4.5]))
    assert found["coverage_90"] == 0.75  # an end of the interval belongs to it
    assert found["mean_width_90"] == 2
    assert (found["flagged"], found["mae_flagged"], found["mae_unflagged"]) == (2, 1.5, 0.5)


def test_the_object_has_every_key_of_the_contract_and_is_json(predictor: Predictor) -> None:
    found = evaluate(predictor, BUNDLED, None, None)
    assert found.keys() == KEYS
    assert (found["model"], found["version"]) == ("tiny-bulk-modulus", "1.0.0")
    assert (found["target"], found["unit"], found["n"]) == ("log10_K_VRH", "log10(GPa)", 1128)
    assert type(found["n"]) is type(found["flagged"]) is int
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_test_part_scored_again_has_the_errors_of_the_manifest(
    tiny: Published, predictor: Predictor, tmp_path: Path
) -> None:
    rows = split_rows(bundled(), tiny.config.split, tiny.config.seed).test
    documents = real_documents(1128)
    found = evaluate(predictor, str(written(tmp_path, [documents[row] for row in rows])), None, None)
    for key, value in tiny.manifest.metrics["test"].items():
        assert found[key] == pytest.approx(value, rel=1e-4), key


def test_rows_are_chosen_by_a_column(predictor: Predictor) -> None:
    wanted = sum(row.fields["space_group"] == 225 for row in bundled().rows)
    assert evaluate(predictor, BUNDLED, None, "space_group=225")["n"] == wanted
    for where in ("space_group=999", "spacegroup=225", "space_group"):
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
    documents = real_documents(12)
    documents[0]["targets"]["log10_K_VRH"] = None
    documents[1]["targets"]["log10_K_VRH"] = float("nan")
    del documents[2]["targets"]
    documents[3]["structure"]["species"][0] = "Xx"
    found = evaluate(predictor, str(written(tmp_path, documents)), None, None)
    assert found["n"] == 8
    assert found["refused"] == [{"id": documents[3]["id"], "code": "unknown_element"}]
    rest = evaluate(predictor, str(written(tmp_path, documents[4:])), None, None)
    assert found["mae"] == pytest.approx(rest["mae"], rel=1e-5)


def test_figures_that_do_not_exist_are_none(predictor: Predictor, tmp_path: Path) -> None:
    found = evaluate(predictor, str(written(tmp_path, real_documents(1))), None, None)
    assert found["n"] == 1
    assert found["r2"] is None
    assert [found["mae_flagged"], found["mae_unflagged"]].count(None) == 1


def test_a_set_of_refused_rows_only_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    """Atoms alone in their boxes: readable structures, no graphs."""
    [document] = real_documents(1)
    document["structure"] = {
        "lattice": [[20, 0, 0], [0, 20, 0], [0, 0, 20]],
        "species": ["He"],
        "frac_coords": [[0, 0, 0]],
    }
    with pytest.raises(ConfigError):
        evaluate(predictor, str(written(tmp_path, [document])), None, None)
