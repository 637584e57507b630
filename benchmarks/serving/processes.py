"""Helper processes of the benchmark: load, and the pipeline without a server."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.serving.load_generator import Outcome
from benchmarks.serving.servers import ROOT

SEED = 7  # of the arrival times


class Result(Outcome):
    """Outcome of one load run, with derived figures."""

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds

    def quantile_ms(self, share: float) -> float | None:
        """Quantile of the latencies in milliseconds; None without answers."""
        return quantile(self.latencies_ms, share)

    @property
    def refused(self) -> dict[str, int]:
        """Number of replies other than 200, by status; 0 is a broken connection."""
        return {str(status): n for status, n in self.statuses.items() if n and int(status) != HTTPStatus.OK}

    @property
    def documents(self) -> list[tuple[int, Any]]:
        """Stored answers with the indices of their requests."""
        return [(index, json.loads(body)) for index, body in self.samples]


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least this share does not exceed; None without values."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else None


class Helper:
    """Process that executes plans, one line of JSON each; a context manager.

    Args:
        module: module that it runs.
        environment: additional variables.
    """

    def __init__(self, module: str, **environment: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def send(self, plan: Mapping[str, Any]) -> None:
        """Send a plan."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(plan) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Receive the outcome of a plan."""
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found


class Load(Helper):
    """Load process."""

    def __init__(self) -> None:
        super().__init__("benchmarks.serving.load_process")

    def begin(self, address: str, path: str, bodies: Path, **plan: Any) -> None:
        """Start a load run; see `benchmarks.serving.load_process` for the plan."""
        plan = {"headers": [], "warm_s": 1.0, "kept": 64, "seed": SEED} | plan
        self.send(plan | {"address": address, "path": path, "bodies": str(bodies)})

    def end(self) -> Result:
        """Wait for the run and return its result."""
        return Result(**self.receive())

    def run(self, address: str, path: str, bodies: Path, **plan: Any) -> Result:
        """Execute one load run."""
        self.begin(address, path, bodies, **plan)
        return self.end()
