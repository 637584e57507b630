"""How many threads compute: one where others may want the cores, more only where they were measured to be faster."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deepergatgnn import threads
from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.threads import candidates, default_threads, fastest, few_threads, measured, set_threads
from tests.support.fixtures import some_crystals

CORES = 64


@pytest.fixture(autouse=True)
def _as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody has said how many threads there are, and torch has as many as a large machine has cores."""
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_chosen", None)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(CORES)
    yield
    torch.set_num_threads(before)


def with_cores(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: cores)


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (4, 1), (8, 2), (64, 16)])
def test_few_cores_have_one_thread(monkeypatch: pytest.MonkeyPatch, cores: int, expected: int) -> None:
    with_cores(monkeypatch, cores)
    assert default_threads() == expected


def test_the_environment_goes_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    assert default_threads() == 3


def test_a_predictor_computes_with_few_threads_and_leaves_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, 2)
    predictor = Predictor.load(ModelStore().folder("bulk-modulus"))
    seen: list[int] = []
    for network in predictor.networks:
        network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    predictor.predict_structures(some_crystals(2))
    assert set(seen) == {1}
    assert torch.get_num_threads() == CORES


def test_who_asks_for_threads_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, 2)
    set_threads(5)
    with few_threads():
        assert torch.get_num_threads() == 5
    torch.set_num_threads(3)  # of whoever says less than that
    with few_threads():
        assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("cores", "most", "expected"),
    [(1, 8, [1]), (2, 8, [1]), (3, 8, [1, 2]), (8, 8, [1, 2, 4]), (9, 16, [1, 2, 4, 8]), (16, 3, [1, 2])],
)
def test_a_core_is_left_for_parsing(cores: int, most: int, expected: list[int]) -> None:
    assert candidates(cores, most) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 0.95}, 1),  # not by a clear margin
        ({1: 1.0, 2: 0.6, 4: 0.55}, 2),
        ({1: 1.0, 2: 0.9, 4: 0.5}, 4),
        ({1: 1.0, 2: 5.0, 4: 9.0}, 1),  # beside busy processes
    ],
)
def test_more_threads_are_taken_where_they_are_faster_by_a_clear_margin(
    seconds: dict[int, float], expected: int
) -> None:
    assert fastest(seconds) == expected


def test_threads_are_compared_in_turns_and_then_as_before() -> None:
    seen: list[int] = []
    found = measured(lambda: seen.append(torch.get_num_threads()), (1, 2, 4), rounds=3)
    assert list(found) == [1, 2, 4]
    assert seen == [1, 2, 4] * 4
    assert torch.get_num_threads() == CORES
    assert threads._chosen is None


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000\n", None), ("150000 100000\n", 1), ("50000 100000\n", 1), ("", None)]
)
def test_the_quota_of_a_container_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, expected: int | None
) -> None:
    (tmp_path / "cpu.max").write_text(quota, "ascii")
    unlimited = threads.available_cores.__wrapped__()
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "cpu.max")
    assert threads.available_cores.__wrapped__() == (unlimited if expected is None else expected)
