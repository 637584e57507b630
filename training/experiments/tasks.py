"""Training tasks of a run, from its configuration and data, or from a prepared folder."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from deepergatgnn.checkpoints.manifest import Scaler
from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.data.classes import target_values
from deepergatgnn.training.data.run_data import RunData, known_truth
from deepergatgnn.training.data.splits import PARTS, Split
from deepergatgnn.training.experiments.portable_run import TASK, PortableRun, read_run, write_run
from deepergatgnn.training.fit.ensemble_member import TrainingTask
from deepergatgnn.training.fit.start import starting_weights


def training_task(config: TrainingConfig, assembly: RunData, store: ModelStore) -> TrainingTask:
    """Everything that determines the weights of the members.

    Args:
        config: of the run.
        assembly: its data.
        store: where the version is that `config.start` names, if it names one.

    Raises:
        ConfigError: if that version, or that run, has another network or featuriser.
    """
    return TrainingTask(
        name=config.name,
        network=assembly.network(config),
        graph=config.graph,
        optimization=config.optimization,
        weights=tuple(target.weight for target in config.targets),
        seed=config.seed,
        fingerprints=tuple(assembly.fingerprint(config, member) for member in range(config.members)),
        starts=starting_weights(config, store, assembly.network(config)),
        outputs=assembly.outputs,
        training=assembly.examples(assembly.split.train),
        validation=assembly.examples(assembly.split.validation),
        folds=tuple(tuple(np.searchsorted(assembly.split.train, fold).tolist()) for fold in assembly.folds),
    )


def save_run(config: TrainingConfig, assembly: RunData, store: ModelStore, folder: Path) -> None:
    """Write a folder to train from, whole or not at all; one written before is replaced.

    Raises:
        ConfigError: if the folder holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / TASK).exists())):
        raise ConfigError(f"{folder} is neither empty nor a prepared folder: name a new folder")
    task = training_task(config, assembly, store)
    parts = {part: getattr(assembly.split, part) for part in PARTS}
    record = {
        "scalers": [scaler.model_dump() for scaler in assembly.scalers],
        "notes": assembly.notes,
        "folds": [fold.tolist() for fold in assembly.folds],
        "classes": assembly.classes,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(".part", f".{folder.name}.", folder.parent))
    try:
        write_run(temporary, PortableRun(task, assembly.dataset, parts, assembly.scaled, record))
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(temporary, folder)  # noqa: PTH104
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_run(config: TrainingConfig, folder: Path) -> RunData:
    """The data of a run from a folder that was prepared for it.

    Raises:
        ConfigError: if the folder is damaged, or of another configuration.
    """
    found = read_run(folder)
    classes = tuple(tuple(each) for each in found.record.get("classes", [[] for _ in config.targets]))
    assembly = RunData(
        dataset=found.dataset,
        split=Split(**found.parts),
        truth=known_truth(target_values(found.dataset, config.targets), found.scaled, classes),
        scalers=tuple(Scaler(**scaler) for scaler in found.record["scalers"]),
        scaled=found.scaled,
        notes=found.record["notes"],
        folds=tuple(np.array(fold, dtype=np.int64) for fold in found.record["folds"]),
        classes=classes,
    )
    if found.task.fingerprints[0] != assembly.fingerprint(config, 0):
        raise ConfigError(f"{folder} was prepared for another configuration: prepare it again for this one")
    return assembly
