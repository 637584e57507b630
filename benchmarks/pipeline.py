"""CIF text → crystal graph and CIF text → number, against pymatgen and the literal network, in one process.

    python -m benchmarks.pipeline [--quick]

The other way is pymatgen's parser, `get_neighbor_list`, the same choice of whole shells in plain numpy, and the
transcription of the papers' network with the same 20 layers of weights. Texts are what databases write: half in P 1,
half symmetrised. The last line is one JSON object: `cif_to_graph_ratio` of the mix and of its halves (`first_pass`:
before anything is cached), `graphs_equal`, `structures_per_s` and its ratio at batch 32, milliseconds a structure by
phase, and `floor_ms`, the matrix products and softplus of our forward pass alone.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifParser, CifWriter
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.network import LAYERS, THREADS, networks
from benchmarks.report import finish
from benchmarks.timing import arguments, interleaved
from deepergatgnn.errors import ConfigError
from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.nn.batch import GraphBatch, collate
from deepergatgnn.structures import Crystal, crystal_from_pymatgen, crystal_to_pymatgen, read_structure
from deepergatgnn.threads import fastest, measured
from deepergatgnn.training.data.catalogue import read_dataset

CONFIG = GraphConfig()
BATCH, CRYSTALS, TOLERANCE = 32, 500, 1e-4  # Å
# Readings of pymatgen: default, without rounding to thirds, with our tolerance for positions.
READINGS: dict[str, dict[str, float]] = {
    "default": {},
    "without_rounding_to_thirds": {"frac_tolerance": 0.0},
    "with_special_positions_merged": {"site_tolerance": 1e-3},
}
FLOOR = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.softplus)

Neighbourhoods = dict[int, list[NDArray[np.float64]]]


def crystals(count: int) -> tuple[str, list[Crystal]]:
    """Return the name of the data set, and crystals spread over it."""
    for name in ("flla_2015", "elastic_tensor_2015"):
        try:
            rows = read_dataset(name).rows
        except ConfigError:
            continue
        return name, [row.crystal for row in rows[:: max(1, len(rows) // count)][:count]]
    raise ConfigError("the bundled data set is missing: install the package whole")


def texts(some: Sequence[Crystal]) -> dict[str, list[str]]:
    """Write each crystal with pymatgen, in P 1 and symmetrised."""
    structures = [crystal_to_pymatgen(crystal) for crystal in some]
    return {
        "p1": [str(structure.to(fmt="cif")) for structure in structures],
        "symmetrised": [str(CifWriter(structure, symprec=0.01)) for structure in structures],
    }


@dataclass(frozen=True)
class Way:
    """Pipeline from text to number; each phase takes the result of the one before."""

    parse: Callable[[str], Any]
    graph: Callable[[Any], CrystalGraph]
    merge: Callable[[CrystalGraph], CrystalGraph]
    network: torch.nn.Module

    def graphs(self, some: Sequence[str]) -> list[CrystalGraph]:
        """Text → graph, as built."""
        return [self.graph(self.parse(text)) for text in some]

    @torch.inference_mode()
    def numbers(self, some: Sequence[str]) -> Tensor:
        """Text → number, in batches."""
        batches = (some[start : start + BATCH] for start in range(0, len(some), BATCH))
        return torch.cat([self.network(self.batch([self.merge(g) for g in self.graphs(b)])).values for b in batches])

    @torch.inference_mode()
    def phases(self, some: Sequence[str]) -> dict[str, float]:
        """Measure milliseconds a structure of each phase."""
        stops = [time.perf_counter()]
        stages: list[list[Any]] = [list(some)]
        batched = lambda graphs: [self.batch(graphs[i : i + BATCH]) for i in range(0, len(graphs), BATCH)]  # noqa: E731
        for step in (self.parse, self.graph, self.merge, None, self.network):
            stages.append(batched(stages[-1]) if step is None else [step(each) for each in stages[-1]])
            stops.append(time.perf_counter())
        names = ("parse", "graph", "merge", "collate", "forward")
        return {name: 1e3 * float(ms) / len(some) for name, ms in zip(names, np.diff(stops), strict=True)}

    @staticmethod
    def batch(graphs: Sequence[CrystalGraph]) -> GraphBatch:
        """Graphs as one batch of tensors."""
        return collate(graphs).to("cpu")


def parse_by_pymatgen(text: str) -> Structure:
    """Parse with pymatgen."""
    return CifParser.from_str(text).parse_structures(primitive=False)[0]


def graph_by_pymatgen(structure: Structure) -> CrystalGraph:
    """Build the graph of its neighbour list: the nearest neighbours of each atom with their whole shell."""
    receivers, senders, _, distances = structure.get_neighbor_list(CONFIG.cutoff)
    order = np.lexsort((distances, receivers))
    receivers, senders, distances = receivers[order], senders[order], distances[order]
    found = np.bincount(receivers, minlength=len(structure))
    last = np.cumsum(found) - found + np.minimum(found, CONFIG.neighbours) - 1
    kept = distances <= (distances[last] + CONFIG.shell_tolerance)[receivers]
    ones = np.ones(len(structure), dtype=np.int32)
    return CrystalGraph(
        atomic_numbers=np.array(structure.atomic_numbers),
        senders=senders[kept].astype(np.int32),
        degrees=np.bincount(receivers[kept], minlength=len(structure)).astype(np.int32),
        distances=distances[kept].astype(np.float32),
        volume=structure.volume,
        multiplicities=ones,
        counts=np.ones(int(kept.sum()), dtype=np.int32),
        node_of_atom=np.arange(len(structure), dtype=np.int32),
        angular_features=np.empty((len(structure), 0), dtype=np.float32),
    )


def neighbourhoods(graph: CrystalGraph) -> Neighbourhoods:
    """Return for each element the sorted distances around each of its atoms; merged atoms and edges are expanded."""
    ends = np.cumsum(graph.degrees)
    found: Neighbourhoods = {}
    for node, (end, degree) in enumerate(zip(ends, graph.degrees, strict=True)):
        edges = slice(end - degree, end)
        around = np.sort(np.repeat(graph.distances[edges].astype(np.float64), graph.counts[edges]))
        found.setdefault(int(graph.atomic_numbers[node]), []).extend([around] * int(graph.multiplicities[node]))
    return found


def same_neighbourhoods(one: Neighbourhoods, other: Neighbourhoods) -> bool:
    """Return whether the atoms match one to one in element and distances."""
    if {z: len(atoms) for z, atoms in one.items()} != {z: len(atoms) for z, atoms in other.items()}:
        return False
    for element, atoms in one.items():
        left = list(other[element])
        for atom in atoms:
            for index, partner in enumerate(left):
                if len(partner) == len(atom) and np.abs(partner - atom).max() <= TOLERANCE:
                    del left[index]
                    break
            else:
                return False
    return True


def agreement(text: str) -> str | None:
    """Return the reading of pymatgen whose built and reduced graphs equal ours; None if there is none.

    By default it rounds coordinates near thirds also where there is no symmetry to apply, and keeps two atoms on a
    special position that four digits put more than 1e-4 apart; our reader does neither.
    """
    crystal = read_structure(text)
    for name, options in READINGS.items():
        structure = CifParser.from_str(text, **options).parse_structures(primitive=False)[0]
        if len(structure) == crystal.n_atoms and _same_graphs(crystal, structure):
            return name
    return None


def _same_graphs(crystal: Crystal, structure: Structure) -> bool:
    """Twice: with like distances made equal, as is served, of the structures alone; and without, of all."""
    plain = replace(CONFIG, distance_resolution=0.0)
    pairs = (
        (build_graph(crystal, CONFIG), build_graph(crystal_from_pymatgen(structure), CONFIG)),
        (build_graph(crystal, plain), graph_by_pymatgen(structure)),
    )
    return all(
        same_neighbourhoods(neighbourhoods(graph), neighbourhoods(theirs))
        for ours, theirs in pairs
        for graph in (ours, reduce_graph(ours))
    )


class Recorder(TorchDispatchMode):
    """Records the matrix products and softplus calls with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[partial[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record and run one operator."""
        del types
        if func.overloadpacket in FLOOR:
            self.calls.append(partial(func, *args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def floor_ms(way: Way, some: Sequence[str], rounds: int) -> float:
    """Measure milliseconds a structure of the matrix products and softplus calls of the forward pass alone."""
    batch = way.batch([way.merge(graph) for graph in way.graphs(some[:BATCH])])
    with torch.no_grad(), Recorder() as recorder:
        way.network(batch)

    def replay() -> None:
        for call in recorder.calls:
            call()

    with torch.no_grad():
        return 1e3 * interleaved({"floor": replay}, rounds)["floor"] / BATCH


def compare_graphs(ways: Mapping[str, Way], written: Mapping[str, list[str]], rounds: int) -> dict[str, object]:
    """Compare text → graph by kind of text, and whether the graphs are equal."""
    report: dict[str, object] = {}
    total = dict.fromkeys(ways, 0.0)
    first = dict.fromkeys(ways, 0.0)
    readings: Counter[str | None] = Counter()
    for kind, some in written.items():
        for name, way in ways.items():
            started = time.perf_counter()
            way.graphs(some)
            first[name] += time.perf_counter() - started
        readings.update(agreement(text) for text in some)
        seconds = interleaved({name: partial(way.graphs, some) for name, way in ways.items()}, rounds)
        total = {name: total[name] + seconds[name] for name in ways}
        report[f"cif_to_graph_ratio_{kind}"] = round(seconds["theirs"] / seconds["ours"], 2)
        report[f"cif_to_graph_ms_{kind}"] = {name: round(1e3 * s / len(some), 3) for name, s in seconds.items()}
        print(f"{kind}: theirs/ours {report[f'cif_to_graph_ratio_{kind}']}", flush=True)
    report["cif_to_graph_ratio"] = round(total["theirs"] / total["ours"], 2)
    report["cif_to_graph_ratio_first_pass"] = round(first["theirs"] / first["ours"], 2)
    counts = {name: readings[name] for name in READINGS}
    return report | {"graphs_equal": not readings[None], "graphs_different": readings[None], "graphs_equal_to": counts}


def compare_numbers(ways: Mapping[str, Way], some: Sequence[str], rounds: int) -> dict[str, object]:
    """Compare text → number, and measure the phases."""
    seconds = interleaved({name: partial(way.numbers, some) for name, way in ways.items()}, rounds)
    ours, theirs = (ways[name].numbers(some) for name in ("ours", "theirs"))
    return {
        "batch": BATCH,
        "structures_per_s_ratio": round(seconds["theirs"] / seconds["ours"], 2),
        "structures_per_s": {name: round(len(some) / s, 1) for name, s in seconds.items()},
        "max_rel_diff": float((ours - theirs).abs().max() / theirs.abs().max()),
        "phases_ms": {
            name: {phase: round(ms, 3) for phase, ms in way.phases(some).items()} for name, way in ways.items()
        },
        "floor_ms": round(floor_ms(ways["ours"], some, rounds), 3),
    }


def main() -> None:
    """Run and print."""
    quick = arguments(__doc__).quick
    warnings.simplefilter("ignore")  # pymatgen's and spglib's, of every file
    rounds = 3 if quick else 7
    name, some = crystals(100 if quick else CRYSTALS)
    written = texts(some)
    network, literal = (each.eval() for each in networks())
    ways = {
        "theirs": Way(parse_by_pymatgen, graph_by_pymatgen, lambda graph: graph, literal),
        "ours": Way(read_structure, partial(build_graph, config=CONFIG), reduce_graph, network),
    }
    mixed = [written["symmetrised" if index % 2 else "p1"][index] for index in range(len(some))]
    # Both pipelines use the number of threads that is fastest now.
    threads = fastest(measured(lambda: ways["ours"].numbers(mixed[:BATCH]), (1, THREADS)))
    torch.set_num_threads(threads)
    report: dict[str, object] = {"data": name, "crystals": len(some), "threads": threads, "layers": LAYERS}
    report |= compare_graphs(ways, written, rounds)
    report |= compare_numbers(ways, mixed, 3)
    finish("pipeline", report, quick=quick)


if __name__ == "__main__":
    main()
