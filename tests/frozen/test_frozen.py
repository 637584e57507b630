"""A checkpoint of every schema version there ever was loads, and answers as on the day it was made."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from deepergatgnn.checkpoints.files import CARD, MANIFEST, read_manifest, weight_files
from deepergatgnn.checkpoints.manifest import SCHEMA_VERSION, Manifest, migrate
from deepergatgnn.errors import ArtifactError
from deepergatgnn.nn.config import kind_of
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
    members = {1: 1, 2: 2, 3: 2}[version]
    assert {path.name for path in folder.iterdir()} == {MANIFEST, CARD, *weight_files(members)}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 100_000 * members
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
        for level, ends in then.get("intervals", {}).items():  # schema 1 said the 90 % interval alone
            assert now.intervals[level] == pytest.approx(ends, rel=1e-5, abs=1e-5), (then["id"], level)
        assert now.predicted_scale == pytest.approx(then.get("spread", 1.0), rel=1e-5), then["id"]
        weights = None if now.attention is None else now.attention.tolist()
        assert weights == (then["attention"] and pytest.approx(then["attention"], abs=1e-5)), then["id"]
        assert now.domain.score == pytest.approx(then["domain_score"], rel=1e-3), then["id"]
        assert now.domain.in_domain is then["in_domain"], then["id"]


def test_each_shows_what_its_schema_version_brought() -> None:
    one, two, three = (read_manifest(HERE / f"schema-{version}") for version in VERSIONS)
    assert (one.members, one.scaler.transform, one.network.spread, one.domain.inequivalent_atoms) == (
        1,
        "identity",
        False,
        None,
    )
    assert (two.members, two.scaler.transform, two.network.spread) == (2, "log10", True)
    assert two.domain.inequivalent_atoms is not None
    assert two.calibration.spread.learned
    assert (kind_of(one.network.body), kind_of(two.network.pooling), two.network.has_attention) == (
        "agat",
        "weighted",
        True,
    )
    assert (kind_of(three.network.body), kind_of(three.network.pooling), three.network.has_attention) == (
        "cgcnn",
        "set2set",
        False,
    )
    for manifest in (one, two, three):
        assert set(manifest.calibration.factors) == {"0.5", "0.8", "0.9", "0.95"}


def test_migration_of_schema_1_keeps_the_half_widths_and_the_document() -> None:
    document = json.loads((HERE / "schema-1" / MANIFEST).read_text("utf-8"))
    before = json.dumps(document)
    manifest = Manifest.model_validate(migrate(document))
    assert json.dumps(document) == before
    for level, width in document["calibration"]["half_widths"].items():
        [factor] = manifest.calibration.factors[level]
        assert factor * manifest.scaler.std == pytest.approx(width, rel=1e-12)
    assert manifest.calibration.n == document["calibration"]["n"]
    assert migrate(manifest.model_dump()) == manifest.model_dump()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"calibration": {"n": 3}}, "scaler.std and calibration.half_widths"),
        ({"calibration": "narrow"}, "scaler.std and calibration.half_widths"),
        ({"scaler": {"mean": 0.0, "std": 0.0}}, "scaler.std and calibration.half_widths"),
        ({"scaler": None}, "scaler.std and calibration.half_widths"),
        ({"scaler": {"mean": 0.0, "std": float("nan")}}, "scaler.std"),
        ({"surprise": 1}, "surprise"),
        ({"members": 2}, "2 members"),
    ],
)
def test_a_damaged_manifest_of_schema_1_is_refused(change: dict[str, Any], place: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(HERE / "schema-1", tmp_path / "1.0.0"))
    document = json.loads((folder / MANIFEST).read_text("utf-8"))
    (folder / MANIFEST).write_text(json.dumps(document | change), "utf-8")
    with pytest.raises(ArtifactError, match=place):
        Predictor.load(folder)


@each
def test_its_golden_crystals_have_their_values(version: int) -> None:
    predictor = Predictor.load(HERE / f"schema-{version}")
    for golden in predictor.manifest.golden:
        crystal = crystal_from_arrays(golden.lattice, golden.species, golden.frac_coords)
        assert predictor.predict_structure(crystal).value == pytest.approx(golden.value, rel=1e-5, abs=1e-5)
