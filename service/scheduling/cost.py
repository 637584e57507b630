"""Predicted seconds of crystals and batches on a device: a cost model for each version, fitted to measured batches."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

REMEMBERED = 256  # batches of a model
REFIT_EVERY = 16


@dataclass(frozen=True)
class Cost:
    """Seconds of a batch of one model: edge·edges + atom·atoms + crystal·crystals + batch, of merged graphs.

    The default is a guess that the first batch replaces.
    """

    edge: float = 2e-6
    atom: float = 5e-6
    crystal: float = 1e-4
    batch: float = 5e-3

    def of(self, edges: int, atoms: int, crystals: int = 1) -> float:
        """Return the seconds of crystals without the overhead of their batch."""
        return self.edge * edges + self.atom * atoms + self.crystal * crystals

    def seconds(self, edges: int, atoms: int, crystals: int) -> float:
        """Return the seconds of a whole batch."""
        return self.of(edges, atoms, crystals) + self.batch


DEFAULT = Cost()


def price(models: Sequence[str], edges: int, atoms: int, costs: Mapping[str, Cost]) -> float:
    """Return the predicted seconds of one crystal, summed over its models."""
    return sum(costs.get(version, DEFAULT).of(edges, atoms) for version in models)


def batch_overhead(models: Iterable[str], costs: Mapping[str, Cost]) -> float:
    """Return the fixed seconds of a batch, summed over its distinct models."""
    return sum(costs.get(version, DEFAULT).batch for version in set(models))


def mean_costs(reported: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Cost]:
    """Return the cost of each model, averaged over the workers that report one.

    Args:
        reported: by worker, the numbers of `Cost` by version.
    """
    found: dict[str, list[Sequence[float]]] = {}
    for costs in reported:
        for version, numbers in costs.items():
            found.setdefault(version, []).append(numbers)
    return {version: Cost(*np.mean(rows, axis=0).tolist()) for version, rows in found.items()}


class CostModel:
    """Cost of one model on one device.

    Each measured batch is a row of a non-negative least-squares problem in relative errors. Only the last `REMEMBERED`
    rows count, so that the cost follows a device that becomes slower or faster.
    """

    def __init__(self) -> None:
        self._first: list[tuple[int, int, int, float]] = []  # edges, atoms, crystals, seconds
        self._rows: deque[tuple[int, int, int, float]] = deque(maxlen=REMEMBERED)
        self._unfitted = 0
        self.cost = Cost()

    def begin(self) -> None:
        """Keep the rows so far for good.

        They are of batches of all sizes. Under a steady load all batches are alike, and do not tell the overhead of a
        batch from the cost of its crystals.
        """
        self._first = list(self._rows)
        self.fit()

    def observe(self, edges: int, atoms: int, crystals: int, seconds: float) -> None:
        """Add a measured batch."""
        if seconds <= 0:
            return
        self._rows.append((edges, atoms, crystals, seconds))
        self._unfitted += 1
        if self._unfitted >= REFIT_EVERY or len(self._rows) < REFIT_EVERY:
            self.fit()

    def fit(self) -> None:
        """Solve for the cost: first with errors relative to the measured times, then to the predicted ones."""
        from scipy.optimize import nnls  # type: ignore[attr-defined]  # noqa: PLC0415 - 20 MB that the API never needs

        self._unfitted = 0
        rows = np.array(self._first + list(self._rows), dtype=float)
        terms, seconds = np.column_stack([rows[:, :3], np.ones(len(rows))]), rows[:, 3]
        scale, solution = seconds, np.zeros(4)
        for _ in range(2):
            weighted = terms / scale[:, None]
            norms = np.maximum(np.linalg.norm(weighted, axis=0), 1e-12)
            try:
                solution = nnls(weighted / norms, seconds / scale)[0] / norms
            except RuntimeError:  # no convergence: the last cost stays
                return
            scale = np.maximum(terms @ solution, 1e-6)
        edge, atom, crystal, batch = solution.tolist()
        self.cost = Cost(edge, atom, crystal, batch)
