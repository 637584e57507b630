"""`models`: versions of the model store."""

import json
import sys
from typing import Annotated

import typer

from deepergatgnn.checkpoints.files import CARD
from deepergatgnn.commands.options import JsonOption, StoreOption, open_store
from deepergatgnn.errors import ArtifactError, ConfigError, ModelNotFoundError
from deepergatgnn.model_store import split_reference

app = typer.Typer(help="Versions in the store.\n\nExample: deepergatgnn models list", no_args_is_help=True)
Version = Annotated[str, typer.Argument(help="Version with its number.", metavar="NAME@VERSION")]
Reference = Annotated[str, typer.Argument(help="NAME or NAME@VERSION.", metavar="MODEL")]


@app.command("list")
def list_models(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List models, versions, units and test errors; * marks the version in production.

    Example: deepergatgnn models list
    """
    opened = open_store(store)
    rows = []
    for name in opened.names():
        try:
            in_production = opened.production(name)
        except ModelNotFoundError as error:
            in_production = None
            print(f"deepergatgnn: {error}", file=sys.stderr)
        for version in opened.versions(name):
            try:
                manifest = opened.manifest(f"{name}@{version}")
            except ArtifactError as error:
                print(f"deepergatgnn: {error}", file=sys.stderr)
                continue
            rows.append(
                {
                    "model": name,
                    "version": version,
                    "production": version == in_production,
                    "property": manifest.target.property,
                    "unit": manifest.target.unit,
                    "test_mae": manifest.metrics.get("test", {}).get("mae"),
                    "test_accuracy": manifest.metrics.get("test", {}).get("accuracy"),
                }
            )
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        mark = "*" if row["production"] else " "
        mae = "" if row["test_mae"] is None else f"test MAE {row['test_mae']:.4f} {row['unit']}"
        if row["test_accuracy"] is not None:
            mae = f"test accuracy {row['test_accuracy']:.4f}"
        print(f"{mark} {row['model']}@{row['version']}  {row['property']}  {mae}")


@app.command("show")
def show(model: Reference, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Print the card of a version, or with --json its manifest.

    Example: deepergatgnn models show bulk-modulus
    """
    opened = open_store(store)
    manifest = opened.manifest(model)
    print(manifest.model_dump_json() if as_json else (opened.folder(model) / CARD).read_text("utf-8"))


@app.command("verify")
def verify(
    model: Annotated[str | None, typer.Argument(help="NAME or NAME@VERSION. Default: all.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify versions as a worker does: sha256 of the files, weights, golden values; exit 1 on any error.

    Without MODEL verify every version of the store, and that each model has a version in production.

    Example: deepergatgnn models verify
    """
    from deepergatgnn.predictor import Predictor

    opened = open_store(store)
    references = [model] if model else [f"{n}@{v}" for n in opened.names() for v in opened.versions(n)]
    verified, failed = [], {}
    for name in [] if model else opened.names():
        try:
            opened.production(name)
        except ModelNotFoundError as error:
            failed[name] = str(error)
    for reference in references:
        try:
            opened.verify(reference)
            Predictor.load(opened.folder(reference)).check_golden()
        except ArtifactError as error:
            failed[reference] = str(error)
        else:
            verified.append(reference)
            if not as_json:
                print(f"{reference}: ok")
    for which, reason in failed.items():
        print(f"deepergatgnn: {which}: {reason}", file=sys.stderr)
    if as_json:
        print(json.dumps({"verified": verified, "failed": failed}))
    if failed:
        raise typer.Exit(1)


@app.command("promote")
def promote(model: Version, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Put a version into production.

    Example: deepergatgnn models promote bulk-modulus@1.0.0
    """
    name, version = _version(model)
    open_store(store).promote(name, version)
    _print_production(name, version, as_json=as_json)


@app.command("rollback")
def rollback(
    name: Annotated[str, typer.Argument(help="Name of the model.", metavar="NAME")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the previous version into production again.

    Example: deepergatgnn models rollback bulk-modulus
    """
    _print_production(name, open_store(store).rollback(name), as_json=as_json)


@app.command("delete")
def delete(
    model: Version,
    force: Annotated[
        bool,
        typer.Option("--force", help="Delete it even if it is in production; its predecessor, if any, replaces it."),
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a version permanently; the one in production only with --force.

    Its number is not reused. A service that has loaded the version answers with it until it restarts.

    Example: deepergatgnn models delete bulk-modulus@1.0.0
    """
    name, version = _version(model)
    serving = open_store(store).delete(name, version, force=force)
    if as_json:
        print(json.dumps({"deleted": f"{name}@{version}", "production": serving}))
        return
    print(f"{name}@{version} is deleted; {serving or 'no version'} is in production")


def _version(reference: str) -> tuple[str, str]:
    name, version = split_reference(reference)
    if version is None:
        raise ConfigError(f"{reference!r} has no version: write {name}@VERSION")
    return name, version


def _print_production(name: str, version: str, *, as_json: bool) -> None:
    print(json.dumps({"model": name, "production": version}) if as_json else f"{name}: {version} is in production")
