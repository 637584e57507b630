"""What a parse process does with one file: text → structure → graphs, as JSON and bytes that need no unpickling."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.equivalence import merge_equivalent
from deepergatgnn.graph import build_graph
from deepergatgnn.structures import StructureFormat, read_structure
from service.canonical import crystal_digest, node_colours
from service.graph_bytes import pack_graph


@dataclass(frozen=True)
class PackedGraph:
    """A graph on its way to a worker, and what the API must know of it.

    Attributes:
        content: of `pack_graph`.
        n_nodes, n_links: what is computed: atoms and edges after equivalent ones were merged.
        n_edges: of the posted cell.
        digest: the same for every cell of the same crystal, see `canonical`; empty where no cache asks for it.
        colours: of the node of each atom of the posted cell, hexadecimal; they carry an answer over to another cell.
    """

    content: bytes
    n_nodes: int
    n_links: int
    n_edges: int
    digest: str = ""
    colours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parsed:
    """What a parse process made of a file.

    Attributes:
        formula, reduced_formula: of the posted cell.
        symbols: element of each atom, in the posted order.
        frac_coords: of each atom, as posted.
        cell: lengths a, b, c in Å, angles alpha, beta, gamma in degrees, volume in Å³.
        warnings: what the reader dropped or changed.
        graphs: one for each featuriser asked for.
        parse_ms, graph_ms: measured in the process.
    """

    formula: str
    reduced_formula: str
    symbols: tuple[str, ...]
    frac_coords: tuple[tuple[float, float, float], ...]
    cell: dict[str, float]
    warnings: tuple[str, ...]
    graphs: tuple[PackedGraph, ...]
    parse_ms: float
    graph_ms: float

    @property
    def n_atoms(self) -> int:
        """Atoms of the posted cell."""
        return len(self.symbols)


def parse(source: bytes | str, file_format: StructureFormat, configs: Sequence[GraphConfig], rounds: int = 0) -> Parsed:
    """Read a file and build its graphs.

    Args:
        source: content of the file.
        file_format: of the content.
        configs: a graph is built for each.
        rounds: shells of neighbours that the names see which a cache goes by; 0 for no names.

    Raises:
        StructureError: if the structure is refused.
    """
    started = time.perf_counter()
    crystal = read_structure(source, file_format)
    read = time.perf_counter()
    graphs = tuple(_packed(merge_equivalent(build_graph(crystal, config)), rounds) for config in configs)
    built = time.perf_counter()
    return Parsed(
        formula=crystal.formula,
        reduced_formula=crystal.reduced_formula,
        symbols=crystal.symbols,
        frac_coords=tuple(map(tuple, crystal.frac_coords.tolist())),
        cell=_cell(crystal.lattice),
        warnings=crystal.warnings,
        graphs=graphs,
        parse_ms=(read - started) * 1000,
        graph_ms=(built - read) * 1000,
    )


def _packed(graph: CrystalGraph, rounds: int) -> PackedGraph:
    packed = PackedGraph(pack_graph(graph), graph.n_nodes, graph.n_links, graph.n_edges)
    if not rounds:
        return packed
    colours = node_colours(graph, rounds)
    names = [f"{colour:016x}" for colour in colours.tolist()]
    of_atoms = tuple(names[node] for node in graph.classes.tolist())
    return replace(packed, digest=crystal_digest(graph, colours), colours=of_atoms)


def _cell(lattice: NDArray[np.float64]) -> dict[str, float]:
    lengths = np.linalg.norm(lattice, axis=1)
    units = lattice / lengths[:, None]
    cosines = np.clip([units[1] @ units[2], units[0] @ units[2], units[0] @ units[1]], -1, 1)
    values = [*lengths.tolist(), *np.degrees(np.arccos(cosines)).tolist(), abs(float(np.linalg.det(lattice)))]
    names = ("a", "b", "c", "alpha", "beta", "gamma", "volume")
    return {name: round(value, 6) for name, value in zip(names, values, strict=True)}


def to_document(parsed: Parsed) -> tuple[dict[str, Any], list[bytes]]:
    """JSON and bytes of a result, the form in which it leaves its process."""
    document = {key: value for key, value in vars(parsed).items() if key != "graphs"}
    document["graphs"] = [{k: v for k, v in vars(graph).items() if k != "content"} for graph in parsed.graphs]
    return document, [graph.content for graph in parsed.graphs]


def from_document(document: dict[str, Any], contents: Sequence[bytes]) -> Parsed:
    """The result of `to_document`, in the process that asked."""
    graphs = tuple(
        PackedGraph(content=content, **graph | {"colours": tuple(graph["colours"])})
        for graph, content in zip(document.pop("graphs"), contents, strict=True)
    )
    for key in ("symbols", "warnings"):
        document[key] = tuple(document[key])
    return Parsed(graphs=graphs, **document | {"frac_coords": tuple(map(tuple, document["frac_coords"]))})
