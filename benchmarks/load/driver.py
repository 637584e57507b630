"""The load process and others, driven from the benchmark's own."""

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

from benchmarks.load.generator import Outcome
from benchmarks.load.servers import ROOT

SEED = 7  # of the arrivals


class Result(Outcome):
    """What one run of load saw, with the figures made of it."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds

    def quantile_ms(self, share: float) -> float | None:
        """Latency below which this share of the answers stayed, in milliseconds; None without answers."""
        return quantile(self.latencies_ms, share)

    @property
    def refused(self) -> dict[str, int]:
        """Replies that were no answers, by status; 0 is a broken connection."""
        return {str(status): n for status, n in self.statuses.items() if n and int(status) != HTTPStatus.OK}

    @property
    def documents(self) -> list[tuple[int, Any]]:
        """The answers that were kept, with the indices of their requests."""
        return [(index, json.loads(body)) for index, body in self.samples]


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value that this share of them does not exceed; None of nothing."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else None


class Helper:
    """A process of this benchmark that carries out plans, a line of JSON each; use as a context.

    Args:
        module: what it runs.
        environment: beside that of this process.
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
        """A plan."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(plan) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """What came of it."""
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found


class Load(Helper):
    """A load process."""

    def __init__(self) -> None:
        super().__init__("benchmarks.load")

    def begin(self, address: str, path: str, bodies: Path, **plan: Any) -> None:
        """Start a run; see `benchmarks.load.__main__` for the plan."""
        plan = {"headers": [], "warm_s": 1.0, "kept": 64, "seed": SEED} | plan
        self.send(plan | {"address": address, "path": path, "bodies": str(bodies)})

    def end(self) -> Result:
        """Wait for the run and take what it saw."""
        return Result(**self.receive())

    def run(self, address: str, path: str, bodies: Path, **plan: Any) -> Result:
        """A whole run."""
        self.begin(address, path, bodies, **plan)
        return self.end()
