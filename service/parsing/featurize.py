"""What a parse process does with one file: text → structure → graphs, as JSON and bytes that need no unpickling."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from deepergatgnn.errors import StructureError
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.fingerprint import crystal_digest, node_colours
from deepergatgnn.graphs.serialization import pack_graph
from deepergatgnn.graphs.symmetry_reduction import reduce_graphs
from deepergatgnn.service.messages import PackedGraph
from deepergatgnn.structures import Crystal, StructureFormat, read_structure

CELL = ("a", "b", "c", "alpha", "beta", "gamma", "volume")


@dataclass(eq=False)
class Parsed:
    """What a parse process made of a file.

    Attributes:
        formula, reduced_formula: of the posted cell.
        n_atoms: of the posted cell.
        symbols: element of each atom, in the posted order; none where sites are not asked for.
        frac_coords: of each atom, as posted; likewise.
        cell: lengths a, b, c in Å, angles alpha, beta, gamma in degrees, volume in Å³.
        warnings: what the reader dropped or changed.
        graphs: one for each featuriser asked for.
        parse_ms: to read it.
        graph_ms: to build the graphs, of all files that were at hand together: each waited for them.
    """

    formula: str
    reduced_formula: str
    n_atoms: int
    symbols: Sequence[str]
    frac_coords: Sequence[Sequence[float]]
    cell: dict[str, float]
    warnings: Sequence[str]
    graphs: Sequence[PackedGraph]
    parse_ms: float
    graph_ms: float


@dataclass(eq=False)
class ReadFile:
    """A file that was read, and what is wanted of it.

    Attributes:
        crystal: that it holds.
        configs: a graph is built for each.
        rounds, sites: as of `parse`.
        parse_ms: that reading took.
    """

    crystal: Crystal
    configs: tuple[GraphConfig, ...]
    rounds: int
    sites: bool
    parse_ms: float


def parse(
    source: bytes | str,
    file_format: StructureFormat,
    configs: Sequence[GraphConfig],
    *,
    rounds: int = 0,
    sites: bool = True,
) -> Parsed:
    """Read a file and build its graphs.

    Args:
        source: content of the file.
        file_format: of the content.
        configs: a graph is built for each.
        rounds: shells of neighbours that the names see which a cache goes by; 0 for no names.
        sites: whether the atoms are wanted one by one, as they are with their attention.

    Raises:
        StructureError: if the structure is refused.
    """
    [found] = with_graphs([read_file(source, file_format, tuple(configs), rounds=rounds, sites=sites)])
    if isinstance(found, StructureError):
        raise found
    return found


def read_file(
    source: bytes | str, file_format: StructureFormat, configs: tuple[GraphConfig, ...], *, rounds: int, sites: bool
) -> ReadFile:
    """The first half of `parse`.

    Raises:
        StructureError: if the structure is refused.
    """
    started = time.perf_counter()
    crystal = read_structure(source, file_format)
    return ReadFile(crystal, configs, rounds, sites, (time.perf_counter() - started) * 1000)


def with_graphs(files: Sequence[ReadFile]) -> list[Parsed | StructureError]:
    """The second half of `parse`, for several files at once; each is answered or refused by itself.

    `graph_ms` is what it took for all of them, as each has waited for.
    """
    started = time.perf_counter()
    built: list[dict[GraphConfig, CrystalGraph | StructureError]] = [{} for _ in files]
    for config in dict.fromkeys(config for file in files for config in file.configs):
        rows = [row for row, file in enumerate(files) if config in file.configs]
        for row, graph in zip(rows, reduce_graphs([files[row].crystal for row in rows], config), strict=True):
            built[row][config] = graph
    graph_ms = (time.perf_counter() - started) * 1000
    return [
        _parsed(file, [of_file[config] for config in file.configs], graph_ms)
        for file, of_file in zip(files, built, strict=True)
    ]


def _parsed(
    file: ReadFile, graphs: Sequence[CrystalGraph | StructureError], graph_ms: float
) -> Parsed | StructureError:
    packed = []
    for graph in graphs:
        if isinstance(graph, StructureError):
            return graph
        packed.append(_packed(graph, file.rounds))
    crystal = file.crystal
    formula, reduced_formula = crystal.formulas
    return Parsed(
        formula=formula,
        reduced_formula=reduced_formula,
        n_atoms=crystal.n_atoms,
        symbols=list(crystal.symbols) if file.sites else (),
        frac_coords=crystal.frac_coords.tolist() if file.sites else (),
        cell=_cell(crystal.lattice.tolist()),
        warnings=list(crystal.warnings),
        graphs=packed,
        parse_ms=file.parse_ms,
        graph_ms=graph_ms,
    )


def _packed(graph: CrystalGraph, rounds: int) -> PackedGraph:
    packed = PackedGraph(pack_graph(graph), graph.n_nodes, graph.n_links, graph.n_edges)
    if not rounds:
        return packed
    colours = node_colours(graph, rounds)
    names = [f"{colour:016x}" for colour in colours.tolist()]
    of_atoms = [names[node] for node in graph.node_of_atom.tolist()]
    return replace(packed, digest=crystal_digest(graph, colours), colours=of_atoms)


def _cell(lattice: Sequence[Sequence[float]]) -> dict[str, float]:
    """Lengths, angles and volume; of three vectors alone, plain numbers are faster than arrays."""
    a, b, c = lattice
    lengths = [math.hypot(*vector) for vector in lattice]
    x, y, z = a
    volume = abs(x * (b[1] * c[2] - b[2] * c[1]) + y * (b[2] * c[0] - b[0] * c[2]) + z * (b[0] * c[1] - b[1] * c[0]))
    angles = (
        _angle(b, c, lengths[1] * lengths[2]),
        _angle(a, c, lengths[0] * lengths[2]),
        _angle(a, b, lengths[0] * lengths[1]),
    )
    return {name: round(value, 6) for name, value in zip(CELL, (*lengths, *angles, volume), strict=True)}


def _angle(one: Sequence[float], other: Sequence[float], lengths: float) -> float:
    cosine = (one[0] * other[0] + one[1] * other[1] + one[2] * other[2]) / lengths
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def to_document(parsed: Parsed) -> tuple[dict[str, Any], list[bytes]]:
    """JSON and bytes of a result, the form in which it leaves its process."""
    document = {key: value for key, value in vars(parsed).items() if key != "graphs"}
    document["graphs"] = [{k: v for k, v in vars(graph).items() if k != "content"} for graph in parsed.graphs]
    return document, [graph.content for graph in parsed.graphs]


def from_document(document: dict[str, Any], contents: Sequence[bytes]) -> Parsed:
    """The result of `to_document`, in the process that asked."""
    graphs = [
        PackedGraph(content=content, **graph) for graph, content in zip(document.pop("graphs"), contents, strict=True)
    ]
    return Parsed(graphs=graphs, **document)
