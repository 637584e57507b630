"""Parts of the service on their own: batching, settings, keys, parse pool, engine, imports."""

import asyncio
import shutil
import subprocess
import sys
import sysconfig
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from pymatgen.core import Structure

from deepergatgnn.crystal_graph import GraphConfig
from deepergatgnn.errors import ArtifactError, StructureError
from deepergatgnn.graph import build_graph
from deepergatgnn.predictor import Predictor
from model_store import ModelStore
from service.batching import Budget, take_batch
from service.engine import Engine
from service.entries import Entry
from service.parsing import ParsePool
from service.settings import Settings
from tests.conftest import service
from tests.fixtures import Published, pair
from training.datasets import Row

__all__ = ["pair"]
CIF = Path("examples/ZrO2.cif").read_text("utf-8")


@pytest.fixture(scope="module")
def entries(rows: tuple[Row, ...]) -> list[Entry]:
    store = ModelStore()
    models = tuple(f"{name}@{store.production(name)}" for name in store.names())
    config = store.manifest("bulk-modulus").graph  # has angles; networks without them do not look
    return [Entry(row.id, "api", models, build_graph(row.crystal, config), time.time() + 60) for row in rows[:40]]


@given(edges=st.integers(1, 5000), atoms=st.integers(1, 400))
@settings(max_examples=50, deadline=None)
def test_batches_keep_the_budget_the_order_and_every_entry(entries: list[Entry], edges: int, atoms: int) -> None:
    backlog, taken = deque(entries), []
    while backlog:
        batch = take_batch(backlog, Budget(edges, atoms))
        assert batch
        within = sum(e.graph.n_edges for e in batch) <= edges and sum(e.graph.n_atoms for e in batch) <= atoms
        assert within or len(batch) == 1
        taken += batch
    assert taken == entries


def test_beyond_loopback_only_with_a_key() -> None:
    with pytest.raises(ValidationError, match="there is no key"):
        Settings(host="0.0.0.0")
    assert Settings(host="0.0.0.0", api_keys=(SecretStr("k"),)).host == "0.0.0.0"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPERGATGNN_API_KEYS", "alpha, beta,")
    monkeypatch.setenv("DEEPERGATGNN_REDIS_URL", "")
    found = Settings()
    assert [key.get_secret_value() for key in found.api_keys] == ["alpha", "beta"]
    assert found.redis_url is None
    assert "alpha" not in repr(found)


def test_keys_are_asked_for() -> None:
    with service(DEEPERGATGNN_API_KEYS="first,second") as address, httpx.Client(base_url=address, timeout=60) as client:
        body = {"content": CIF, "headers": {"Content-Type": "text/plain"}}
        refused = client.post("/predict", **body)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
        client.headers["Authorization"] = "Bearer third"
        assert client.get("/models").status_code == 401
        client.headers["Authorization"] = "Bearer second"
        assert client.post("/predict", **body).status_code == 200
        del client.headers["Authorization"]
        client.headers["X-API-Key"] = "first"
        assert client.get("/models").status_code == 200
        del client.headers["X-API-Key"]
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_a_file_that_takes_too_long_is_refused_and_the_next_is_read(pymatgen_structures: list[Structure]) -> None:
    large = max(pymatgen_structures, key=len) * (2, 2, 2)
    text = str(large.to(fmt="cif"))

    async def scenario() -> None:
        pool = ParsePool(processes=1, timeout_s=0.1, memory_mib=2048)
        try:
            await pool.warm()
            with pytest.raises(StructureError, match="took more than") as caught:
                await pool.parse(text, "cif", [GraphConfig(neighbours=count) for count in range(1, 65)])
            assert caught.value.code == "unreadable"
            pool._timeout_s = 30
            parsed = await pool.parse(text, "cif", [GraphConfig()])
            assert parsed.graphs[0].n_atoms == len(large)
        finally:
            pool.close()

    asyncio.run(scenario())


def test_an_entry_that_breaks_its_batch_fails_alone(entries: list[Entry]) -> None:
    engine = Engine(ModelStore(), torch.device("cpu"), "test")
    engine.load_production()
    good = engine.answer(entries[:8])
    graph = entries[3].graph
    poison = replace(entries[3], graph=replace(graph, senders=graph.senders + 10_000))
    answers = engine.answer([*entries[:3], poison, *entries[4:8]])
    assert answers[3].error is not None
    assert answers[3].error[1] == "prediction_failed"
    for ours, theirs in zip(good[:3] + good[4:], answers[:3] + answers[4:], strict=True):
        assert theirs.error is None
        assert [p.value for p in ours.predictions] == pytest.approx([p.value for p in theirs.predictions], abs=1e-5)


def has_compiler() -> bool:
    """Whether C++ that uses Python can be compiled here, which is what torch.compile does on a CPU."""
    command = ["g++", "-fsyntax-only", "-x", "c++", f"-I{sysconfig.get_path('include')}", "-"]
    try:
        return subprocess.run(command, input=b"#include <Python.h>\n", check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_an_ensemble_is_answered_for_like_a_single_network_compiled_or_not(
    pair: Published, entries: list[Entry]
) -> None:
    reference = f"{pair.manifest.name}@{pair.manifest.version}"
    asked = [replace(entry, models=(reference,)) for entry in entries]
    expected = Predictor.load(pair.folder).predict_graphs([entry.graph for entry in asked])
    engine = Engine(pair.store, torch.device("cpu"), "test")
    engine.load_production()
    assert engine.loaded == [reference]
    eager = engine.answer(asked)
    assert engine.compile_loaded() == has_compiler()
    batches = [asked[:1], asked[1:3], asked[3:10], asked[10:]]
    for answers in (eager, [answer for batch in batches for answer in engine.answer(batch)]):
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


def test_a_model_that_is_gone_is_an_error_of_its_entry_alone(entries: list[Entry]) -> None:
    engine = Engine(ModelStore(), torch.device("cpu"), "test")
    answers = engine.answer([entries[0], replace(entries[1], models=("hardness@1.0.0",)), entries[2]])
    assert [answer.error and answer.error[:2] for answer in answers] == [None, (404, "unknown_model"), None]


def test_the_api_process_never_imports_torch() -> None:
    code = (
        "import sys, service.supervisor, service.app, commands.main; "
        "sys.exit(sorted(m for m in sys.modules if m.partition('.')[0] in {'torch', 'torch_geometric'})[:3] or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
