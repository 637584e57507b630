"""Faithfulness of attention: change of predictions when atoms are removed, by rank of attention.

    [DEEPERGATGNN_DATA=...] python -m benchmarks.attention [--quick]

For crystals of the test part of every shipped version (of the bundled set, where the version's own data are not here)
of at least two elements, information is taken from a growing share of the atoms, those of the largest weights first,
of the smallest first, or in random order, and the change of the prediction is averaged. Four ways to take it:
`element` gives the atoms an embedding that is the mean over the elements, each of which counts once, in place of their
own, all messages stay; `average atom` gives them the mean over all atoms, in oxides nearly that of oxygen, so that
oxygens lose little; `atom` removes the nodes and their edges from the graph (fidelity, Yuan et al.,
arXiv:2012.15445); `readout` leaves them out of the last weighted sum alone, so that only the pooling is asked. And the
attention of each atom is compared with its integrated gradient (Sundararajan et al., arXiv:1703.01365) along the path
from the mean over the elements to its own embedding.
The last line is one JSON object.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.timing import arguments
from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.errors import ConfigError
from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.model_store import ModelStore
from deepergatgnn.nn.batch import collate
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.catalogue import Dataset, read_dataset

BUNDLED = "elastic_tensor_2015"
CRYSTALS, DRAWS, STEPS = 200, 5, 32
SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)
WAYS = ("element", "average atom", "atom", "readout")
ORDERS = ("largest first", "smallest first", "random")


def unmerged(manifest: Manifest, count: int) -> tuple[str, list[CrystalGraph]]:
    """Build graphs with one node an atom, of crystals with inequivalent atoms, evenly spread over the test rows."""
    dataset, config = None, TrainingConfig.model_validate(manifest.provenance.config)
    try:
        dataset = read_dataset(config.data)
    except ConfigError:
        dataset = read_dataset(BUNDLED)
    rows = _test_rows(dataset, config)
    chosen = [row for row in rows if 4 <= row.crystal.n_atoms <= 60 and len(set(row.crystal.symbols)) > 1]  # noqa: PLR2004
    places = np.linspace(0, len(chosen) - 1, min(count, len(chosen))).astype(int)
    return dataset.name, [build_graph(chosen[place].crystal, manifest.graph) for place in places]


def _test_rows(dataset: Dataset, config: TrainingConfig) -> Sequence[object]:
    field, fold = config.split.test_field, config.split.test_fold
    fields = (field,) if isinstance(field, str) else field or ()
    found = [row for row in dataset.rows if any(row.fields.get(name) == fold for name in fields)]
    return found or dataset.rows


@torch.inference_mode()
def deletion(network: CrystalModel, graphs: Sequence[CrystalGraph], seed: int) -> dict[str, dict[str, list[float]]]:
    """Mean absolute change of the output, in standard deviations of the targets, by way, order and share of atoms."""
    generator = np.random.default_rng(seed)
    blanks = _blank_embeddings(network, graphs)
    changes: dict[str, dict[str, list[NDArray[np.float64]]]] = {way: {order: [] for order in ORDERS} for way in WAYS}
    for graph in graphs:
        batch = collate([graph])
        whole = network(batch)
        weights = whole.attention.numpy()
        ties = generator.random(len(weights))
        draws = {
            "largest first": [np.lexsort((ties, -weights))],
            "smallest first": [np.lexsort((ties, weights))],
            "random": [generator.permutation(len(weights)) for _ in range(DRAWS)],
        }
        for way, without in zip(WAYS, _ways(network, graph, blanks), strict=True):
            for order in ORDERS:
                curves = [
                    [abs(without(draw[:count]) - float(whole.values)) for count in _counts(len(draw))]
                    for draw in draws[order]
                ]
                changes[way][order].append(np.mean(curves, axis=0))
    return {
        way: {order: [round(float(value), 4) for value in np.mean(curves, axis=0)] for order, curves in orders.items()}
        for way, orders in changes.items()
    }


def _counts(n_atoms: int) -> list[int]:
    """Return the atoms to remove at each share; at least one remains."""
    return [min(n_atoms - 1, max(1, round(share * n_atoms))) for share in SHARES]


def _ways(
    network: CrystalModel, graph: CrystalGraph, blanks: tuple[Tensor, Tensor]
) -> tuple[Callable[[NDArray[np.int64]], float], ...]:
    """Return functions from removed atoms to the output, in the order of `WAYS`."""
    batch = collate([graph])
    x = network.embed(batch)
    seen: dict[str, Tensor] = {}
    hook = network.attention.register_forward_pre_hook(lambda _, given: seen.update(last=given[0]))
    weights = network.forward_from(x, batch).attention
    hook.remove()

    def blanked(blank: Tensor, gone: NDArray[np.int64]) -> float:
        changed = x.clone()
        changed[gone] = blank
        return float(network.forward_from(changed, batch).values)

    def atom(gone: NDArray[np.int64]) -> float:
        return float(network(collate([_without(graph, gone)])).values)

    def readout(gone: NDArray[np.int64]) -> float:
        left = weights.clone()
        left[gone] = 0
        vector = (left / left.sum()) @ seen["last"]
        return float(network.head(vector)[0])

    return *(partial(blanked, blank) for blank in blanks), atom, readout


def _without(graph: CrystalGraph, gone: NDArray[np.int64]) -> CrystalGraph:
    kept = np.ones(graph.n_nodes, dtype=bool)
    kept[gone] = False
    place, edges = np.cumsum(kept) - 1, kept[graph.receivers] & kept[graph.senders]
    return replace(
        graph,
        atomic_numbers=graph.atomic_numbers[kept],
        senders=place[graph.senders[edges]].astype(np.int32),
        degrees=np.bincount(place[graph.receivers[edges]], minlength=kept.sum()).astype(np.int32),
        distances=graph.distances[edges],
        multiplicities=graph.multiplicities[kept],
        counts=graph.counts[edges],
        node_of_atom=np.arange(kept.sum(), dtype=np.int32),
        angular_features=graph.angular_features[kept],
    )


def integrated_gradients(network: CrystalModel, graphs: Sequence[CrystalGraph]) -> tuple[float, float]:
    """Spearman correlation of attention and |integrated gradient| over the atoms of each crystal, mean and median.

    Crystals of which all atoms are equal have none and are left out.
    """
    (blank, _), found = _blank_embeddings(network, graphs), list[float]()
    for graph in graphs:
        batch = collate([graph])
        with torch.no_grad():
            x, weights = network.embed(batch), network(batch).attention.numpy()
        total = torch.zeros_like(x)
        for step in range(STEPS):
            at = (blank + (step + 0.5) / STEPS * (x - blank)).requires_grad_()
            [gradient] = torch.autograd.grad(network.forward_from(at, batch).values.sum(), at)
            total += gradient / STEPS
        attribution = (total * (x - blank)).sum(dim=-1).abs().numpy()
        if np.ptp(weights.round(5)) > 0 and np.ptp(attribution.round(6)) > 0:
            found.append(float(spearmanr(weights.round(5), attribution.round(6)).statistic))
    return round(float(np.mean(found)), 3), round(float(np.median(found)), 3)


@torch.no_grad()
def _blank_embeddings(network: CrystalModel, graphs: Sequence[CrystalGraph]) -> tuple[Tensor, Tensor]:
    """Return the mean embedding over elements and over atoms."""
    embedded = torch.cat([network.embed(collate([graph])) for graph in graphs])
    elements = np.concatenate([graph.atomic_numbers for graph in graphs])
    of_elements = [embedded[torch.from_numpy(elements == number)].mean(dim=0) for number in np.unique(elements)]
    return torch.stack(of_elements).mean(dim=0), embedded.mean(dim=0)


def main() -> None:
    """Measure every shipped model in production."""
    quick = arguments(__doc__).quick
    store = ModelStore()
    report: dict[str, object] = {"shares": SHARES}
    for name in store.names():
        predictor = Predictor.load(store.folder(name))
        dataset, graphs = unmerged(predictor.manifest, 20 if quick else CRYSTALS)
        network = predictor.networks[0]
        curves = deletion(network, graphs, seed=0)
        mean, median = integrated_gradients(network, graphs)
        gain = {
            way: round(float(np.mean(orders["largest first"][:4]) / np.mean(orders["random"][:4])), 3)
            for way, orders in curves.items()
        }
        report[f"{name}@{predictor.manifest.version}"] = {
            "data": dataset,
            "crystals": len(graphs),
            **curves,
            "largest_over_random": gain,
            "integrated_gradients_spearman_mean": mean,
            "integrated_gradients_spearman_median": median,
        }
        print(name, json.dumps(report[f"{name}@{predictor.manifest.version}"]), flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
