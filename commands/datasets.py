"""`datasets`: data sets for training."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from deepergatgnn.commands.options import JsonOption, StoreOption, open_store

app = typer.Typer(help="Data sets for training.\n\nExample: deepergatgnn datasets list", no_args_is_help=True)


@app.command("list")
def list_datasets(as_json: JsonOption = False) -> None:
    """List the bundled data sets and those of the data folder.

    Example: deepergatgnn datasets list
    """
    from deepergatgnn.training.data.catalogue import known_datasets

    found = known_datasets()
    print(json.dumps({name: str(path) for name, path in found.items()}) if as_json else "\n".join(found))


@app.command("show")
def show_dataset(
    name: Annotated[str, typer.Argument(help="Bundled set, set of the data folder, path to a file or a folder.")],
    as_json: JsonOption = False,
) -> None:
    """Count rows, elements, targets, refused rows and warnings of a data set.

    The name of a target in this list is the `key` of a target in the YAML file of a run.

    Example: deepergatgnn datasets show elastic_tensor_2015
    """
    from deepergatgnn.training.data.catalogue import describe

    found = describe(name)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['name']}: {found['rows']} rows, {found['elements']} elements, ", end="")
    print(f"{found['atoms_mean']} atoms on average, {found['atoms_max']} at most")
    print(f"sha256 {found['sha256']}")
    if found["fields"]:
        print(f"fields {', '.join(found['fields'])}")
    if found["targets"]:
        width = max(len("target"), *map(len, found["targets"]))
        print(f"{'target':{width}} {'known':>8} {'mean':>11} {'std':>11} {'min':>11} {'max':>11}")
        for key, spread in found["targets"].items():
            numbers = (spread[column] for column in ("mean", "std", "min", "max"))
            shown = " ".join(f"{'-' if value is None else format(value, '.5g'):>11}" for value in numbers)
            print(f"{key:{width}} {spread['known']:>8} {shown}")
    _print_refused(found["refused"])
    _print_warnings(found["warnings"])


@app.command("fetch")
def fetch_dataset(
    name: Annotated[
        str, typer.Argument(help="matbench:NAME or matminer:NAME, or any data set to convert to .jsonl.gz.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of data sets. Default: $DEEPERGATGNN_DATA.", metavar="FOLDER")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Download a data set with its own loader and write it as FOLDER/NAME/NAME.jsonl.gz.

    Example: deepergatgnn datasets fetch matbench:matbench_dielectric --out data
    """
    from deepergatgnn.training.data.catalogue import fetch
    from deepergatgnn.training.data.row_warnings import warning_table

    path, dataset = fetch(name, out)
    refused = [{"id": row.id, "code": row.code, "detail": row.detail} for row in dataset.refused]
    warnings = warning_table(dataset.warnings)
    if as_json:
        print(json.dumps({"path": str(path), "rows": len(dataset.rows), "refused": refused, "warnings": warnings}))
        return
    print(f"{path}: {len(dataset.rows)} rows")
    _print_refused(refused)
    _print_warnings(warnings)


@app.command("prepare")
def prepare_run(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.", metavar="CONFIG.yaml")],
    out: Annotated[Path, typer.Option(help="Folder to write; a prepared folder is replaced.", metavar="FOLDER")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a folder for training on a machine that has only torch, torch-geometric, numpy and safetensors.

    There, with a copy of the folder deepergatgnn (cp -rL): python -m deepergatgnn.training FOLDER --runs RUNS
    Here, with RUNS brought back: deepergatgnn train CONFIG.yaml --runs RUNS publishes what was trained.

    Example: deepergatgnn datasets prepare training/recipes/example.yaml --out prepared
    """
    from deepergatgnn.training.config.run import read_config
    from deepergatgnn.training.data.row_warnings import warning_table
    from deepergatgnn.training.data.run_data import assemble_run_data
    from deepergatgnn.training.data.splits import split_sentence
    from deepergatgnn.training.experiments.tasks import save_run

    parsed = read_config(config)
    run_data = assemble_run_data(parsed)
    save_run(parsed, run_data, open_store(store, new=True), out)
    if as_json:
        prepared = {
            "path": str(out),
            "rows": len(run_data.dataset),
            "members": parsed.members,
            "parts": run_data.split.sizes(),
            "refused": [asdict(refusal) for refusal in run_data.dataset.refused],
            "warnings": warning_table(run_data.dataset.warnings),
        }
        print(json.dumps(prepared))
        return
    print(f"{out}: {len(run_data.dataset)} rows, {parsed.members} member{'s' if parsed.members > 1 else ''} to train")
    print(split_sentence(run_data.split.sizes(), run_data.notes))
    _print_refused([asdict(refusal) for refusal in run_data.dataset.refused])
    _print_warnings(warning_table(run_data.dataset.warnings))


def _print_refused(refused: list[dict[str, str]]) -> None:
    for row in refused:
        print(f"refused {row['id']}: {row['code']}: {row['detail']}")


def _print_warnings(table: list[dict[str, Any]]) -> None:
    from deepergatgnn.training.data.row_warnings import warning_lines

    for line in warning_lines(table):
        print(line)
