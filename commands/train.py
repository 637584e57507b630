"""`train`, `evaluate` and `datasets`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import DeviceOption, JsonOption, StoreOption, device_named, open_store

if TYPE_CHECKING:
    from training.loop import Epoch

datasets = typer.Typer(help="Data sets that can be trained on.", no_args_is_help=True)


def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.", metavar="CONFIG.yaml")],
    store: StoreOption = None,
    runs: Annotated[Path, typer.Option(help="Folder of run states; an interrupted run goes on.")] = Path("runs"),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train, calibrate, evaluate and publish a version into the store.

    Example: deepergatgnn train training/recipes/example.yaml
    """
    from tqdm import tqdm

    from training.config import read_config
    from training.loop import Batches
    from training.run import run

    parsed = read_config(config)
    quiet = as_json or not sys.stderr.isatty()

    def track(batches: Batches, epoch: int, total: int) -> Batches:
        label = f"epoch {epoch + 1}/{parsed.optimization.epochs}"
        return tqdm(batches, label, total, leave=False, disable=quiet)

    def report(epoch: "Epoch") -> None:
        print(
            f"epoch {epoch.number}: loss {epoch.train_loss:.4f}, validation MAE {epoch.validation_mae:.4f} sd"
            f"{' (best)' if epoch.best else ''}, {epoch.seconds:.1f} s",
            file=sys.stderr,
            flush=True,
        )

    manifests = run(parsed, open_store(store), runs, device=device_named(device), report=report, track=track)
    if as_json:
        print(json.dumps([{"model": m.name, "version": m.version, "metrics": m.metrics} for m in manifests]))
        return
    for manifest in manifests:
        test = manifest.metrics["test"]
        print(
            f"{manifest.name}@{manifest.version}: test MAE {test['mae']:.4f} {manifest.target.unit} "
            f"on {test['n']:.0f} crystals, 90 % interval covers {test['coverage_90']:.1%}"
        )


def evaluate(
    model: Annotated[str, typer.Argument(help="NAME or NAME@VERSION.", metavar="MODEL")],
    dataset: Annotated[str, typer.Argument(help="Bundled set, set of the data folder, or path.")],
    target: Annotated[str | None, typer.Option(help="Column of targets; the version's own, if not given.")] = None,
    where: Annotated[str | None, typer.Option(help="Only rows with FIELD=VALUE, for example mb_kvrh_fold=0.")] = None,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score a version on a data set.

    Example: deepergatgnn evaluate bulk-modulus elastic_tensor_2015 --json
    """
    from deepergatgnn.predictor import Predictor
    from training.evaluation import evaluate as score

    predictor = Predictor.load(_verified(store, model), device_named(device))
    result = score(predictor, dataset, target, where)
    if as_json:
        print(json.dumps(result))
        return
    refused = result.pop("refused")
    for key, value in result.items():
        print(f"{key:14} {value:.4f}" if isinstance(value, float) else f"{key:14} {value}")
    for row in refused:
        print(f"refused {row['id']}: {row['code']}")


def _verified(store: Path | None, model: str) -> Path:
    return open_store(store).folder(model)


@datasets.command("list")
def list_datasets(as_json: JsonOption = False) -> None:
    """List the bundled data sets and those of the data folder.

    Example: deepergatgnn datasets list
    """
    from training.datasets import known_datasets

    found = known_datasets()
    print(json.dumps({name: str(path) for name, path in found.items()}) if as_json else "\n".join(found))


@datasets.command("show")
def show_dataset(name: Annotated[str, typer.Argument(help="Bundled set, set of the data folder, or path.")]) -> None:
    """Count rows, elements, targets and refused rows of a data set.

    Example: deepergatgnn datasets show elastic_tensor_2015
    """
    from training.datasets import describe

    print(json.dumps(describe(name), indent=2))
