"""Many graphs in a few long arrays, each graph made of slices when it is asked for.

A million graphs as objects are gigabytes and minutes; as arrays they are a handful of files that the system maps into
memory and reads as needed.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.element_features import element_symbol
from deepergatgnn.graphs.crystal_graph import CrystalGraph

T = TypeVar("T")
Arrays = Mapping[str, NDArray[Any]]

# Every array: type, and the shape of one entry. There is an entry for each crystal, node, edge or atom, in this order.
LAYOUT: dict[str, tuple[str, tuple[int, ...]]] = {
    "n_nodes": ("<i8", ()),
    "n_links": ("<i8", ()),
    "n_atoms": ("<i8", ()),
    "volumes": ("<f8", ()),
    "lattices": ("<f8", (3, 3)),
    "atomic_numbers": ("<i8", ()),
    "degrees": ("<i4", ()),
    "multiplicities": ("<i4", ()),
    "senders": ("<i4", ()),
    "distances": ("<f4", ()),
    "counts": ("<i4", ()),
    "classes": ("<i4", ()),
    "surroundings": ("<f4", ()),  # of all nodes, as many for each as the featuriser makes
    "frac_coords": ("<f8", (3,)),
}
_OF_NODES = ("atomic_numbers", "degrees", "multiplicities")
_OF_LINKS = ("senders", "distances", "counts")


@dataclass(frozen=True)
class Cell:
    """The arrays of one crystal, as lists: `lattice` in Å, `species`, `frac_coords`."""

    lattice: tuple[tuple[float, float, float], ...]
    species: tuple[str, ...]
    frac_coords: tuple[tuple[float, float, float], ...]


class _Lazy(Sequence[T]):
    """A sequence whose items are made when they are asked for; a slice of it is a list."""

    def _item(self, index: int) -> T:
        raise IndexError(index)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._item(each) for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"no item {index} of {len(self)}")
        return self._item(index % len(self))


class PackedGraphs(_Lazy[CrystalGraph]):
    """Graphs over the arrays of `LAYOUT`; their arrays are views.

    Attributes:
        n_nodes, n_links: int64 [n], of each graph.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.n_nodes: NDArray[np.int64] = arrays["n_nodes"]
        self.n_links: NDArray[np.int64] = arrays["n_links"]
        self._arrays = arrays
        self._width = len(arrays["surroundings"]) // max(1, len(arrays["atomic_numbers"]))
        self._nodes, self._links, self._atoms = (_bounds(arrays[key]) for key in ("n_nodes", "n_links", "n_atoms"))

    def __len__(self) -> int:
        return len(self.n_nodes)

    def _item(self, index: int) -> CrystalGraph:
        nodes = slice(self._nodes[index], self._nodes[index + 1])
        links = slice(self._links[index], self._links[index + 1])
        atoms = slice(self._atoms[index], self._atoms[index + 1])
        arrays = self._arrays
        return CrystalGraph(
            atomic_numbers=arrays["atomic_numbers"][nodes],
            senders=arrays["senders"][links],
            degrees=arrays["degrees"][nodes],
            distances=arrays["distances"][links],
            volume=float(arrays["volumes"][index]),
            multiplicities=arrays["multiplicities"][nodes],
            counts=arrays["counts"][links],
            classes=arrays["classes"][atoms],
            surroundings=arrays["surroundings"][nodes.start * self._width : nodes.stop * self._width].reshape(
                nodes.stop - nodes.start, self._width
            ),
        )


class PackedCells(_Lazy[Cell]):
    """Cells over the arrays of `LAYOUT`."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._graphs = PackedGraphs(arrays)
        self._atoms = _bounds(arrays["n_atoms"])

    def __len__(self) -> int:
        return len(self._graphs)

    def _item(self, index: int) -> Cell:
        graph = self._graphs[index]
        coords = self._arrays["frac_coords"][self._atoms[index] : self._atoms[index + 1]]
        return Cell(
            lattice=tuple(map(tuple, self._arrays["lattices"][index].tolist())),
            species=tuple(element_symbol(number) for number in graph.atomic_numbers[graph.classes].tolist()),
            frac_coords=tuple(map(tuple, coords.tolist())),
        )


class Subset(_Lazy[T]):
    """Some items of several sequences, as if these were one after the other.

    Args:
        parts: the sequences.
        rows: int64 [n], numbers of the items, counted through all parts.
    """

    def __init__(self, parts: Sequence[Sequence[T]], rows: NDArray[np.int64]) -> None:
        self.parts, self.rows = parts, rows
        sizes = [len(part) for part in parts]
        self._firsts = [sum(sizes[:index]) for index in range(len(sizes))]

    def __len__(self) -> int:
        return len(self.rows)

    def _item(self, index: int) -> T:
        row = int(self.rows[index])
        part = bisect_right(self._firsts, row) - 1
        return self.parts[part][row - self._firsts[part]]


def graph_sizes(graphs: Sequence[CrystalGraph]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nodes and edges of each graph, int64 [n] both; of packed graphs without making any."""
    if isinstance(graphs, PackedGraphs):
        return graphs.n_nodes, graphs.n_links
    if isinstance(graphs, Subset):
        sizes = [graph_sizes(()), *(graph_sizes(part) for part in graphs.parts)]
        nodes, links = (np.concatenate(each) for each in zip(*sizes, strict=True))
        return nodes[graphs.rows], links[graphs.rows]
    pairs = [(graph.n_nodes, graph.n_links) for graph in graphs]
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def pack(
    graphs: Sequence[CrystalGraph], lattices: Sequence[NDArray[np.float64]], frac_coords: Sequence[NDArray[np.float64]]
) -> dict[str, NDArray[Any]]:
    """The arrays of `LAYOUT` of some crystals."""
    lists: dict[str, Sequence[Any]] = {
        "n_nodes": [[graph.n_nodes] for graph in graphs],
        "n_links": [[graph.n_links] for graph in graphs],
        "n_atoms": [[graph.n_atoms] for graph in graphs],
        "volumes": [[graph.volume] for graph in graphs],
        "lattices": [lattice[None] for lattice in lattices],
        "frac_coords": list(frac_coords),
        "classes": [graph.classes for graph in graphs],
        "surroundings": [graph.surroundings.ravel() for graph in graphs],
    }
    lists |= {key: [getattr(graph, key) for graph in graphs] for key in (*_OF_NODES, *_OF_LINKS)}
    return {key: _joined(key, lists[key]) for key in LAYOUT}


def join(chunks: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """The arrays of several packs, one after the other."""
    return {key: _joined(key, [chunk[key] for chunk in chunks]) for key in LAYOUT}


def _joined(key: str, parts: Sequence[Any]) -> NDArray[Any]:
    dtype, shape = LAYOUT[key]
    return np.concatenate([np.empty((0, *shape), dtype), *parts]).astype(dtype, copy=False)


def _bounds(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each item begins, and after them where the last one ends: [n + 1]."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
