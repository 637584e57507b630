"""A checkpoint of every schema version there ever was loads, and answers as on the day it was made."""

import json
from pathlib import Path
from typing import Any

import pytest

from deepergatgnn.artifact import FILES, read_manifest
from deepergatgnn.manifest import SCHEMA_VERSION
from deepergatgnn.predictor import Predictor
from deepergatgnn.structures import crystal_from_arrays

HERE = Path(__file__).parent
VERSIONS = range(1, SCHEMA_VERSION + 1)
each = pytest.mark.parametrize("version", VERSIONS)


def expected(version: int) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = json.loads((HERE / f"schema-{version}.json").read_text("utf-8"))
    return answers


def test_there_is_one_for_every_schema_version_and_no_other() -> None:
    assert {path.name for path in HERE.glob("schema-*")} == {
        name for version in VERSIONS for name in (f"schema-{version}", f"schema-{version}.json")
    }


@each
def test_it_is_small_and_of_its_version(version: int) -> None:
    folder = HERE / f"schema-{version}"
    assert {path.name for path in folder.iterdir()} == FILES
    assert sum(path.stat().st_size for path in folder.iterdir()) < 100_000
    assert json.loads((folder / "manifest.json").read_text("utf-8"))["schema_version"] == version
    assert read_manifest(folder).schema_version == SCHEMA_VERSION


@each
def test_it_answers_as_it_did(version: int) -> None:
    predictor, answers = Predictor.load(HERE / f"schema-{version}"), expected(version)
    assert len(answers) >= 10
    crystals = [crystal_from_arrays(**entry["structure"]) for entry in answers]
    for now, then in zip(predictor.predict_structures(crystals), answers, strict=True):
        for name in ("value", "low", "high"):
            assert getattr(now, name) == pytest.approx(then[name], rel=1e-5, abs=1e-5), (then["id"], name)
        assert now.attention.tolist() == pytest.approx(then["attention"], abs=1e-5), then["id"]
        assert now.domain.score == pytest.approx(then["domain_score"], rel=1e-3), then["id"]
        assert now.domain.in_domain is then["in_domain"], then["id"]


@each
def test_its_golden_crystals_have_their_values(version: int) -> None:
    predictor = Predictor.load(HERE / f"schema-{version}")
    for golden in predictor.manifest.golden:
        crystal = crystal_from_arrays(golden.lattice, golden.species, golden.frac_coords)
        assert predictor.predict_structure(crystal).value == pytest.approx(golden.value, rel=1e-5, abs=1e-5)
