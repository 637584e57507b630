"""Matbench's tasks, folds and records; matminer's sets."""

import gzip
import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepergatgnn.errors import ConfigError
from deepergatgnn.structures import crystal_to_pymatgen
from deepergatgnn.training.data.catalogue import read_dataset
from deepergatgnn.training.data.matbench import (
    TASKS,
    fold_predictions,
    official_folds,
    official_ids,
    record,
    write_record,
)
from deepergatgnn.training.data.readers.matminer_sets import matbench_dataset
from tests.support.fixtures import bundled

TASK = "matbench_jdft2d"
# Of the test ids of fold 0 to 4 in matbench_v0.1_validation.json of matbench 0.6, a fold a line.
OFFICIAL = {
    "matbench_dielectric": "8d12f30a464eede0",
    "matbench_jdft2d": "67108c260e9b9b78",
    "matbench_log_gvrh": "2b9322eb4c55c9af",
    "matbench_log_kvrh": "19e0c867c024b139",
    "matbench_mp_e_form": "45304e8484ba9e0b",
    "matbench_mp_gap": "ab7af6a0826023d4",
    "matbench_perovskites": "49e14bffc7d5652a",
    "matbench_phonons": "46a1b78f5de1b575",
}
# What matbench 0.6 itself takes as the hash of `document()`.
HASH = "6cca8359f347bedfe29a5496bddc88eebced7c441d6631b6d773e2956622d291"


def ids_and_folds() -> tuple[list[str], list[int]]:
    return official_ids(TASK), official_folds(TASK)


def document() -> dict[str, Any]:
    ids, folds = ids_and_folds()
    truth = {row_id: float(number % 7) for number, row_id in enumerate(ids)}
    found = fold_predictions(ids, folds, [value + 0.25 * (n % 3) for n, value in enumerate(truth.values())])
    said: dict[int, dict[str, Any]] = {
        fold: {"layers": 5, "widths": [1, 2.5], "loss": {"kind": "l1", "delta": 1e-3}} for fold in range(5)
    }
    notes = {"algorithm": "DeeperGATGNN", "authors": "a, b"}
    return record(TASK, found, truth, said, notes, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


@pytest.mark.parametrize("task", TASKS)
def test_folds_are_the_official_ones(task: str) -> None:
    ids, folds = np.array(official_ids(task)), np.array(official_folds(task))
    text = "".join(" ".join(ids[folds == fold]) + "\n" for fold in range(5))
    assert hashlib.sha256(text.encode()).hexdigest().startswith(OFFICIAL[task])


def test_rows_of_a_task_get_official_ids_and_folds() -> None:
    rows = bundled().rows[: TASKS[TASK].rows]
    table = [{"structure": crystal_to_pymatgen(row.crystal), "exfoliation_en": float(n)} for n, row in enumerate(rows)]
    dataset = matbench_dataset(TASK, table)
    ids, folds = ids_and_folds()
    assert (dataset.name, dataset.refused) == (TASK, ())
    assert [row.id for row in dataset.rows] == ids
    assert [row.fields for row in dataset.rows] == [{"mb_fold": fold} for fold in folds]
    assert [row.targets for row in dataset.rows] == [{"exfoliation_en": float(n)} for n in range(len(rows))]
    for found, expected in zip(dataset.rows, rows, strict=True):
        np.testing.assert_allclose(found.crystal.frac_coords, expected.crystal.frac_coords, atol=1e-12)
        assert found.crystal.symbols == expected.crystal.symbols
    assert matbench_dataset(TASK, table).sha256 == dataset.sha256
    assert matbench_dataset(TASK, [*table[1:], table[0]]).sha256 != dataset.sha256
    with pytest.raises(ConfigError, match="should have 636 rows"):
        matbench_dataset(TASK, table[1:])


def test_a_record_is_as_matbench_writes_it(tmp_path: Path) -> None:
    found = document()
    assert found["hash"] == HASH
    assert found["datestamp"] == "2026.01.02 03:04.05"
    results = found["tasks"][TASK]["results"]
    assert list(results) == [f"fold_{fold}" for fold in range(5)]
    ids, folds = ids_and_folds()
    for fold in range(5):
        one = results[f"fold_{fold}"]
        assert set(one) == {"data", "uncertainty", "parameters", "scores"}
        assert list(one["data"]) == [row_id for row_id, of in zip(ids, folds, strict=True) if of == fold]
        assert all(isinstance(value, float) for value in one["data"].values())
        true = np.array([ids.index(row_id) % 7 for row_id in one["data"]], dtype=float)
        error = np.abs(np.array(list(one["data"].values())) - true)
        assert one["scores"] == {
            "mae": pytest.approx(error.mean()),
            "rmse": pytest.approx(np.sqrt((error**2).mean())),
            "mape": pytest.approx((error[true > 0] / true[true > 0]).mean()),
            "max_error": 0.5,
        }
    write_record(found, tmp_path / "results.json.gz")
    assert json.loads(gzip.decompress((tmp_path / "results.json.gz").read_bytes())) == found


def test_a_record_of_part_of_a_fold_is_refused() -> None:
    ids, folds = ids_and_folds()
    truth = dict.fromkeys(ids, 1.0)
    found = fold_predictions(ids, folds, [1.0] * len(ids))
    lost = found[3].pop(next(iter(found[3])))
    with pytest.raises(ConfigError, match=r"fold 3 .* 1 official rows have no prediction and 0 predictions"):
        record(TASK, found, truth, {})
    found[3]["mp-1"] = lost
    with pytest.raises(ConfigError, match=r"1 official rows have no prediction and 1 predictions"):
        record(TASK, found, truth, {})
    found = fold_predictions(ids, folds, [float("nan")] * len(ids))
    with pytest.raises(ConfigError, match="not finite"):
        record(TASK, found, truth, {})
    with pytest.raises(ConfigError, match="not finite"):
        record(TASK, fold_predictions(ids, folds, [1.0] * len(ids)), {}, {})


def test_names_of_the_catalogues_are_answered_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no regression task on structures 'matbench_steels'.*matbench_phonons"):
        read_dataset("matbench:matbench_steels")
    monkeypatch.setitem(sys.modules, "matminer", None)  # as where it is not installed
    for name in ("matbench:matbench_phonons", "matminer:flla"):
        with pytest.raises(ConfigError, match="pip install matminer"):
            read_dataset(name)
