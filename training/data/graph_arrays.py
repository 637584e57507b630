"""Many graphs as a few long arrays; each graph is made of slices on access.

A million graph objects take gigabytes and minutes; as arrays they are a few files that the system maps into memory.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.element_features import element_symbol
from deepergatgnn.graphs.crystal_graph import GRAPH_FIELDS, CrystalGraph

T = TypeVar("T")
Arrays = Mapping[str, NDArray[Any]]

# Every array: type, and the shape of an item. A crystal, node, edge or atom has an item, in this order; a field with
# columns is flat, and its width follows from its length.
LAYOUT: dict[str, tuple[str, tuple[int, ...]]] = {
    "n_nodes": ("<i8", ()),
    "n_links": ("<i8", ()),
    "n_atoms": ("<i8", ()),
    "volumes": ("<f8", ()),
    "lattices": ("<f8", (3, 3)),
    "frac_coords": ("<f8", (3,)),
    **{name: (field.dtype, ()) for name, field in GRAPH_FIELDS.items()},
}
_SIZES = {"node": "n_nodes", "edge": "n_links", "atom": "n_atoms"}  # array of the number of items of each axis


@dataclass(frozen=True)
class Cell:
    """Crystal as plain tuples: `lattice` in Å, `species`, `frac_coords`."""

    lattice: tuple[tuple[float, float, float], ...]
    species: tuple[str, ...]
    frac_coords: tuple[tuple[float, float, float], ...]


class _Lazy(Sequence[T]):
    """Sequence whose items are made on access; a slice is a list."""

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
        n_nodes: int64 [n], number of nodes of each graph.
        n_links: int64 [n], number of edges of each graph.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.n_nodes: NDArray[np.int64] = arrays["n_nodes"]
        self.n_links: NDArray[np.int64] = arrays["n_links"]
        self._volumes = arrays["volumes"]
        n_items = len(arrays["atomic_numbers"])
        self._columns = [
            arrays[name].reshape(n_items, len(arrays[name]) // max(1, n_items)) if field.has_columns else arrays[name]
            for name, field in GRAPH_FIELDS.items()
        ]
        self._bounds = {axis: _bounds(arrays[key]) for axis, key in _SIZES.items()}

    def __len__(self) -> int:
        return len(self.n_nodes)

    def _item(self, index: int) -> CrystalGraph:
        slices = {axis: slice(bounds[index], bounds[index + 1]) for axis, bounds in self._bounds.items()}
        arrays: dict[str, Any] = {
            name: column[slices[field.axis]]
            for (name, field), column in zip(GRAPH_FIELDS.items(), self._columns, strict=True)
        }
        return CrystalGraph(volume=float(self._volumes[index]), **arrays)


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
            species=tuple(element_symbol(number) for number in graph.atomic_numbers[graph.node_of_atom].tolist()),
            frac_coords=tuple(map(tuple, coords.tolist())),
        )


class Subset(_Lazy[T]):
    """Selected items of several concatenated sequences.

    Args:
        parts: the sequences.
        rows: int64 [n], indices into the concatenation.
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
    """Return the numbers of nodes and of edges of each graph, int64 [n] each, without making packed graphs."""
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
    """Pack crystals into the arrays of `LAYOUT`."""
    lists: dict[str, Sequence[Any]] = {
        "n_nodes": [[graph.n_nodes] for graph in graphs],
        "n_links": [[graph.n_links] for graph in graphs],
        "n_atoms": [[graph.n_atoms] for graph in graphs],
        "volumes": [[graph.volume] for graph in graphs],
        "lattices": [lattice[None] for lattice in lattices],
        "frac_coords": list(frac_coords),
    }
    for name, field in GRAPH_FIELDS.items():
        arrays = [getattr(graph, name) for graph in graphs]
        lists[name] = [array.ravel() for array in arrays] if field.has_columns else arrays
    return {key: _joined(key, lists[key]) for key in LAYOUT}


def join(chunks: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """Concatenate packed arrays."""
    return {key: _joined(key, [chunk[key] for chunk in chunks]) for key in LAYOUT}


def _joined(key: str, parts: Sequence[Any]) -> NDArray[Any]:
    dtype, shape = LAYOUT[key]
    return np.concatenate([np.empty((0, *shape), dtype), *parts]).astype(dtype, copy=False)


def _bounds(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Start of each item, and the end of the last one: [n + 1]."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
