"""A file to its graphs: text → structure → graphs, as a parse process does it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from deepergatgnn.errors import StructureError
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.fingerprint import crystal_digest, node_colours
from deepergatgnn.graphs.serialization import pack_graph
from deepergatgnn.graphs.symmetry_reduction import reduce_graphs
from deepergatgnn.service.messages import PackedGraph
from deepergatgnn.service.parsing.wire import FileHeader, ParsedStructure
from deepergatgnn.service.schemas import Cell
from deepergatgnn.structures import Crystal, read_structure


@dataclass(eq=False)
class ReadFile:
    """The crystal of a file, the header of its task, and the time that reading it took."""

    crystal: Crystal
    header: FileHeader
    parse_ms: float


def read_file(source: bytes, header: FileHeader) -> ReadFile:
    """Read the crystal of a file.

    Raises:
        StructureError: the structure is refused.
    """
    started = time.perf_counter()
    crystal = read_structure(source, header.format)
    return ReadFile(crystal, header, (time.perf_counter() - started) * 1000)


def featurize(files: Sequence[ReadFile]) -> list[ParsedStructure | StructureError]:
    """Build the graphs of several files at once; each is returned or refused by itself.

    `graph_ms` is the time of all of them, since each waits for the others.
    """
    started = time.perf_counter()
    graphs: list[dict[GraphConfig, CrystalGraph | StructureError]] = [{} for _ in files]
    for config in dict.fromkeys(config for file in files for config in file.header.configs):
        rows = [row for row, file in enumerate(files) if config in file.header.configs]
        for row, graph in zip(rows, reduce_graphs([files[row].crystal for row in rows], config), strict=True):
            graphs[row][config] = graph
    graph_ms = (time.perf_counter() - started) * 1000
    return [
        _parsed(file, [of_file[config] for config in file.header.configs], graph_ms)
        for file, of_file in zip(files, graphs, strict=True)
    ]


def _parsed(
    file: ReadFile, graphs: Sequence[CrystalGraph | StructureError], graph_ms: float
) -> ParsedStructure | StructureError:
    packed = []
    for graph in graphs:
        if isinstance(graph, StructureError):
            return graph
        packed.append(_packed(graph, file.header.rounds))
    crystal, sites = file.crystal, file.header.sites
    formula, reduced_formula = crystal.formulas
    return ParsedStructure(
        formula=formula,
        reduced_formula=reduced_formula,
        n_atoms=crystal.n_atoms,
        symbols=list(crystal.symbols) if sites else [],
        frac_coords=crystal.frac_coords.tolist() if sites else [],
        cell=_cell(crystal.lattice.tolist()),
        warnings=list(crystal.warnings),
        graphs=packed,
        parse_ms=file.parse_ms,
        graph_ms=graph_ms,
    )


def _packed(graph: CrystalGraph, rounds: int) -> PackedGraph:
    content, sizes = pack_graph(graph), (graph.n_nodes, graph.n_links, graph.n_edges)
    if not rounds:
        return PackedGraph(content, *sizes)
    colours = node_colours(graph, rounds)
    names = [f"{colour:016x}" for colour in colours.tolist()]
    of_atoms = [names[node] for node in graph.node_of_atom.tolist()]
    return PackedGraph(content, *sizes, digest=crystal_digest(graph, colours), colours=of_atoms)


def _cell(lattice: Sequence[Sequence[float]]) -> Cell:
    """Return lengths, angles and volume; for three vectors, plain numbers are faster than arrays."""
    a, b, c = lattice
    lengths = [math.hypot(*vector) for vector in lattice]
    x, y, z = a
    volume = abs(x * (b[1] * c[2] - b[2] * c[1]) + y * (b[2] * c[0] - b[0] * c[2]) + z * (b[0] * c[1] - b[1] * c[0]))
    return {
        "a": round(lengths[0], 6),
        "b": round(lengths[1], 6),
        "c": round(lengths[2], 6),
        "alpha": round(_angle(b, c, lengths[1] * lengths[2]), 6),
        "beta": round(_angle(a, c, lengths[0] * lengths[2]), 6),
        "gamma": round(_angle(a, b, lengths[0] * lengths[1]), 6),
        "volume": round(volume, 6),
    }


def _angle(one: Sequence[float], other: Sequence[float], lengths: float) -> float:
    cosine = (one[0] * other[0] + one[1] * other[1] + one[2] * other[2]) / lengths
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
