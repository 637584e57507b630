"""The fixtures that these tests share with others."""

import shutil
from pathlib import Path

import pytest

from tests.support.fixtures import Published, tiny

__all__ = ["tiny"]


@pytest.fixture
def folder(tiny: Published, tmp_path: Path) -> Path:
    """A copy of a checkpoint folder, to damage."""
    return Path(shutil.copytree(tiny.folder, tmp_path / "1.0.0"))
