"""Batches of the golden crystals, to learn what a version costs on this device before the first request comes."""

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

SIZES = (1, 4, 16, 64, 1, 4, 16, 64)  # crystals; every size twice, the first round warms up
LARGE_AT_MOST = 16
HEADROOM = 0.2  # of the free memory of a GPU
_CORNERS = np.array([(i, j, k) for i in range(2) for j in range(2) for k in range(2)], dtype=float)


def golden_graphs(manifest: Manifest) -> list[CrystalGraph]:
    """The golden set as graphs, equivalent atoms merged."""
    crystals = [crystal_from_arrays(g.lattice, g.species, g.frac_coords) for g in manifest.golden]
    return [reduce_graph(build_graph(crystal, manifest.graph)) for crystal in crystals]


def calibrated(predictor: Predictor) -> CostModel:
    """Time batches of small and of larger graphs.

    The larger ones are eight cells of a golden crystal without merging, as large as a crystal without symmetry.
    """
    model = CostModel()
    small = golden_graphs(predictor.manifest)
    large = _large_graphs(predictor.manifest) or small
    for number, size in enumerate(SIZES):
        for kind in (small, large) if size <= LARGE_AT_MOST else (small,):
            graphs = [kind[index % len(kind)] for index in range(size)]
            started = time.perf_counter()
            predictor.predict_collated(graphs, collate(graphs, filled=True).to(predictor.device))
            if number >= len(SIZES) // 2:
                _observe(model, graphs, time.perf_counter() - started)
    model.begin()
    return model


def edges_that_fit(predictor: Predictor) -> int:
    """Edges of one batch for which the free memory of a GPU is enough, with headroom; no bound on a CPU."""
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


def _observe(model: CostModel, graphs: Sequence[CrystalGraph], seconds: float) -> None:
    model.observe(sum(g.n_links for g in graphs), sum(g.n_nodes for g in graphs), len(graphs), seconds)


def _large_graphs(manifest: Manifest) -> list[CrystalGraph]:
    """Eight cells of each golden crystal without merging, of those that this does not make too large."""
    graphs = []
    for golden in manifest.golden:
        with suppress(StructureError):
            graphs.append(_unmerged(golden, manifest))
    return graphs


def _unmerged(golden: Golden, manifest: Manifest) -> CrystalGraph:
    coords = np.asarray(golden.frac_coords, dtype=float)
    copies = np.concatenate([(coords + corner) / 2 for corner in _CORNERS])
    lattice = 2 * np.asarray(golden.lattice, dtype=float)
    return build_graph(crystal_from_arrays(lattice, [*golden.species] * len(_CORNERS), copies), manifest.graph)
