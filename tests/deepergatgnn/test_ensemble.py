"""A version with several networks, and a logarithm inside: one answer, from all of them."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from deepergatgnn.checkpoints.files import CARD, MANIFEST, WEIGHTS, digest
from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.checkpoints.weights import load_artifact, pack_weights
from deepergatgnn.commands.main import main
from deepergatgnn.errors import ArtifactError
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.model_store import ModelStore
from deepergatgnn.nn.batch import collate
from deepergatgnn.nn.crystal_model import NetworkOutput
from deepergatgnn.predictor import Prediction, Predictor
from deepergatgnn.uncertainty.intervals import half_widths, predicted_scales, scale
from tests.support.fixtures import SODIUM, Published, graphs_of, one_atom_cells, pair, some_crystals, supercell

__all__ = ["pair"]
CRYSTALS = [SODIUM, *some_crystals(15), *one_atom_cells()[:3]]
SECOND = "model-2.safetensors"


@pytest.fixture(scope="module")
def predictor(pair: Published) -> Predictor:
    return Predictor.load(pair.folder)


@pytest.fixture
def folder(pair: Published, tmp_path: Path) -> Path:
    """A copy to damage, in a store of its own."""
    shutil.copytree(pair.store.root, tmp_path / "store")
    copied = ModelStore(tmp_path / "store").folder(pair.manifest.name)
    copied.with_name(f"{copied.name}.sha256").unlink()  # whose manifest digest would be refused first
    return copied


def said(predictor: Predictor) -> list[NetworkOutput]:
    """What each member says of the crystals."""
    with torch.inference_mode():
        return [network(collate(graphs_of(CRYSTALS))) for network in predictor.networks]


def assert_same(one: Prediction, other: Prediction) -> None:
    assert one.value == pytest.approx(other.value, rel=1e-4)
    assert one.predicted_scale == pytest.approx(other.predicted_scale, rel=1e-3)
    assert one.domain.score == pytest.approx(other.domain.score, rel=1e-3)
    for level, ends in one.intervals.items():
        assert ends == pytest.approx(other.intervals[level], rel=1e-3)
    np.testing.assert_allclose(one.attention, other.attention, rtol=0, atol=1e-5)


def test_it_has_a_file_for_each_member_and_the_members_differ(pair: Published, predictor: Predictor) -> None:
    assert pair.files().keys() == {MANIFEST, CARD, WEIGHTS, SECOND}
    assert pair.manifest.members == len(predictor.networks) == 2
    one, two = (network.state_dict() for network in predictor.networks)
    assert any(not torch.equal(one[name], two[name]) for name in one)
    assert pair.manifest.parameters == sum(p.numel() for network in predictor.networks for p in network.parameters())


def test_packing_gives_the_files_again(pair: Published) -> None:
    _, networks, domain = load_artifact(pair.folder)
    files = pair.files()
    assert pack_weights(networks, domain) == {name: files[name] for name in (WEIGHTS, SECOND)}
    assert set(load(files[WEIGHTS])) - set(load(files[SECOND])) == {"domain.mean", "domain.whitening"}


def test_the_value_is_the_mean_of_the_members_in_transformed_units(predictor: Predictor) -> None:
    outputs = np.stack([output.values[:, 0].numpy() for output in said(predictor)])
    answers = predictor.predict_structures(CRYSTALS)
    values = np.array([answer.value for answer in answers])
    scaler = predictor.manifest.scaler
    assert scaler.transform == "log10"
    np.testing.assert_allclose(scale(values, scaler), outputs.mean(axis=0), atol=1e-4)
    geometric = 10 ** (scaler.mean + scaler.std * outputs.astype(np.float64)).mean(axis=0)
    np.testing.assert_allclose(values, geometric, rtol=1e-4)
    assert np.abs(outputs[0] - outputs[1]).min() > 1e-4


def test_the_attention_is_the_mean_of_the_members_and_sums_to_1(predictor: Predictor) -> None:
    mean = torch.stack([output.attention for output in said(predictor)]).mean(dim=0).numpy()
    answers = predictor.predict_structures(CRYSTALS)
    np.testing.assert_allclose(np.concatenate([answer.attention for answer in answers]), mean, atol=1e-5)
    for answer in answers:
        assert answer.attention.sum() == pytest.approx(1, abs=1e-5)
        assert (answer.attention >= 0).all()


def test_the_interval_scales_with_the_spread_of_its_members(predictor: Predictor) -> None:
    outputs, manifest = said(predictor), predictor.manifest
    answers = predictor.predict_structures(CRYSTALS)
    spread = predicted_scales(
        np.stack([output.log_scales[:, 0].double().numpy() for output in outputs]),
        np.stack([output.values[:, 0].double().numpy() for output in outputs]),
        np.array([answer.domain.score for answer in answers]),
        manifest.calibration.spread,
    )
    np.testing.assert_allclose([answer.predicted_scale for answer in answers], spread, rtol=1e-3)
    for level in manifest.calibration.factors:
        half = half_widths(spread, manifest.calibration, level)
        low, high = np.array([answer.intervals[level] for answer in answers]).T
        value = np.array([answer.value for answer in answers])
        np.testing.assert_allclose(scale(high, manifest.scaler) - scale(value, manifest.scaler), half, rtol=1e-3)
        assert (low > 0).all()
        np.testing.assert_allclose(high / value, value / low, rtol=1e-6)
    assert len({round(answer.predicted_scale, 6) for answer in answers}) > len(CRYSTALS) // 2


def test_levels_are_nested_around_the_value(predictor: Predictor) -> None:
    for answer in predictor.predict_structures(CRYSTALS):
        assert list(answer.intervals) == ["0.5", "0.8", "0.9", "0.95"]
        lows, highs = zip(*answer.intervals.values(), strict=True)
        assert sorted([*lows, answer.value, *highs]) == [*lows[::-1], answer.value, *highs]
        assert (answer.low, answer.high) == answer.intervals["0.9"]


def test_a_batch_gives_what_single_crystals_give(predictor: Predictor) -> None:
    for together, crystal in zip(predictor.predict_structures(CRYSTALS), CRYSTALS, strict=True):
        assert_same(together, predictor.predict_structure(crystal))


def test_merged_atoms_and_small_passes_give_the_same(predictor: Predictor) -> None:
    graphs = graphs_of(CRYSTALS)
    whole = predictor.predict_graphs(graphs)
    for others in (
        predictor.predict_graphs([reduce_graph(graph) for graph in graphs]),
        predictor.predict_graphs(graphs, max_edges=300),
        predictor.predict_collated(graphs, collate(graphs)),
        predictor.predict_graphs(graphs[::-1])[::-1],
    ):
        for one, other in zip(others, whole, strict=True):
            assert_same(one, other)
            assert one.domain.in_domain == other.domain.in_domain


def test_a_supercell_has_the_same_answer_and_shares_the_attention(predictor: Predictor) -> None:
    for crystal in CRYSTALS[:8]:
        small, large = predictor.predict_structures([crystal, supercell(crystal, (2, 2, 1))])
        assert large.value == pytest.approx(small.value, rel=1e-4)
        assert large.predicted_scale == pytest.approx(small.predicted_scale, rel=1e-3)
        assert large.domain.reasons == small.domain.reasons
        np.testing.assert_allclose(large.attention.reshape(-1, 4).sum(axis=1), small.attention, atol=1e-5)


def test_other_forward_passes_are_taken_for_every_member(predictor: Predictor, pair: Published) -> None:
    """As after compiling: one function for each network, in their order."""
    other = Predictor.load(pair.folder)
    other.adopt([predictor.networks[0], predictor.networks[0]])
    swapped = Predictor.load(pair.folder)
    swapped.adopt(list(predictor.networks))
    for first, same, answer in zip(
        other.predict_structures(CRYSTALS),
        swapped.predict_structures(CRYSTALS),
        predictor.predict_structures(CRYSTALS),
        strict=True,
    ):
        assert_same(same, answer)
        assert first.value != pytest.approx(answer.value, rel=1e-5)


def test_a_damaged_missing_or_foreign_file_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["deepergatgnn", "models", "verify", "--store", str(folder.parents[1])])

    def verify() -> tuple[object, str]:
        """The exit code of `models verify` and what it says is wrong."""
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    assert verify() == (0, "")
    content = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for refusal in (lambda: load_artifact(folder), lambda: Predictor.load(folder)):
        with pytest.raises(ArtifactError, match=f"{SECOND} does not have the sha256"):
            refusal()
    code, message = verify()
    assert (code, SECOND in message) == (1, True)
    (folder / SECOND).unlink()
    with pytest.raises(ArtifactError, match=f"{SECOND} is missing"):
        load_artifact(folder)
    code, message = verify()
    assert (code, SECOND in message) == (1, True)
    (folder / SECOND).write_bytes(content)
    load_artifact(folder)
    (folder / "model-3.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model-3\.safetensors"):
        load_artifact(folder)
    code, message = verify()
    assert (code, "model-3.safetensors" in message) == (1, True)


@pytest.mark.parametrize("members", [1, 3])
def test_another_number_of_members_than_there_are_files_is_refused(folder: Path, members: int) -> None:
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes()).model_copy(update={"members": members})
    (folder / MANIFEST).write_text(manifest.model_dump_json(), "utf-8")
    with pytest.raises(ArtifactError, match=r"model-[23]\.safetensors"):
        load_artifact(folder)


@pytest.mark.parametrize("change", ["surplus", "missing", "not finite", "domain"])
def test_what_is_in_the_second_file_is_checked_like_the_first(folder: Path, change: str) -> None:
    tensors = load((folder / SECOND).read_bytes())
    name = "network.head.values.weight"
    if change == "surplus":
        tensors["network.tail"] = torch.zeros(1)
    elif change == "missing":
        del tensors[name]
    elif change == "not finite":
        tensors[name][0, 0] = torch.inf
    else:
        tensors["domain.mean"] = torch.zeros(16)
    content = save(tensors)
    (folder / SECOND).write_bytes(content)
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    manifest = manifest.model_copy(update={"files": manifest.files | {SECOND: digest(content)}})
    (folder / MANIFEST).write_text(manifest.model_dump_json(), "utf-8")
    with pytest.raises(ArtifactError, match=SECOND):
        load_artifact(folder)
