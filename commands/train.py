"""`train`."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepergatgnn.commands.options import DeviceOption, JsonOption, StoreOption, device_named, open_store
from deepergatgnn.commands.rows import show_rows, show_split
from deepergatgnn.errors import DeeperGATGNNError, ModelNotFoundError
from deepergatgnn.model_store import ModelStore

if TYPE_CHECKING:
    from deepergatgnn.checkpoints.manifest import Manifest
    from deepergatgnn.training.config.run import TrainingConfig
    from deepergatgnn.training.data.run_data import RunData

INTERRUPTED = 130


def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.", metavar="CONFIG.yaml")],
    store: StoreOption = None,
    runs: Annotated[Path, typer.Option(help="Folder of run states; an interrupted run is resumed.")] = Path("runs"),
    device: DeviceOption = "auto",
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder that `datasets prepare` wrote, instead of the data; a bare machine trains from it with "
            "`python -m deepergatgnn.training FOLDER`.",
            metavar="FOLDER",
        ),
    ] = None,
    member: Annotated[
        int | None, typer.Option(help="Train only this member of the ensemble, counted from 1, and publish nothing.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train, calibrate, evaluate and publish a version into the store; RUNS/NAME holds the test predictions.

    Example: deepergatgnn train training/recipes/example.yaml

    The same command resumes an interrupted run after its last finished epoch.

    The members of an ensemble may be trained in parallel, each with its own `--member K`, also on different machines;
    the command without `--member` then publishes them.

    On several GPUs or CPUs of one machine, with the same result up to rounding (and dropout, which each process draws
    independently):

    torchrun --nproc-per-node 2 --no-python deepergatgnn train CONFIG.yaml
    """
    from tqdm import tqdm

    from deepergatgnn.training.config.run import read_config
    from deepergatgnn.training.experiments.portable_run import report_epoch
    from deepergatgnn.training.experiments.run import run
    from deepergatgnn.training.fit.batches import Batches
    from deepergatgnn.training.fit.distributed import joined, speaks

    parsed = read_config(config)
    quiet = as_json or not sys.stderr.isatty() or not speaks()

    def track(batches: Batches, epoch: int, total: int) -> Batches:
        label = f"epoch {epoch + 1}/{parsed.optimization.epochs}"
        return tqdm(batches, label, total, leave=False, disable=quiet)

    def announce(parsed: "TrainingConfig", run_data: "RunData") -> None:
        if speaks():
            show_rows(parsed, run_data)
            show_split(run_data)

    opened = open_store(store, new=True)
    before = {f"{name}@{version}" for name in opened.names() for version in opened.versions(name)}
    with _interruptible(), joined(device_named(device)) as place:
        manifests = run(
            parsed,
            opened,
            runs,
            device=place,
            report=report_epoch,
            track=track,
            announce=announce,
            prepared=cache,
            member=member,
        )
    if not speaks():
        return
    known = [_in_production(opened, manifest.name) for manifest in manifests]
    if as_json:
        documents = [
            {
                "model": manifest.name,
                "version": manifest.version,
                "published": manifest.reference not in before,
                "production": production,
                "metrics": manifest.metrics,
            }
            for manifest, production in zip(manifests, known, strict=True)
        ]
        print(json.dumps(documents))
        return
    for manifest, production in zip(manifests, known, strict=True):
        if manifest.reference in before:
            print(f"already published as {manifest.reference}: the same configuration, data and weights")
        test = manifest.metrics["test"]
        if manifest.target.classes:
            area = f", ROC AUC {test['roc_auc']:.4f}" if "roc_auc" in test else ""
            print(
                f"{manifest.reference}: test accuracy {test['accuracy']:.4f}{area} on {test['n']:.0f} crystals, "
                f"{test['baseline_accuracy']:.4f} by the most frequent of {len(manifest.target.classes)} classes"
            )
        else:
            _print_errors(manifest)
        if production != manifest.version:
            option = f" --store {shlex.quote(str(store))}" if store else ""
            print(
                f"{manifest.name}: in production {f'stays {production}' if production else 'is no version'}; to serve "
                f"this one: deepergatgnn models promote {manifest.reference}{option}"
            )


def _print_errors(manifest: "Manifest") -> None:
    test, reason = manifest.metrics["test"], manifest.calibration.shortfall()
    covers = f"no 90 % interval: {reason}" if reason else f"90 % interval covers {test['coverage_90']:.1%}"
    print(
        f"{manifest.reference}: test MAE {test['mae']:.4f} {manifest.target.unit} on {test['n']:.0f} crystals, {covers}"
    )


def _in_production(store: ModelStore, name: str) -> str | None:
    """Return the version in production, or None."""
    try:
        return store.production(name)
    except ModelNotFoundError:
        return None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Exit with one line after Ctrl-C; of several processes only the first prints errors."""
    from deepergatgnn.training.fit.distributed import speaks

    try:
        yield
    except KeyboardInterrupt:
        if speaks():
            from tqdm import tqdm  # clears its bar first

            tqdm.write("deepergatgnn: interrupted; the same command resumes after the last finished epoch", sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except DeeperGATGNNError:
        if speaks():
            raise
        raise typer.Exit(1) from None
