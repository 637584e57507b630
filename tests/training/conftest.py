"""The fixtures that these tests share, and some that others have too."""

from collections.abc import Iterator

import pytest

from tests.support.cross_validated import Validated, cross_validated, single_thread
from tests.support.fixtures import tiny

__all__ = ["tiny"]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tests that compare bits."""
    with single_thread():
        yield


@pytest.fixture(scope="session")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Validated:
    """A whole cross-validation of three folds; read it, never write it."""
    with single_thread():
        return cross_validated(tmp_path_factory.mktemp("validated"))
