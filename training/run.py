"""A whole run: data → split → training → calibration → test → published versions."""

import json
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepergatgnn.artifact import CARD, MANIFEST, WEIGHTS, digest
from deepergatgnn.errors import ConfigError
from deepergatgnn.graph import CrystalGraph
from deepergatgnn.manifest import Calibration, Golden, Manifest, Provenance, Scaler, Target
from deepergatgnn.network import DeeperGATGNN
from deepergatgnn.predictor import Predictor
from deepergatgnn.weights import pack_weights
from model_store import ModelStore
from training.card import render_card
from training.config import TargetConfig, TrainingConfig
from training.datasets import Dataset, build_graphs, read_dataset
from training.domain import fit_domain
from training.evaluation import LEVELS, conformal_half_width, errors, summarise
from training.loop import Batches, Epoch, Examples, outputs, train
from training.splits import Split, shared_formulas, split_rows
from training.state import Progress

GOLDEN_CRYSTALS = 3
PACKAGES = ("deepergatgnn", "torch", "torch-geometric", "pymatgen-core", "numpy")


@dataclass(frozen=True, eq=False)
class _Run:
    """What every published version of one run shares."""

    config: TrainingConfig
    dataset: Dataset
    graphs: Sequence[CrystalGraph]
    targets: NDArray[np.float64]
    split: Split
    network: DeeperGATGNN
    progress: Progress
    device: torch.device


def run(
    config: TrainingConfig,
    store: ModelStore,
    runs: Path,
    *,
    device: torch.device,
    report: Callable[[Epoch], None],
    track: Callable[[Batches, int, int], Batches] = lambda batches, _epoch, _total: batches,
) -> list[Manifest]:
    """Train one network and publish a version for each of its targets.

    Args:
        config: the whole run.
        store: where the versions go.
        runs: folder of run states; an interrupted run of the same name, configuration and data goes on.
        device: where to compute.
        report: called after every epoch.
        track: wraps the batches of an epoch, for a progress bar.

    Returns:
        The manifests, in the order of the targets.

    Raises:
        ConfigError: if a part of the data has no number for a target.
        TrainingError: if the loss is not finite.
    """
    dataset, graphs = build_graphs(read_dataset(config.data), config.graph)
    targets = dataset.values([target.key for target in config.targets])
    split = split_rows(dataset, config.split, config.seed)
    _check_targets(config, dataset, targets, split)
    mean, std = np.nanmean(targets[split.train], axis=0), np.nanstd(targets[split.train], axis=0)
    scaled = ((targets - mean) / std).astype(np.float32)
    torch.manual_seed(config.seed)
    network = DeeperGATGNN(config.network, config.graph)
    fingerprint = digest(json.dumps([config.model_dump(mode="json"), dataset.sha256], sort_keys=True).encode())
    progress = train(
        network,
        _examples(graphs, scaled, split.train),
        _examples(graphs, scaled, split.validation),
        config.optimization,
        [target.weight for target in config.targets],
        seed=config.seed,
        device=device,
        folder=runs / config.name,
        fingerprint=fingerprint,
        report=report,
        track=track,
    )
    whole = _Run(config, dataset, graphs, targets, split, network, progress, device)
    return [
        _publish(whole, index, target, Scaler(mean=float(mean[index]), std=float(std[index])), store)
        for index, target in enumerate(config.targets)
    ]


def _check_targets(config: TrainingConfig, dataset: Dataset, targets: NDArray[np.float64], split: Split) -> None:
    """Refuse a target that a part knows nothing of: better now than after the training."""
    for target, column in zip(config.targets, targets.T, strict=True):
        if empty := [part for part in split.sizes() if not np.isfinite(column[getattr(split, part)]).any()]:
            raise ConfigError(f"no number for target {target.key!r} of {dataset.name} in part {', '.join(empty)}")
        if np.nanstd(column[split.train]) == 0:
            raise ConfigError(f"target {target.key!r} of {dataset.name} is the same in the whole training part")


def _examples(graphs: Sequence[CrystalGraph], targets: NDArray[np.float32], rows: NDArray[np.int64]) -> Examples:
    return Examples([graphs[row] for row in rows], targets[rows])


def single_target(network: DeeperGATGNN, index: int) -> DeeperGATGNN:
    """The same network with one output: the head's row of one target."""
    single = DeeperGATGNN(network.config.model_copy(update={"targets": 1}), network.graph)
    state = {key: value.cpu().clone() for key, value in network.state_dict().items()}
    state |= {key: state[key][index : index + 1] for key in ("head.weight", "head.bias")}
    single.load_state_dict(state)
    return single.eval()


def _publish(whole: _Run, index: int, target: TargetConfig, scaler: Scaler, store: ModelStore) -> Manifest:
    network = single_target(whole.network, index).to(whole.device)
    true = whole.targets[:, index]

    def part(rows: NDArray[np.int64]) -> tuple[list[CrystalGraph], NDArray[np.float64]]:
        known = rows[np.isfinite(true[rows])]
        return [whole.graphs[row] for row in known], true[known]

    def values(graphs: Sequence[CrystalGraph]) -> NDArray[np.float64]:
        return outputs(network, graphs, whole.device)[0][:, 0].double().numpy() * scaler.std + scaler.mean

    graphs, truth = part(whole.split.calibration)
    residuals = values(graphs) - truth
    calibration = Calibration(
        n=len(truth), half_widths={str(level): conformal_half_width(residuals, level) for level in LEVELS}
    )
    domain, arrays = fit_domain(
        part(whole.split.train)[0], graphs, lambda some: outputs(network, some, whole.device)[1]
    )
    validation_graphs, validation_truth = part(whole.split.validation)
    manifest = Manifest(
        name=target.model,
        version=whole.config.version or store.next_version(target.model),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        network=network.config,
        graph=network.graph,
        target=Target(
            property=target.property or target.key, key=target.key, unit=target.unit, description=target.description
        ),
        scaler=scaler,
        calibration=calibration,
        domain=domain,
        metrics={"validation": errors(values(validation_graphs), validation_truth)},
        golden=_golden(whole, values),
        provenance=_provenance(whole),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        files={},
    )
    # The only place that touches the test part, after all choices are made.
    test_graphs, test_truth = part(whole.split.test)
    predictions = Predictor(manifest, network, arrays, whole.device).predict_graphs(test_graphs)
    test = {key: value for key, value in summarise(predictions, test_truth).items() if np.isfinite(value)}
    manifest = manifest.model_copy(update={"metrics": manifest.metrics | {"test": test}})
    weights, card = pack_weights(network, arrays), render_card(manifest).encode()
    manifest = manifest.model_copy(update={"files": {WEIGHTS: digest(weights), CARD: digest(card)}})
    document = manifest.model_dump_json(indent=2).encode() + b"\n"
    store.publish(manifest.name, manifest.version, {MANIFEST: document, WEIGHTS: weights, CARD: card})
    return manifest


def _golden(whole: _Run, values: Callable[[Sequence[CrystalGraph]], NDArray[np.float64]]) -> tuple[Golden, ...]:
    """The smallest crystals of the validation part, with the values just computed."""
    rows = sorted(whole.split.validation, key=lambda row: (whole.graphs[row].n_atoms, row))[:GOLDEN_CRYSTALS]
    crystals = [whole.dataset.rows[row].crystal for row in rows]
    return tuple(
        Golden(
            lattice=tuple(map(tuple, crystal.lattice.tolist())),
            species=crystal.symbols,
            frac_coords=tuple(map(tuple, crystal.frac_coords.tolist())),
            value=float(value),
        )
        for crystal, value in zip(crystals, values([whole.graphs[row] for row in rows]), strict=True)
    )


def _provenance(whole: _Run) -> Provenance:
    config = whole.config
    refused: dict[str, int] = {}
    for refusal in whole.dataset.refused:
        refused[refusal.code] = refused.get(refusal.code, 0) + 1
    unused = {"test_fraction"} if config.split.test_field else set()
    split: dict[str, Any] = config.split.model_dump(mode="json", exclude=unused, exclude_none=True)
    split["formulas_shared_by_train_and_test"] = shared_formulas(whole.dataset, whole.split)
    device = torch.cuda.get_device_name(whole.device) if whole.device.type == "cuda" else platform.machine()
    return Provenance(
        dataset=whole.dataset.name,
        dataset_sha256=whole.dataset.sha256,
        source=config.source,
        licence=config.licence,
        split=split,
        rows=whole.split.sizes(),
        refused=refused,
        seed=config.seed,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        config=config.model_dump(mode="json"),
        epochs=whole.progress.epoch,
        best_epoch=whole.progress.best_epoch,
        seconds=round(whole.progress.seconds, 1),
        hardware=f"{device}, {torch.get_num_threads()} threads",
        packages={name: installed_version(name) for name in PACKAGES},
    )
