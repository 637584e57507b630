"""Figures of predictions: errors, coverage, by element, by size and by width."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import sem, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from deepergatgnn.element_features import element_symbol
from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.predictor import Prediction, Predictor
from deepergatgnn.training.evaluation.metrics import (
    SIZES,
    Scored,
    by_element,
    by_size,
    by_width,
    errors,
    finite,
    measure,
    spearman,
    standard_error,
    summarise,
)
from deepergatgnn.training.evaluation.scoring import score
from deepergatgnn.uncertainty.domain import DomainAssessment
from tests.support.fixtures import BUNDLED, Published, bundled, some_rows, supercell

LEVELS = {"0.5": 0.4, "0.8": 0.8, "0.9": 1.0, "0.95": 1.2}


@pytest.fixture(scope="module")
def scored(tiny: Published) -> Scored:
    """A version's predictions for the whole bundled set."""
    return score(Predictor.load(tiny.folder), BUNDLED, None, None)


def part_of(scored: Scored, rows: np.ndarray) -> Scored:
    return Scored([scored.graphs[row] for row in rows], [scored.predictions[row] for row in rows], scored.truth[rows])


def answer(value: float, *, half: float = 1.0, in_domain: bool = True, distance: float = 0.0) -> Prediction:
    ends = {level: (value - half * share, value + half * share) for level, share in LEVELS.items()}
    judgement = DomainAssessment(in_domain, distance, ())
    return Prediction(value, *ends["0.9"], ends, half, judgement, np.ones(1, np.float32), np.ones(1, np.float32))


def scored_by_hand(answers: list[Prediction], truth: list[float]) -> Scored:
    graphs = [reduce_graph(build_graph(row.crystal, GraphConfig())) for row in some_rows(len(answers))]
    return Scored(graphs, answers, np.array(truth))


def test_errors_by_hand() -> None:
    found = errors(np.array([1.0, 2.0, 4.0, 5.0]), np.array([1.0, 3.0, 2.0, 6.0]))
    assert found == pytest.approx(
        {
            "n": 4,
            "mae": (0 + 1 + 2 + 1) / 4,
            "mae_se": math.sqrt((1 + 0 + 1 + 0) / 3) / 2,
            "rmse": math.sqrt((0 + 1 + 4 + 1) / 4),
            "r2": 1 - 6 / (4 + 0 + 1 + 9),
            "mad": (2 + 0 + 1 + 3) / 4,
            "mae_over_mad": 1 / 1.5,
        }
    )


def test_errors_by_scikit_learn_and_scipy_on_real_moduli() -> None:
    true, other = bundled().values(["log10_K_VRH", "log10_G_VRH"]).T
    found = errors(other, true)
    assert found["mae"] == pytest.approx(mean_absolute_error(true, other))
    assert found["mae_se"] == pytest.approx(sem(np.abs(true - other)))
    assert found["rmse"] == pytest.approx(root_mean_squared_error(true, other))
    assert found["r2"] == pytest.approx(r2_score(true, other))
    assert found["mad"] == pytest.approx(mean_absolute_error(true, np.full_like(true, true.mean())))
    assert (errors(true, true)["r2"], errors(true, true)["mae_over_mad"]) == (1, 0)
    constant = errors(np.full_like(true, true.mean()), true)
    assert (constant["r2"], constant["mae_over_mad"]) == pytest.approx((0, 1))


def test_figures_that_do_not_exist_are_no_numbers() -> None:
    one, same = errors(np.array([1.0]), np.array([3.0])), errors(np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert {name for name, figure in one.items() if math.isnan(figure)} == {"mae_se", "r2", "mae_over_mad"}
    assert {name for name, figure in same.items() if math.isnan(figure)} == {"r2", "mae_over_mad"}
    assert finite(one) == {"n": 1, "mae": 2, "rmse": 2, "mad": 0}
    assert math.isnan(standard_error(np.array([])))


@given(st.lists(st.tuples(st.integers(-3, 3), st.floats(-5, 5)), min_size=3, max_size=40))
def test_rank_correlation_is_that_of_scipy_with_ties(pairs: list[tuple[int, float]]) -> None:
    first, second = np.array(pairs, dtype=np.float64).T
    if len(set(first.tolist())) == 1 or len(set(second.tolist())) == 1:
        assert math.isnan(spearman(first, second))
    else:
        assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic, abs=1e-9)


def test_a_summary_by_hand() -> None:
    answers = [
        answer(value, in_domain=value < 2.5, distance=value, half=2.0 if value == 4 else 1.0)
        for value in (1.0, 2.0, 3.0, 4.0)
    ]
    found = summarise(scored_by_hand(answers, [1.0, 3.0, 5.5, 4.5]))
    # An end belongs to its interval: the second is off by exactly the half width at 90 %.
    assert [found[f"coverage_{level}"] for level in (50, 80, 90, 95)] == [0.5, 0.5, 0.75, 0.75]
    assert (found["mean_width_90"], found["width_90_p50"]) == pytest.approx((2.5, 2))
    assert (found["flagged"], found["mae_flagged"], found["mae_unflagged"]) == (2, 1.5, 0.5)
    assert (found["mae_flagged_se"], found["mae_unflagged_se"]) == (1, 0.5)
    assert found["spearman_domain"] == pytest.approx(spearmanr([0, 1, 2.5, 0.5], [1, 2, 3, 4]).statistic)
    assert found["spearman_width"] == pytest.approx(spearmanr([0, 1, 2.5, 0.5], [1, 1, 1, 2]).statistic)


def test_coverage_and_width_grow_with_the_level(scored: Scored) -> None:
    found = summarise(scored)
    coverage = [found[f"coverage_{level}"] for level in (50, 80, 90, 95)]
    widths = [scored.widths(level).mean() for level in LEVELS]
    assert coverage == sorted(coverage)
    assert widths == sorted(widths)
    low, high = scored.ends("0.9")
    assert [p.low for p in scored.predictions] == low.tolist()
    assert [p.high for p in scored.predictions] == high.tolist()


def test_figures_do_not_depend_on_the_order_of_the_crystals(scored: Scored) -> None:
    other = measure(part_of(scored, np.random.default_rng(0).permutation(len(scored.truth))), "test")
    for name, figures in measure(scored, "test").items():
        assert other[name] == pytest.approx(figures), name


def test_by_element_counts_the_crystals_that_contain_it(scored: Scored) -> None:
    found = by_element(scored)
    crystals = [set(row.crystal.symbols) for row in bundled().rows]
    assert {name.removeprefix("n_") for name in found if name.startswith("n_")} == set().union(*crystals)
    for symbol in ("Fe", "O", "I"):
        inside = np.array([symbol in crystal for crystal in crystals])
        assert found[f"n_{symbol}"] == inside.sum()
        assert found[f"mae_{symbol}"] == pytest.approx(scored.off[inside].mean())


def test_the_bins_of_size_part_the_crystals(scored: Scored) -> None:
    found = by_size(scored)
    counts = {name.removeprefix("n_"): count for name, count in found.items() if name.startswith("n_")}
    assert sum(counts.values()) == len(scored.truth)
    total = sum(count * found[f"mae_{name}"] for name, count in counts.items())
    assert total / len(scored.truth) == pytest.approx(scored.off.mean())
    assert list(counts)[:5] == ["1", "2", "3-4", "5-8", "9-16"]
    sizes = np.array([graph.n_nodes for graph in scored.graphs])
    assert counts["3-4"] == ((sizes == 3) | (sizes == 4)).sum()
    assert counts["17-32"] == ((sizes >= 17) & (sizes <= 32)).sum()


def test_the_last_bin_of_size_is_open(scored: Scored) -> None:
    largest = replace(scored.graphs[0], atomic_numbers=np.ones(SIZES[-1] + 900, np.int64))
    assert by_size(Scored([largest], scored.predictions[:1], scored.truth[:1])).keys() == {"n_33+", "mae_33+"}


def test_a_supercell_is_in_the_bin_of_its_cell(scored: Scored) -> None:
    crystals = [row.crystal for row in some_rows(6)]
    graph = partial(build_graph, config=GraphConfig())
    some = part_of(scored, np.arange(6))
    small, large = (
        by_size(replace(some, graphs=[reduce_graph(graph(crystal)) for crystal in each]))
        for each in (crystals, [supercell(crystal, (2, 1, 1)) for crystal in crystals])
    )
    assert small == large


def test_quintiles_of_width_part_the_crystals_from_narrow_to_wide(scored: Scored) -> None:
    found, widths = by_width(scored), scored.widths()
    for group, rows in enumerate(np.array_split(np.argsort(widths), 5), start=1):
        assert found[f"n_{group}"] == pytest.approx(len(rows), abs=2)
        assert found[f"coverage_{group}"] == pytest.approx(scored.covered()[rows].mean(), abs=0.02)
        assert found[f"from_{group}"] <= widths[rows].mean() <= found[f"to_{group}"]
        if group > 1:
            assert found[f"to_{group - 1}"] < found[f"from_{group}"]
    counts = np.array([found[f"n_{group}"] for group in range(1, 6)])
    coverage = np.array([found[f"coverage_{group}"] for group in range(1, 6)])
    assert counts.sum() == len(widths)
    assert counts @ coverage / len(widths) == pytest.approx(summarise(scored)["coverage_90"])


def test_crystals_of_equal_width_stay_together() -> None:
    scored = scored_by_hand([answer(value / 3, half=0.1) for value in range(7)], [0.0] * 7)
    assert len(set(np.diff(scored.ends("0.9"), axis=0).ravel().tolist())) > 1  # by rounding alone
    found = by_width(scored)
    assert [found[name] for name in found if name.startswith("n_")] == [7]
    assert math.isnan(summarise(scored)["spearman_width"])


def test_what_the_manifest_keeps_are_finite_numbers(scored: Scored) -> None:
    found = measure(part_of(scored, np.arange(1)), "test")
    assert found.keys() == {"test", "test_by_element", "test_by_size", "test_by_width"}
    assert found["test"]["n"] == 1
    assert "r2" not in found["test"]
    assert all(math.isfinite(figure) for figures in found.values() for figure in figures.values())
    elements = {element_symbol(number) for number in np.unique(scored.graphs[0].atomic_numbers).tolist()}
    assert {name.partition("_")[2] for name in found["test_by_element"]} == elements


def test_coverage_of_the_test_part_is_within_chance(tiny: Published) -> None:
    test, calibration = tiny.manifest.metrics["test"], tiny.manifest.calibration
    for level in (50, 80, 90, 95):
        share = level / 100
        deviation = math.sqrt(share * (1 - share) * (1 / test["n"] + 1 / calibration.n))
        assert abs(test[f"coverage_{level}"] - share) < 4 * deviation
