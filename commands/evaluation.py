"""`evaluate` and `compare`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from deepergatgnn.commands.options import DeviceOption, JsonOption, StoreOption, device_named, open_store

GROUPS = {
    "by_width": "quintile of width",
    "reliability": "probability of the likeliest class",
    "by_size": "inequivalent atoms",
    "by_element": "element",
}
DatasetName = "Bundled set, set of the data folder, or path."
TargetOption = Annotated[str | None, typer.Option(help="Column of targets. Default: the target of the version.")]
WhereOption = Annotated[str | None, typer.Option(help="Only rows with FIELD=VALUE, for example mb_kvrh_fold=0.")]


def evaluate(
    model: Annotated[str, typer.Argument(help="NAME or NAME@VERSION.", metavar="MODEL")],
    dataset: Annotated[str, typer.Argument(help=DatasetName)],
    target: TargetOption = None,
    where: WhereOption = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="CSV file to write, one line for each row, such as predictions.csv.", metavar="FILE"),
    ] = None,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score a version on a data set.

    Example: deepergatgnn evaluate bulk-modulus elastic_tensor_2015 --json
    """
    from deepergatgnn.predictor import Predictor
    from deepergatgnn.training.evaluation.scoring import evaluate as score

    predictor = Predictor.load(open_store(store).folder(model), device_named(device))
    result = score(predictor, dataset, target, where, predictions)
    if as_json:
        print(json.dumps(result))
        return
    figures, refused = result.pop("figures"), result.pop("refused")
    groups = {title: figures.pop(name) for name, title in GROUPS.items() if name in figures}
    print_table([[name, _text(value)] for name, value in (result | figures).items()])
    for title, group in groups.items():
        columns = list(dict.fromkeys(name.rpartition("_")[0] for name in group))
        rows = list(dict.fromkeys(name.rpartition("_")[2] for name in group))
        print()
        body = [[row, *(_text(group[f"{column}_{row}"], column) for column in columns)] for row in rows]
        print_table([[title, *columns], *body])
    for row in refused:
        print(f"refused {row['id']}: {row['code']}")


def compare(
    references: Annotated[list[str], typer.Argument(help="NAME, NAME@VERSION or folder of a run.", metavar="A B ...")],
    dataset: Annotated[str | None, typer.Option(help=f"Score the versions on it. {DatasetName}")] = None,
    target: TargetOption = None,
    where: WhereOption = None,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare versions and runs; with --dataset, score the versions on the same rows.

    The difference is the MAE minus that of the first version, over the rows that both predict, ± its standard error.

    Example: deepergatgnn compare bulk-modulus shear-modulus --dataset elastic_tensor_2015
    """
    from deepergatgnn.training.evaluation.comparison import compare as compare_versions

    compared = compare_versions(references, open_store(store, new=True), dataset, target, where, device_named(device))
    if as_json:
        print(json.dumps(compared))
        return
    columns = [name for name in dict.fromkeys(name for row in compared for name in row) if name != "kind"]
    print_table([[name, *(_text(row.get(name)) for row in compared)] for name in columns])


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text in aligned columns."""
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *rest in rows:
        cells = [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())


def _text(value: Any, name: str = "") -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if name == "n" else f"{value:.4g}"
    return str(value)
