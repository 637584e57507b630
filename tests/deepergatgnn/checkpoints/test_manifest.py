"""The manifest of a checkpoint folder: what the schema does not know is refused by its place."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deepergatgnn.checkpoints.files import MANIFEST
from deepergatgnn.checkpoints.manifest import SCHEMA_VERSION, Manifest
from deepergatgnn.checkpoints.weights import load_artifact
from tests.support.damaged import Document, edit_manifest, refused
from tests.support.fixtures import Published


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"not json", b"\xff\xfe", b'{"schema_version": 1', b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000],
    ids=["empty", "cut", "prose", "bytes", "half", "deep list", "deep object", "long number"],
)
def test_a_manifest_that_is_not_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    assert MANIFEST in refused(folder)


@pytest.mark.parametrize("document", [[], "manifest", 1, None, True])
def test_a_manifest_that_is_no_object_is_refused(folder: Path, document: object) -> None:
    (folder / MANIFEST).write_text(json.dumps(document))
    assert "not a JSON object" in refused(folder)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, -1, str(SCHEMA_VERSION), None, [1], {}])
def test_an_unknown_schema_version_is_refused_with_the_remedy(folder: Path, version: object) -> None:
    edit_manifest(folder, lambda document: document.update(schema_version=version))
    message = refused(folder)
    assert repr(version) in message
    assert "upgrade the package" in message


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("architecture", lambda d: d.update(architecture="deepergatgnn")),
        ("architecture", lambda d: d.update(schema_version=2, architecture="resnet")),
        ("architecture", lambda d: d.update(schema_version=2, architecture=["deepergatgnn"])),
        ("no body 'agta': did you mean 'agat'", lambda d: d["network"]["body"].update(kind="agta")),
        ("network.pooling.set2set.steps", lambda d: d["network"].update(pooling={"kind": "set2set", "steps": "few"})),
        ("pooling mean reads no attention", lambda d: d["network"].update(pooling={"kind": "mean"})),
        ("name", lambda d: d.update(name="../evil")),
        ("version", lambda d: d.update(version="1.0")),
        ("surprise", lambda d: d.update(surprise=1)),
        ("network: Value error, layers is 0", lambda d: d["network"].update(layers=0)),
        ("network: Value error, group_scale is inf", lambda d: d["network"].update(group_scale=float("inf"))),
        ("network.heads", lambda d: d["network"].update(heads=2.5)),
        ("network.skip", lambda d: d["network"].update(skip="perhaps")),
        ("network", lambda d: d.update(network="deep")),
        ("network", lambda d: d.pop("network")),
        ("graph.radius", lambda d: d["graph"].update(radius=8)),
        ("graph.cutoff", lambda d: d["graph"].update(cutoff="far")),
        ("network.aggregation", lambda d: d["network"].update(aggregation="max")),
        ("graph: Value error, cutoff is -8", lambda d: d["graph"].update(cutoff=-8)),
        ("members", lambda d: d.update(members=0)),
        ("members", lambda d: d.update(members=33)),
        ("scaler.transform", lambda d: d["scaler"].update(transform="sqrt")),
        ("scaler.std", lambda d: d["scaler"].update(std=0)),
        ("scaler.mean", lambda d: d["scaler"].update(mean=float("nan"))),
        ("target", lambda d: d.pop("target")),
        ("domain.distance_limit", lambda d: d["domain"].update(distance_limit=0)),
        ("network.targets", lambda d: d["network"].update(targets=2)),
        ("calibration.half_widths", lambda d: d["calibration"].update(half_widths={"0.5": 1.0})),
        ("calibration.factors", lambda d: d["calibration"].update(factors={"1.5": [1.0]})),
        ("calibration.factors.0.9", lambda d: d["calibration"]["factors"].update({"0.9": [-1.0]})),
        ("one more than edges", lambda d: d["calibration"].update(edges=[1.0])),
    ],
)
def test_what_the_schema_does_not_know_is_refused_by_place(
    folder: Path, place: str, change: Callable[[Document], object]
) -> None:
    edit_manifest(folder, change)
    assert place in refused(folder)


def test_a_manifest_cannot_be_changed_in_memory(tiny: Published) -> None:
    with pytest.raises(ValueError, match="frozen"):
        tiny.manifest.version = "2.0.0"  # type: ignore[misc]


def test_the_schema_says_which_sizes_a_manifest_must_have(tiny: Published) -> None:
    document = json.loads((tiny.folder / MANIFEST).read_text())
    assert Manifest.model_validate(document) == tiny.manifest
    assert tiny.manifest.parameters == sum(p.numel() for p in load_artifact(tiny.folder)[1][0].parameters())
