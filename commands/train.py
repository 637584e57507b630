"""`train`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from commands.options import DeviceOption, JsonOption, StoreOption, device_named, open_store
from deepergatgnn.errors import DeeperGATGNNError

INTERRUPTED = 130


def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.", metavar="CONFIG.yaml")],
    store: StoreOption = None,
    runs: Annotated[Path, typer.Option(help="Folder of run states; an interrupted run goes on.")] = Path("runs"),
    device: DeviceOption = "auto",
    cache: Annotated[
        Path | None,
        typer.Option(
            help="What `datasets prepare` wrote, instead of the data; a bare machine trains from it with "
            "`python -m training.cached FOLDER`.",
            metavar="FOLDER",
        ),
    ] = None,
    member: Annotated[
        int | None, typer.Option(help="Train this network of the ensemble only, from 1, and publish nothing.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train, calibrate, evaluate and publish a version into the store.

    Example: deepergatgnn train training/recipes/example.yaml

    A run that was interrupted, in whatever way, goes on from its last finished epoch when the same command is given.

    The members of an ensemble may be trained at once, each by `--member K` of its own and wherever there is room; the
    command without it then publishes them.

    On several GPUs or CPUs of one machine, with the same result up to rounding (and dropout, which each process draws
    for itself):

    torchrun --nproc-per-node 2 --no-python deepergatgnn train CONFIG.yaml
    """
    from tqdm import tqdm

    from training.batches import Batches
    from training.cached import report_epoch
    from training.config import read_config
    from training.distributed import joined, speaks
    from training.run import run
    from training.splits import split_sentence

    parsed = read_config(config)
    quiet = as_json or not sys.stderr.isatty() or not speaks()

    def track(batches: Batches, epoch: int, total: int) -> Batches:
        label = f"epoch {epoch + 1}/{parsed.optimization.epochs}"
        return tqdm(batches, label, total, leave=False, disable=quiet)

    def announce(_: str, sizes: dict[str, int], notes: dict[str, Any]) -> None:
        if speaks():
            print(split_sentence(sizes, notes), file=sys.stderr, flush=True)

    with _interruptible(), joined(device_named(device)) as place:
        manifests = run(
            parsed,
            open_store(store, new=True),
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
    if as_json:
        print(json.dumps([{"model": m.name, "version": m.version, "metrics": m.metrics} for m in manifests]))
        return
    for manifest in manifests:
        test = manifest.metrics["test"]
        print(
            f"{manifest.name}@{manifest.version}: test MAE {test['mae']:.4f} {manifest.target.unit} "
            f"on {test['n']:.0f} crystals, 90 % interval covers {test['coverage_90']:.1%}"
        )


@contextmanager
def _interruptible() -> Iterator[None]:
    """End with one line after Ctrl-C; of several processes only the first says why they end."""
    from training.distributed import speaks

    try:
        yield
    except KeyboardInterrupt:
        if speaks():
            from tqdm import tqdm  # clears its bar first

            tqdm.write("deepergatgnn: interrupted; the same command goes on from the last finished epoch", sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except DeeperGATGNNError:
        if speaks():
            raise
        raise typer.Exit(1) from None
