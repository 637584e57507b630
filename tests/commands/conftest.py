"""The real command line on a tiny store."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import COMMAND, ROOT
from tests.support.fixtures import Published, tiny

__all__ = ["tiny"]
Done = subprocess.CompletedProcess[bytes]
Command = Callable[..., Done]


@pytest.fixture
def command(tiny: Published, tmp_path: Path) -> Command:
    """Run `deepergatgnn` with these arguments in the folder of the test, on the store of one tiny model."""

    def run(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> Done:
        settings = {"DEEPERGATGNN_MODEL_STORE": str(tiny.store.root), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | settings | environment,
            input=stdin,
            capture_output=True,
            timeout=300,
            check=False,
        )

    return run
