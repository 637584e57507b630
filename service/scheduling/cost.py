"""What a crystal costs on a device, in seconds; `cost_model` fits it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cost:
    """Seconds of a batch of one model: a·edges + b·atoms + c·crystals + d, of what is computed after merging.

    The default is a guess that the first batch replaces.
    """

    edge: float = 2e-6
    atom: float = 5e-6
    crystal: float = 1e-4
    batch: float = 5e-3

    def of(self, edges: int, atoms: int, crystals: int = 1) -> float:
        """Seconds of crystals within a batch, without what the batch costs once."""
        return self.edge * edges + self.atom * atoms + self.crystal * crystals

    def seconds(self, edges: int, atoms: int, crystals: int) -> float:
        """Seconds of a whole batch."""
        return self.of(edges, atoms, crystals) + self.batch


DEFAULT = Cost()


def price(models: Sequence[str], edges: int, atoms: int, costs: Mapping[str, Cost]) -> float:
    """Predicted seconds of one crystal with several models; a model whose cost is not known yet has the default."""
    return sum(costs.get(reference, DEFAULT).of(edges, atoms) for reference in models)


def once(models: Iterable[str], costs: Mapping[str, Cost]) -> float:
    """Predicted seconds that a batch costs once, whatever is in it, for each of the models that it wants."""
    return sum(costs.get(reference, DEFAULT).batch for reference in set(models))


def mean_cost(reported: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Cost]:
    """Costs of each model, the mean over the workers that report one.

    Args:
        reported: by worker, the four numbers of `Cost` by NAME@VERSION.
    """
    found: dict[str, list[Sequence[float]]] = {}
    for costs in reported:
        for reference, numbers in costs.items():
            found.setdefault(reference, []).append(numbers)
    return {reference: Cost(*np.mean(rows, axis=0).tolist()) for reference, rows in found.items()}
