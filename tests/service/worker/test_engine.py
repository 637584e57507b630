"""Checkpoints on a device: whatever shares a batch, each entry gets its own answer or its own error."""

import math
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from deepergatgnn.errors import ArtifactError
from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.serialization import pack_graph
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.service.messages import InferenceRequest
from deepergatgnn.service.worker.engine import LOADED_AT_MOST, Engine, Prepared
from deepergatgnn.training.data.catalogue import Row
from tests.support.fixtures import Published, pair
from tests.support.processes import MODEL, NEW, OLD, small_store

__all__ = ["pair"]


@pytest.fixture(scope="module")
def entries(rows: tuple[Row, ...]) -> list[InferenceRequest]:
    store = ModelStore()
    models = tuple(store.version(name).identity for name in store.names())
    config = store.manifest("bulk-modulus").graph  # has angles; networks without them do not look
    graphs = [reduce_graph(build_graph(row.crystal, config)) for row in rows[:40]]
    return [
        InferenceRequest(row.id, "api", models, pack_graph(graph), time.time() + 60)
        for row, graph in zip(rows, graphs, strict=False)
    ]


@pytest.fixture(scope="module")
def engine() -> Engine:
    made = Engine(ModelStore(), torch.device("cpu"), "test")
    made.load_production()
    return made


def test_an_entry_that_breaks_its_batch_fails_alone(engine: Engine, entries: list[InferenceRequest]) -> None:
    good = engine.answer(entries[:8]).answers
    graph = entries[3].graph
    poison = replace(
        entries[3], packed=pack_graph(replace(graph, senders=graph.senders + 1_000_000)), request_id="of-poison"
    )
    with capture_logs() as logs:
        answers = engine.answer([*entries[:3], poison, *entries[4:8]]).answers
    [failure] = [line for line in logs if line["log_level"] == "error"]
    assert (failure["entry"], failure["request_id"]) == (poison.id, poison.request_id) == (poison.id, "of-poison")
    assert answers[3].error is not None
    assert answers[3].error[0] == "prediction_failed"
    for ours, theirs in zip(good[:3] + good[4:], answers[:3] + answers[4:], strict=True):
        assert theirs.error is None
        assert [p.value for p in ours.predictions] == pytest.approx([p.value for p in theirs.predictions], abs=1e-5)


def test_attention_is_for_the_entries_of_a_batch_that_want_it(engine: Engine, entries: list[InferenceRequest]) -> None:
    """Even where they want other models than their neighbours do."""
    few = entries[0].models[:1]
    asked = [
        replace(entry, attention=index % 3 == 0, models=few if index % 2 else entry.models)
        for index, entry in enumerate(entries[:9])
    ]
    everything = engine.answer([replace(entry, attention=True) for entry in asked]).answers
    for entry, ours, theirs in zip(asked, engine.answer(asked).answers, everything, strict=True):
        assert [p.model for p in ours.predictions] == list(entry.models)
        for one, other in zip(ours.predictions, theirs.predictions, strict=True):
            assert len(other.attention) == entry.graph.n_atoms
            assert one == replace(other, attention=other.attention if entry.attention else ())


def test_a_batch_that_does_not_fit_is_split_and_answered(
    engine: Engine, entries: list[InferenceRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device says so of any batch above three crystals; the answers are the same, and the worker is told."""
    whole = engine.answer(entries[:8])
    predict: Callable[..., object] = engine._predict

    def predict_few(few: list[InferenceRequest], prepared: Prepared) -> object:
        if len(few) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(few, prepared)

    monkeypatch.setattr(engine, "_predict", predict_few)
    split = engine.answer(entries[:8])
    assert (whole.out_of_memory, split.out_of_memory) == (False, True)
    few = sum(entry.graph.n_links for entry in entries[4:8])  # the least part that did not fit
    assert (whole.too_many_edges, split.too_many_edges) == (0, few)
    for ours, theirs in zip(whole.answers, split.answers, strict=True):
        assert theirs.error is None
        assert [p.value for p in ours.predictions] == pytest.approx([p.value for p in theirs.predictions], abs=1e-5)


def test_every_loaded_version_has_a_cost_of_its_own(engine: Engine) -> None:
    assert set(engine.costs) == set(engine.loaded)
    for cost in engine.costs.values():
        assert cost.seconds(100, 10, 1) > 0
        assert math.isfinite(cost.seconds(10**6, 10**5, 10**3))


def test_the_last_sound_version_is_loaded_where_that_in_production_is_not(tmp_path: Path) -> None:
    store = ModelStore(small_store(tmp_path / "store", OLD, NEW))
    store.promote(MODEL, NEW)
    weights = store.folder(f"{MODEL}@{NEW}") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    engine = Engine(store, torch.device("cpu"), "test")
    engine.load_production()
    assert engine.loaded == [store.version(f"{MODEL}@{OLD}").identity]


def test_versions_that_are_not_kept_make_room(tmp_path: Path, entries: list[InferenceRequest]) -> None:
    store = ModelStore(small_store(tmp_path / "store", OLD, NEW))
    engine = Engine(store, torch.device("cpu"), "test")
    wanted = [engine.load(f"{MODEL}@{version}") for version in (OLD, NEW)]
    engine.forget_spare(wanted[:1])
    assert engine.loaded == wanted  # there is room for more
    predictor = engine._predictors[wanted[0]]
    engine._predictors.update({f"spare@{number}.0.0": predictor for number in range(LOADED_AT_MOST)})
    engine.forget_spare([wanted[0]])
    assert len(engine.loaded) == LOADED_AT_MOST
    assert wanted[0] in engine.loaded
    assert wanted[1] not in engine.loaded
    [answer] = engine.answer([replace(entries[0], models=(wanted[1],))]).answers  # it comes back when it is asked for
    assert [p.model for p in answer.predictions] == [wanted[1]]


def has_compiler() -> bool:
    """Whether C++ that uses Python can be compiled here, which is what torch.compile does on a CPU."""
    command = ["g++", "-fsyntax-only", "-x", "c++", f"-I{sysconfig.get_path('include')}", "-"]
    try:
        return subprocess.run(command, input=b"#include <Python.h>\n", check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_an_ensemble_is_answered_for_like_a_single_network_compiled_or_not(
    pair: Published, entries: list[InferenceRequest]
) -> None:
    reference = pair.store.version(f"{pair.manifest.name}@{pair.manifest.version}").identity
    asked = [replace(entry, models=(reference,)) for entry in entries]
    expected = Predictor.load(pair.folder).predict_graphs([entry.graph for entry in asked])
    engine = Engine(pair.store, torch.device("cpu"), "test")
    engine.load_production()
    assert engine.loaded == [reference]
    eager = engine.answer(asked).answers
    assert engine.compile_loaded() == has_compiler()
    batches = [asked[:1], asked[1:3], asked[3:10], asked[10:]]
    for answers in (eager, [answer for batch in batches for answer in engine.answer(batch).answers]):
        for answer, wanted in zip(answers, expected, strict=True):
            [found] = answer.predictions
            assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high), 1e-4)
            assert (found.in_domain, found.reasons) == (wanted.domain.in_domain, wanted.domain.reasons)
            assert found.attention == pytest.approx(wanted.attention.tolist(), abs=1e-5)


def test_an_ensemble_with_a_damaged_member_is_not_served(pair: Published, tmp_path: Path) -> None:
    store = ModelStore(shutil.copytree(pair.store.root, tmp_path / "store"))
    weights = store.folder(pair.manifest.name) / "model-2.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ArtifactError, match=r"model-2\.safetensors"):
        Engine(store, torch.device("cpu"), "test").load_production()


def test_a_model_that_is_gone_is_an_error_of_its_entry_alone(engine: Engine, entries: list[InferenceRequest]) -> None:
    answers = engine.answer([entries[0], replace(entries[1], models=("hardness@1.0.0",)), entries[2]]).answers
    assert [answer.error and answer.error[0] for answer in answers] == [None, "model_unavailable", None]
