"""`cross-validate` and `sweep`."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepergatgnn.commands.evaluation import print_table
from deepergatgnn.commands.options import DeviceOption, JsonOption, StoreOption, device_named, open_store
from deepergatgnn.commands.rows import show_rows, show_split

if TYPE_CHECKING:
    from deepergatgnn.training.config.run import TrainingConfig
    from deepergatgnn.training.data.run_data import RunData
    from deepergatgnn.training.fit.ensemble_member import Track
    from deepergatgnn.training.fit.loop import Epoch

RunsOption = Annotated[Path, typer.Option(help="Folder of run states; the same command resumes an interrupted run.")]
OF_CLASSES = {"accuracy": "accuracy", "roc_auc": "ROC AUC", "log_loss": "log loss", "brier": "Brier score"}
FIGURES = {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "coverage_90": "90 % interval covers"}


def cross_validate(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.", metavar="CONFIG.yaml")],
    store: StoreOption = None,
    runs: RunsOption = Path("runs"),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train every fold, or every seed, with its own calibration: mean ± standard deviation of the errors.

    The folds are the official ones if `split` names their column, random splits if it has `seeds`, else `folds` (5).
    RUNS/NAME holds the results and the predictions of all rows; nothing is published.

    Example: deepergatgnn cross-validate training/recipes/example.yaml
    """
    from deepergatgnn.training.config.run import read_config
    from deepergatgnn.training.experiments.cross_validation import cross_validate as validate
    from deepergatgnn.training.fit.distributed import joined

    parsed = read_config(config)

    announced = False

    def announce(fold: "TrainingConfig", run_data: "RunData") -> None:
        nonlocal announced
        if not announced:
            show_rows(fold, run_data)
        announced = True
        show_split(run_data, fold.name)

    with joined(device_named(device)) as place:
        summary = validate(
            parsed,
            open_store(store, new=True),
            runs,
            device=place,
            report=_report,
            announce=announce,
            track=_tracking(parsed.optimization.epochs, quiet=as_json),
        )
    if not summary:
        return
    if as_json:
        print(json.dumps(summary))
        return
    for target in summary["targets"]:
        print(f"{target['model']}: {target['key']} in {target['unit']}, {summary['dataset']}")
        of_classes = "accuracy" in target["mean"]
        shown = OF_CLASSES if of_classes else FIGURES
        folds = [[row["fold"], f"{row['n']:.0f}", *(_figure(row, key) for key in shown)] for row in target["folds"]]
        ends = [[end, "", *(_figure(target[end], key) for key in shown)] for end in ("mean", "std")]
        print_table([["", "rows", *shown.values()], *folds, *ends])
        main, unit = next(iter(shown)), "" if of_classes else f" {target['unit']}"
        mean, std = _figure(target["mean"], main), _figure(target["std"], main)
        print(f"{shown[main]} {mean} ± {std}{unit} (standard deviation over {summary['folds']} trainings)")
    print(f"records: {runs / parsed.name}")


def sweep(
    config: Annotated[Path, typer.Argument(help="YAML file of the search.", metavar="SWEEP.yaml")],
    store: StoreOption = None,
    runs: RunsOption = Path("runs"),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Search for the options with the lowest validation error; write the best as a configuration for `train`.

    Example: deepergatgnn sweep training/recipes/sweeps/example.yaml
    """
    from deepergatgnn.training.config.sweep import read_sweep
    from deepergatgnn.training.experiments.sweep import Trial
    from deepergatgnn.training.experiments.sweep import sweep as search

    parsed, base = read_sweep(config)

    of_numbers = all(target.get("kind", "regression") == "regression" for target in base["targets"])
    measure, unit = ("validation MAE", "sd") if of_numbers else ("validation error", "")

    def finished(trial: Trial) -> None:
        error = "stopped early" if trial.error is None else f"{measure} {trial.error:.4f} {unit}".rstrip()
        parameters = ", ".join(f"{place} {value}" for place, value in trial.parameters.items())
        print(f"trial {trial.number + 1}/{parsed.trials}: {error}; {parameters}", file=sys.stderr, flush=True)

    result = search(
        parsed,
        base,
        open_store(store, new=True),
        runs,
        device=device_named(device),
        report=_report,
        finished=finished,
        track=_tracking(None, quiet=as_json),
    )
    if as_json:
        print(json.dumps(result))
        return
    best = result["best"]
    order = sorted(result["trials"], key=lambda trial: trial["validation_mae_sd"] or float("inf"))
    rows = [[_figure(trial, "validation_mae_sd"), *map(str, trial["parameters"].values())] for trial in order]
    print_table([[f"{measure}, {unit}".rstrip(", "), *best["parameters"]], *rows])
    print(f"best: deepergatgnn train {best['config']}")


def _report(epoch: "Epoch") -> None:
    print(
        f"epoch {epoch.number}: loss {epoch.train_loss:.4f}, validation {epoch.validation}"
        f"{' (best)' if epoch.best else ''}, {epoch.seconds:.1f} s",
        file=sys.stderr,
        flush=True,
    )


def _tracking(epochs: int | None, *, quiet: bool) -> "Track":
    """Progress bar for the batches of an epoch, on a terminal only."""
    from tqdm import tqdm

    from deepergatgnn.training.fit.batches import Batches

    quiet = quiet or not sys.stderr.isatty() or os.environ.get("LOCAL_RANK", "0") != "0"

    def track(batches: Batches, epoch: int, total: int) -> Batches:
        label = f"epoch {epoch + 1}" + (f"/{epochs}" if epochs else "")
        return tqdm(batches, label, total, leave=False, disable=quiet)

    return track


def _figure(figures: dict[str, Any], name: str) -> str:
    value = figures.get(name)
    if value is None:
        return "-"
    return f"{value:.1%}" if name.startswith("coverage") else f"{value:.4f}"
