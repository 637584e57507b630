"""Search for options of the loop and the network by the validation error, without the test part."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
import yaml

from deepergatgnn.checkpoints.files import digest
from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.config.sweep import Choices, Range, SweepConfig, with_parameters
from deepergatgnn.training.data.run_data import RunData, assemble_run_data
from deepergatgnn.training.experiments.run import train_members
from deepergatgnn.training.files import locked, write_whole
from deepergatgnn.training.fit.checkpoint import TrainingError
from deepergatgnn.training.fit.ensemble_member import Track
from deepergatgnn.training.fit.loop import Epoch

BEST, STORAGE, RESULT = "best.yaml", "sweep.db", "sweep.json"
FINISHED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
CONTINUES = "continues"


@dataclass(frozen=True)
class Trial:
    """Finished trial; `error` is its lowest validation error, in standard deviations of the targets."""

    number: int
    parameters: dict[str, Any]
    error: float | None
    pruned: bool


def sweep(
    config: SweepConfig,
    base: Mapping[str, Any],
    store: ModelStore,
    runs: Path,
    *,
    device: torch.device,
    report: Callable[[Epoch], None],
    finished: Callable[[Trial], None] = lambda _: None,
    track: Track = lambda batches, _epoch, _total: batches,
) -> dict[str, Any]:
    """Run trials until there are `trials` of them; an interrupted search is resumed.

    A tree-structured Parzen estimator proposes the parameters (Bergstra et al., NeurIPS 24, 2546 (2011)). Each trial
    trains one network, even if the base has several members. `runs/NAME/sweep.db` (SQLite) holds the trials,
    `best.yaml` the best configuration and `sweep.json` the results.

    Args:
        config: configuration of the search.
        base: document of the base run.
        store: store of the version that `start` of the base names.
        runs: folder of run states.
        device: device of the training.
        report: called after every epoch.
        finished: called after every trial.
        track: wraps the batches of an epoch, for a progress bar.

    Returns:
        The content of `sweep.json`.

    Raises:
        ConfigError: if the folder holds another search, or the data do not fit.
        TrainingError: if no trial had a finite validation error, or a state cannot be written.
    """
    training = TrainingConfig.model_validate(base)
    name = config.name or f"{training.name}-sweep"
    folder = runs / name
    with locked(folder):
        run_data = assemble_run_data(training)
        study = _open_study(config, training, run_data, folder)
        while (number := len(study.get_trials(states=FINISHED))) < config.trials:
            # One sampler for each trial, so that a resumed search proposes the same parameters as an undisturbed one.
            study.sampler = optuna.samplers.TPESampler(seed=config.seed * 1_000_003 + number)
            trial = _next_trial(study)
            parameters = {place: _suggest(trial, place, values) for place, values in config.parameters.items()}
            trial.set_user_attr("parameters", parameters)
            document = with_parameters(base, parameters)
            error = _try(trial, document, run_data, store, folder, device, report, track)
            finished(Trial(number, parameters, error, error is None))
        return _conclude(study, base, name, folder)


def _open_study(config: SweepConfig, training: TrainingConfig, run_data: RunData, folder: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if config.pruner == "median":
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=config.warmup)
    study = optuna.create_study(
        study_name="sweep", storage=f"sqlite:///{folder / STORAGE}", pruner=pruner, load_if_exists=True
    )
    options = config.model_dump(mode="json", exclude={"base", "name", "trials"})
    fingerprint = digest(json.dumps([options, run_data.fingerprint(training, 0)], sort_keys=True).encode())
    if study.user_attrs.get("fingerprint", fingerprint) != fingerprint:
        raise ConfigError(f"{folder} holds a search of other parameters, base or data: give this one another name")
    study.set_user_attr("fingerprint", fingerprint)
    return study


def _next_trial(study: optuna.Study) -> optuna.Trial:
    """Start a new trial, or repeat an interrupted one with its parameters and reported errors."""
    unfinished = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    for old in unfinished:
        study.enqueue_trial(old.params, user_attrs={CONTINUES: old.number})
        study.tell(old.number, state=optuna.trial.TrialState.FAIL)
    trial = study.ask()
    if (before := trial.user_attrs.get(CONTINUES)) is not None:
        for epoch, error in study.trials[before].intermediate_values.items():
            trial.report(error, epoch)
    return trial


def _suggest(trial: optuna.Trial, place: str, values: Range | Choices) -> Any:
    if isinstance(values, Choices):
        return trial.suggest_categorical(place, values.choices)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return trial.suggest_int(place, values.low, values.high, log=values.log)
    return trial.suggest_float(place, values.low, values.high, log=values.log)


def _try(
    trial: optuna.Trial,
    document: Mapping[str, Any],
    run_data: RunData,
    store: ModelStore,
    folder: Path,
    device: torch.device,
    report: Callable[[Epoch], None],
    track: Track,
) -> float | None:
    """Train one network; return its lowest validation error, or None if it was pruned."""
    study = trial.study
    # The name derives from the parameters, so that a repeated trial finds its state under another number.
    name = f"trial-{digest(json.dumps(trial.params, sort_keys=True).encode())[:12]}"
    config = TrainingConfig.model_validate({**document, "name": name, "members": 1})

    def report_to_study(epoch: Epoch) -> None:
        trial.report(epoch.validation_mae, epoch.number)
        report(epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        [(_, progress)] = train_members(
            config, run_data, store, folder, device=device, report=report_to_study, track=track
        )
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return None
    except TrainingError as error:
        if isinstance(error.__context__, OSError):  # an error of the disk, not of the parameters
            raise
        trial.set_user_attr("failed", str(error))
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return None
    study.tell(trial, progress.best_error)
    return progress.best_error


def _conclude(study: optuna.Study, base: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if not complete:
        raise TrainingError("no trial finished: lower the learning rates of the sweep")
    best = min(complete, key=lambda trial: (trial.value, trial.number))
    document = with_parameters(base, best.params) | {"name": f"{name}-best"}
    write_whole(folder / BEST, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
    result = {
        "name": name,
        "best": {"parameters": best.params, "validation_mae_sd": best.value, "config": str(folder / BEST)},
        "trials": [
            {"parameters": trial.params, "validation_mae_sd": trial.value, "pruned": trial.value is None}
            for trial in study.get_trials(states=FINISHED)
        ],
    }
    write_whole(folder / RESULT, json.dumps(result, indent=2).encode() + b"\n")
    return result
