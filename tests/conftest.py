"""Fixtures that several parts of the suite share."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from pymatgen.core import Lattice, Structure

from deepergatgnn.training.data.catalogue import Row, read_dataset

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "from deepergatgnn.commands.main import main; main()"]
START_S = 180


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of graphs for this suite alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPERGATGNN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def rows() -> tuple[Row, ...]:
    """Every crystal of the bundled data set."""
    return read_dataset("elastic_tensor_2015").rows


@pytest.fixture(scope="session")
def pymatgen_structures(rows: tuple[Row, ...]) -> list[Structure]:
    """The same as pymatgen structures."""
    return [Structure(Lattice(r.crystal.lattice), r.crystal.symbols, r.crystal.frac_coords) for r in rows]


@contextmanager
def running(*arguments: str, ready: str | None, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run a command of the project until the block ends.

    Yields:
        The process and the line that said it is ready; without one, for a command that says nothing, at once.
    """
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ
        | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "DEEPERGATGNN_COMPILE_AFTER_S": "0"}
        | {"DEEPERGATGNN_DRAIN_GRACE_S": "0"}
        | environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        line = ""
        while ready is not None and not re.search(ready, line):
            line = process.stdout.readline()
            if not line:
                raise AssertionError(f"{arguments} ended with {process.wait()} before it was ready")
        yield process, line.strip()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(30)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
        process.stdout.close()


@contextmanager
def service(**environment: str) -> Iterator[str]:
    """A whole service on a free port; yields its address."""
    with running("serve", "--port", "0", ready="^ready on ", **environment) as (_, line):
        yield line.removeprefix("ready on ")


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """One service with the shipped models, for the whole suite."""
    with service() as where:
        yield where


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    """A client of that service."""
    with httpx.Client(base_url=address, timeout=60) as opened:
        yield opened


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for something that must come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"did not happen within {seconds} s: {what}"
        time.sleep(0.05)
