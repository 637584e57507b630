"""Marks, the distribution over processes, and fixtures that several parts of the suite share."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores; torch reads it when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
from pymatgen.core import Lattice, Structure

from deepergatgnn.training.data.catalogue import Row, read_dataset

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "from deepergatgnn.commands.main import main; main()"]
SMALL = "bulk-modulus@1.0.0"  # a single network; the other shipped versions are ensembles
# Mark of a test, by the longest folder that it lies in; `unit` as a whole takes less than a minute.
MARKS = {
    "": "unit",
    "commands": "service",
    "faults": "faults",
    "properties": "service",
    "service": "service",
    "service/scheduling": "unit",
    "service/test_settings.py": "unit",
    "test_readme.py": "service",
    "training": "training",
    "training/config": "unit",
    "training/config/test_sweep.py": "training",
}
# Fixtures that train a network: what uses them is no unit.
TRAINED = {"tiny", "pair"}
# Fixtures too dear to be made in two processes: the files that use one of them run in the same process.
SHARED = ("whole_stage", "address", "validated")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test by its folder; where the suite is distributed, keep files whole and begin with the slow ones."""
    used: dict[Path, set[str]] = {}
    for item in items:
        path = item.path.relative_to(ROOT / "tests").as_posix()
        place = max((each for each in MARKS if not each or f"{path}/".startswith(f"{each}/")), key=len)
        fixtures = set(getattr(item, "fixturenames", ()))
        item.add_marker("training" if MARKS[place] == "unit" and TRAINED & fixtures else MARKS[place])
        used.setdefault(item.path, set()).update(fixtures)
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        shared = next((name for name in SHARED if name in used[item.path]), str(item.path.relative_to(ROOT)))
        item.add_marker(pytest.mark.xdist_group(shared))
    order = ("faults", "service", "training", "unit")
    first: dict[Path, int] = {}
    for item in items:
        rank = next(number for number, mark in enumerate(order) if item.get_closest_marker(mark))
        first[item.path] = min(rank, first.get(item.path, rank))
    items.sort(key=lambda item: first[item.path])


def pytest_configure() -> None:
    """Let processes of tests be interrupted, although a shell that runs pytest in the background ignores SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of this run of the suite, one for all its processes."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of graphs for this suite alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPERGATGNN_CACHE", str(shared_folder(tmp_path_factory) / "cache"))
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
def running(
    *arguments: str, ready: str | None, stderr: IO[bytes] | None = None, **environment: str
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run a command of the project until the block ends.

    Yields:
        The process and the line that said it is ready; without one, for a command that says nothing, at once.
    """
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
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
                process.wait(60)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
        process.stdout.close()


@contextmanager
def service(**environment: str) -> Iterator[str]:
    """A whole service on a free port, with one small model if the environment names no others; yields its address."""
    if "DEEPERGATGNN_MODEL_STORE" not in environment:
        environment = {"DEEPERGATGNN_MODELS": SMALL} | environment
    with running("serve", "--port", "0", ready="^ready on ", **environment) as (_, line):
        yield line.removeprefix("ready on ")


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """One service with all shipped models, for the whole suite."""
    with service(DEEPERGATGNN_MODELS="") as where:
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
