"""What the tests of the service share."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    """Collect garbage after each module, so that a resource left open is reported there."""
    yield
    gc.collect()
