"""Results kept by crystal and version, so that what was asked before, in whatever cell, costs a worker nothing."""

from collections import OrderedDict
from dataclasses import replace

from service import metrics
from service.entries import ModelAnswer
from service.parsing import PackedGraph


class ResultCache:
    """The results used last.

    An answer's attention is kept by kind of atom, as what an atom weighs times the number of atoms, which is the same
    in every cell of a crystal.

    Args:
        size: results at most; 0 keeps none.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[tuple[str, str], tuple[ModelAnswer, dict[str, float]]] = OrderedDict()

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._size > 0

    def get(self, graph: PackedGraph, reference: str) -> ModelAnswer | None:
        """The answer of a version for a crystal, its attention in the order of the posted atoms."""
        if not self._size:
            return None
        found = self._kept.get((graph.digest, reference))
        known = found is not None and all(colour in found[1] for colour in graph.colours)
        metrics.CACHE.labels("hit" if known else "miss").inc()
        if found is None or not known:
            return None
        self._kept.move_to_end((graph.digest, reference))
        answer, weights = found
        n_atoms = len(graph.colours)
        return replace(answer, attention=tuple(weights[colour] / n_atoms for colour in graph.colours))

    def put(self, graph: PackedGraph, answer: ModelAnswer) -> None:
        """Keep an answer with attention."""
        if not self._size or not answer.attention:
            return
        n_atoms = len(graph.colours)
        weights = {colour: weight * n_atoms for colour, weight in zip(graph.colours, answer.attention, strict=True)}
        self._kept[graph.digest, answer.model] = (replace(answer, attention=()), weights)
        self._kept.move_to_end((graph.digest, answer.model))
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
