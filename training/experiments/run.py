"""Training run: data → split → training → calibration → test → published versions."""

from collections.abc import Callable
from pathlib import Path

import torch

from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.model_store import ModelStore
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.predictor import Predictor
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.run_data import RunData, assemble_run_data
from deepergatgnn.training.evaluation.predictions import predictions_file, write_predictions
from deepergatgnn.training.experiments.fold_results import cross_validated_figures
from deepergatgnn.training.experiments.portable_run import chosen
from deepergatgnn.training.experiments.tasks import load_run, training_task
from deepergatgnn.training.files import require_writable
from deepergatgnn.training.fit.checkpoint import Progress, check_state
from deepergatgnn.training.fit.distributed import rank
from deepergatgnn.training.fit.ensemble_member import Track, member_folder, train_member
from deepergatgnn.training.fit.loop import Epoch
from deepergatgnn.training.fit.start import differences, start_record, write_record
from deepergatgnn.training.publication.publish import publish, published_before, score_test_part

Announce = Callable[[TrainingConfig, RunData], None]


def run(
    config: TrainingConfig,
    store: ModelStore,
    runs: Path,
    *,
    device: torch.device,
    report: Callable[[Epoch], None],
    track: Track = lambda batches, _epoch, _total: batches,
    announce: Announce = lambda _config, _run_data: None,
    plots: bool = True,
    prepared: Path | None = None,
    member: int | None = None,
) -> list[Manifest]:
    """Train every member, publish a version for each target, and write its predictions of the test part.

    The predictions are in `runs/NAME/predictions.csv`, or `predictions-MODEL.csv` for each of several targets.

    Args:
        config: configuration of the run.
        store: store of the published versions.
        runs: folder of run states; an interrupted run of the same name, configuration and data is resumed.
        device: device of the training.
        report: called after every epoch.
        track: wraps the batches of an epoch, for a progress bar.
        announce: called before training with the configuration and its data.
        plots: draw the images of the cards.
        prepared: folder that `tasks.save_run` wrote for this configuration, instead of the data.
        member: train only this member, counted from 1, and publish nothing.

    Returns:
        The manifests in the order of the targets; that of an earlier version if it has the same configuration, data
        and weights. Empty in the other processes of a distributed run, and with `member`.

    Raises:
        ConfigError: if a part of the data has no number for a target.
        TrainingError: if the loss is not finite.
    """
    require_writable(runs, "the folder of runs")
    if member is None:
        require_writable(store.root, "the store")
    run_data = assemble_run_data(config) if prepared is None else load_run(config, prepared)
    announce(config, run_data)
    trained = train_members(config, run_data, store, runs, device=device, report=report, track=track, member=member)
    if rank() or member is not None:
        return []
    networks, progress = [network for network, _ in trained], [where for _, where in trained]
    found = cross_validated_figures(config, run_data.dataset.sha256, runs / config.name)
    start = start_record(config, run_data, store)
    manifests = []
    for index, figures in enumerate(found):
        file = predictions_file(runs / config.name, config.targets[index].model, len(config.targets))
        manifest = published_before(config, run_data, networks, index, store, figures)
        if manifest is None:
            version = publish(
                config,
                run_data,
                networks,
                progress,
                index,
                store,
                device,
                plots=plots,
                cross_validation=figures,
                start=start,
            )
            manifest, rows, scored = version.manifest, version.rows, version.scored
        else:
            rows, scored = score_test_part(
                config, run_data, index, Predictor.load(store.folder(manifest.reference), device)
            )
        write_predictions(file, [run_data.dataset.ids[row] for row in rows], scored)
        manifests.append(manifest)
    return manifests


def train_members(
    config: TrainingConfig,
    run_data: RunData,
    store: ModelStore,
    runs: Path,
    *,
    device: torch.device,
    report: Callable[[Epoch], None],
    track: Track = lambda batches, _epoch, _total: batches,
    member: int | None = None,
) -> list[tuple[CrystalModel, Progress]]:
    """Train the networks of the ensemble, or take up their states; or only one, `member`, counted from 1.

    Raises:
        ConfigError: if the member does not exist, `config.start` does not fit, or the states are of another run.
        TrainingError: as `train_member`.
    """
    task = training_task(config, run_data, store)
    folder = runs / config.name
    for each in chosen(task, member):
        place = member_folder(runs, config.name, each)
        check_state(place, task.fingerprints[each], differences(folder, config, run_data))
    if rank() == 0:
        write_record(folder, config, run_data)
    return [train_member(task, each, runs, device=device, report=report, track=track) for each in chosen(task, member)]
