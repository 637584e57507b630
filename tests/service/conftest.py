"""The service that the tests of faults share."""

import gc
from collections.abc import Iterator

import pytest

from tests.support.faulty_service import Stage, staged


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    """What a module left open is told of it, and not whichever test the collector runs in."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def whole_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One for all."""
    with staged(tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.fixture
def stage(whole_stage: Stage) -> Stage:
    """The same, well and with both workers."""
    whole_stage.heal()
    return whole_stage
