"""What a run learns from: sets joined, rows excluded, targets on one scale."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.cache import prepared_dataset
from deepergatgnn.training.data.run_data import assemble_run_data
from deepergatgnn.training.data.splits import PARTS
from deepergatgnn.uncertainty.intervals import unscale
from tests.support.fixtures import TINY
from tests.training.data.test_cache import assert_same_graph, documents, written


def changed(**changes: Any) -> TrainingConfig:
    document = TINY.model_dump(mode="json")
    del document["network"]["targets"]
    return TrainingConfig.model_validate(document | changes)


def formulas(rows: list[dict[str, Any]], tmp_path: Path) -> list[str]:
    return list(prepared_dataset(written(tmp_path, rows, "formulas.jsonl"), TINY.graph).formulas)


def test_extra_rows_join_the_training_part_unless_a_set_before_has_their_formula(tmp_path: Path) -> None:
    rows = documents(140)
    main, more, last = (
        written(tmp_path, part, name)
        for name, part in (("a.jsonl", rows[:90]), ("b.jsonl", rows[80:120]), ("c.jsonl", rows[100:]))
    )
    alone, run_data = (
        assemble_run_data(changed(data=main)),
        assemble_run_data(changed(data=main, extra_data=[more, last])),
    )
    names = formulas(rows, tmp_path)
    first, second = set(names[:90]), set(names[80:120])
    expected = [index for index in range(80, 120) if names[index] not in first]
    expected += [index for index in range(100, 140) if names[index] not in first | second]
    assert [rows[index]["id"] for index in expected] == list(run_data.dataset.ids[90:])
    assert run_data.notes["extra_rows"] == len(expected)
    for part in PARTS[1:]:
        np.testing.assert_array_equal(getattr(run_data.split, part), getattr(alone.split, part))
    np.testing.assert_array_equal(
        run_data.split.train, [*alone.split.train, *range(90, 90 + len(expected))], strict=False
    )
    whole = prepared_dataset(written(tmp_path, rows, "whole.jsonl"), TINY.graph)
    for row, index in enumerate([*range(90), *expected]):
        assert_same_graph(run_data.dataset.graphs[row], whole.graphs[index])
        assert run_data.dataset.cells[row] == whole.cells[index]
        assert run_data.truth[row, 0] == whole.columns["log10_K_VRH"][index]
    examples = run_data.examples(run_data.split.train)
    for place in (0, len(examples.graphs) - 1):
        assert_same_graph(examples.graphs[place], run_data.dataset.graphs[run_data.split.train[place]])


def test_formulas_of_excluded_rows_are_in_no_training_row(tmp_path: Path) -> None:
    rows = documents(120)
    for number, row in enumerate(rows):
        row["fold"] = number % 3
    other = written(tmp_path, rows, "other.jsonl")
    names = formulas(rows, tmp_path)
    for field, kept_out in ((None, set(names)), ("fold", {name for i, name in enumerate(names) if i % 3 == 1})):
        exclude = [{"data": other} if field is None else {"data": other, "field": field, "value": 1}]
        run_data = assemble_run_data(changed(exclude=exclude))
        assert kept_out.isdisjoint({run_data.dataset.formulas[row] for row in run_data.split.train})
        before = assemble_run_data(changed()).split
        assert run_data.notes["excluded_from_train"] == len(before.train) - len(run_data.split.train) > 0
        np.testing.assert_array_equal(run_data.split.test, before.test)
    with pytest.raises(ConfigError, match="has no field 'nothing'"):
        assemble_run_data(changed(exclude=[{"data": other, "field": "nothing", "value": 1}]))


def test_targets_are_standardised_by_the_training_part(tmp_path: Path) -> None:
    rows = documents(120)
    for row in rows[::7]:
        row["targets"]["log10_K_VRH"] = None
    for number, row in enumerate(rows):
        row["targets"]["decades"] = -1.0 if number % 9 == 0 else 10.0 ** (number % 6)
    targets = [
        {"model": "k", "key": "log10_K_VRH", "unit": "log10(GPa)"},
        {"model": "decades", "key": "decades", "unit": "GPa", "transform": "log10"},
    ]
    run_data = assemble_run_data(changed(data=written(tmp_path, rows), targets=targets))
    train = run_data.scaled[run_data.split.train].astype(np.float64)
    np.testing.assert_allclose(np.nanmean(train, axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(train, axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(run_data.scaled), np.isnan(run_data.truth))
    assert np.isnan(run_data.truth[:, 0]).sum() == len(rows[::7])
    assert np.isnan(run_data.truth[:, 1]).sum() == len(rows[::9])
    for index, scaler in enumerate(run_data.scalers):
        back = unscale(run_data.scaled[:, index], scaler)
        np.testing.assert_allclose(back, run_data.truth[:, index], rtol=1e-5, atol=1e-5)


def test_rows_without_any_target_are_not_learned(tmp_path: Path) -> None:
    rows = documents(120)
    for number, row in enumerate(rows):
        row["targets"]["log10_K_VRH"] = None if number % 3 == 0 else row["targets"]["log10_K_VRH"]
        row["targets"]["log10_G_VRH"] = None if number % 2 == 0 else row["targets"]["log10_G_VRH"]
    data = written(tmp_path, rows)
    targets = [{"model": key[6].lower(), "key": key, "unit": "log10(GPa)"} for key in ("log10_K_VRH", "log10_G_VRH")]
    both, one = (
        assemble_run_data(changed(data=data, targets=targets)),
        assemble_run_data(changed(data=data, targets=targets[:1])),
    )
    assert np.isfinite(both.truth[both.split.train]).any(axis=1).all()
    assert np.isnan(both.truth[both.split.train]).any()
    assert np.isfinite(one.truth[one.split.train]).all()
    assert len(one.split.train) < len(both.split.train)
    assert one.notes["rows_left_out"] > both.notes["rows_left_out"] > 0
    np.testing.assert_array_equal(one.split.validation, both.split.validation)


def test_what_the_split_shares_is_counted_for_every_pair_of_parts() -> None:
    run_data = assemble_run_data(changed())
    parts = {part: {run_data.dataset.formulas[row] for row in getattr(run_data.split, part)} for part in PARTS}
    for index, one in enumerate(PARTS):
        for other in PARTS[index + 1 :]:
            assert run_data.notes[f"formulas_shared_by_{one}_and_{other}"] == len(parts[one] & parts[other])


def test_only_what_decides_the_weights_is_in_the_fingerprint() -> None:
    run_data = assemble_run_data(changed())
    own = run_data.fingerprint(TINY, 0)
    said = {"name": "other", "source": "elsewhere", "licence": "none", "version": "3.0.0", "members": 4}
    assert run_data.fingerprint(TINY.model_copy(update=said), 0) == own
    described = changed(targets=[{"model": "new-name", "key": "log10_K_VRH", "unit": "GPa", "description": "words"}])
    assert run_data.fingerprint(described, 0) == own
    others = [
        run_data.fingerprint(TINY, 1),
        run_data.fingerprint(changed(seed=1), 0),
        run_data.fingerprint(changed(optimization={"epochs": 2}), 0),
        run_data.fingerprint(changed(targets=[{"model": "k", "key": "log10_G_VRH", "unit": "GPa"}]), 0),
        assemble_run_data(changed(extra_data=["elastic_tensor_2015"])).fingerprint(TINY, 0),
    ]
    assert len({own, *others}) == 6
