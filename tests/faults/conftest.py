"""The service that the tests of faults share."""

from collections.abc import Iterator

import pytest

from tests.service.conftest import _collected
from tests.support.faulty_service import Stage, staged

__all__ = ["_collected"]


@pytest.fixture(scope="session")
def whole_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Service, workers, broker and proxy, for all tests of faults."""
    with staged(tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.fixture
def stage(whole_stage: Stage) -> Stage:
    """The same, with no fault and both workers alive."""
    whole_stage.heal()
    return whole_stage
