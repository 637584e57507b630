"""Measurements of a checkpoint on this device with its golden crystals: costs, memory, threads."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch

from deepergatgnn.checkpoints.manifest import Golden, Manifest
from deepergatgnn.errors import StructureError
from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.nn.batch import collate
from deepergatgnn.predictor import Predictor
from deepergatgnn.service.scheduling.cost import CostModel
from deepergatgnn.structures import crystal_from_arrays
from deepergatgnn.threads import measured

SIZES = (1, 4, 16, 64, 1, 4, 16, 64)  # crystals of a batch; the first round warms up
MAX_LARGE = 16  # large crystals of a batch
HEADROOM = 0.2  # share of a GPU's free memory that stays free
THREADS_BATCH = 8  # crystals of the batch that compares numbers of threads
_CORNERS = np.array([(i, j, k) for i in range(2) for j in range(2) for k in range(2)], dtype=float)


def golden_graphs(manifest: Manifest) -> list[CrystalGraph]:
    """Return the golden crystals as symmetry-reduced graphs."""
    crystals = [crystal_from_arrays(g.lattice, g.species, g.frac_coords) for g in manifest.golden]
    return [reduce_graph(build_graph(crystal, manifest.graph)) for crystal in crystals]


def measure_costs(predictor: Predictor) -> CostModel:
    """Fit the costs of a checkpoint to timed batches of golden crystals and of their 2 x 2 x 2 supercells.

    The graphs of the supercells are not reduced, and so are as large as those of crystals without symmetry.
    """
    model = CostModel()
    small = golden_graphs(predictor.manifest)
    large = _large_graphs(predictor.manifest) or small
    for number, size in enumerate(SIZES):
        for kind in (small, large) if size <= MAX_LARGE else (small,):
            graphs = [kind[index % len(kind)] for index in range(size)]
            started = time.perf_counter()
            predictor.predict_collated(graphs, collate(graphs, filled=True).to(predictor.device))
            if number >= len(SIZES) // 2:
                edges, nodes = sum(g.n_links for g in graphs), sum(g.n_nodes for g in graphs)
                model.observe(edges, nodes, len(graphs), time.perf_counter() - started)
    model.begin()
    return model


def measure_edge_capacity(predictor: Predictor) -> int:
    """Return the edges of a batch that fit into the free memory of a GPU with headroom; no bound on a CPU."""
    if predictor.device.type != "cuda":
        return sys.maxsize
    graphs = (_large_graphs(predictor.manifest) or golden_graphs(predictor.manifest)) * 16
    torch.cuda.reset_peak_memory_stats(predictor.device)
    before = torch.cuda.memory_allocated(predictor.device)
    predictor.predict_collated(graphs, collate(graphs, filled=True).to(predictor.device))
    taken = torch.cuda.max_memory_allocated(predictor.device) - before
    free, _ = torch.cuda.mem_get_info(predictor.device)
    edges = sum(graph.n_links for graph in graphs)
    return max(1, int((1 - HEADROOM) * free * edges / max(1, taken)))


def measure_threads(predictor: Predictor, counts: Sequence[int]) -> dict[int, float]:
    """Return the median seconds of a small batch of golden crystals by number of threads."""
    graphs = (golden_graphs(predictor.manifest) * THREADS_BATCH)[:THREADS_BATCH]
    batch = collate(graphs, filled=True).to(predictor.device)
    return measured(lambda: predictor.predict_collated(graphs, batch), counts)


def _large_graphs(manifest: Manifest) -> list[CrystalGraph]:
    graphs = []
    for golden in manifest.golden:
        with suppress(StructureError):  # the supercell is too large
            graphs.append(_supercell_graph(golden, manifest))
    return graphs


def _supercell_graph(golden: Golden, manifest: Manifest) -> CrystalGraph:
    coords = np.asarray(golden.frac_coords, dtype=float)
    copies = np.concatenate([(coords + corner) / 2 for corner in _CORNERS])
    lattice = 2 * np.asarray(golden.lattice, dtype=float)
    return build_graph(crystal_from_arrays(lattice, [*golden.species] * len(_CORNERS), copies), manifest.graph)
