"""What a crystal costs on this device: fitted when a worker starts and kept current by every batch."""

from collections import deque

import numpy as np
from scipy.optimize import nnls  # type: ignore[attr-defined]

from deepergatgnn.service.scheduling.cost import Cost

REMEMBERED = 256  # batches of a model
REFIT_EVERY = 16
Row = tuple[int, int, int, float]  # edges, atoms, crystals, seconds


class CostModel:
    """The costs of one model on one device.

    Every measured batch is a row of a non-negative least-squares problem in relative errors; the last `REMEMBERED`
    rows count, so that a device that becomes slower or faster is followed.
    """

    def __init__(self) -> None:
        self._first: list[Row] = []
        self._rows: deque[Row] = deque(maxlen=REMEMBERED)
        self._unfitted = 0
        self.cost = Cost()

    def begin(self) -> None:
        """Keep what was observed so far for good: batches of all sizes, which later ones may not be.

        Under a steady load all batches are alike, and what a batch costs once could not be told from its crystals.
        """
        self._first = list(self._rows)
        self.fit()

    def observe(self, edges: int, atoms: int, crystals: int, seconds: float) -> None:
        """Take note of a batch."""
        if seconds <= 0:
            return
        self._rows.append((edges, atoms, crystals, seconds))
        self._unfitted += 1
        if self._unfitted >= REFIT_EVERY or len(self._rows) < REFIT_EVERY:
            self.fit()

    def fit(self) -> None:
        """Solve for the costs, in errors relative to what is predicted; at first, to what was measured."""
        self._unfitted = 0
        rows = np.array(self._first + list(self._rows), dtype=float)
        terms, seconds = np.column_stack([rows[:, :3], np.ones(len(rows))]), rows[:, 3]
        scale, solution = seconds, np.zeros(4)
        for _ in range(2):
            weighed = terms / scale[:, None]
            sizes = np.maximum(np.linalg.norm(weighed, axis=0), 1e-12)
            try:
                solution = nnls(weighed / sizes, seconds / scale)[0] / sizes
            except RuntimeError:  # it did not converge: what was fitted before stays
                return
            scale = np.maximum(terms @ solution, 1e-6)
        edge, atom, crystal, batch = solution.tolist()
        self.cost = Cost(edge, atom, crystal, batch)
