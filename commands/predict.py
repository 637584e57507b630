"""`predict`: files to properties without a server."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.options import DeviceOption, JsonOption, StoreOption, device_named, open_store
from deepergatgnn.errors import ArtifactError, ConfigError, ModelNotFoundError, StructureError
from model_store import ModelStore

if TYPE_CHECKING:
    import torch

    from deepergatgnn.predictor import Predictor


def predict(
    files: Annotated[list[Path], typer.Argument(help="CIF, POSCAR, extxyz or JSON.", metavar="FILE...")],
    model: Annotated[
        list[str] | None, typer.Option(help="NAME or NAME@VERSION, repeatable; all in production, if not given.")
    ] = None,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Predict properties of structure files; a file that is refused is told and the exit code is then 2.

    Example: deepergatgnn predict examples/al2cu.cif --model bulk-modulus
    """
    from deepergatgnn.structures import read_structure

    opened, where = open_store(store), device_named(device)
    predictors = _load(opened, model, where)
    refused = 0
    results: list[dict[str, Any]] = []
    for file in files:
        try:
            crystal = read_structure(file.read_bytes())
            found = [(p.manifest, p.predict_structure(crystal)) for p in predictors]
        except StructureError as error:
            refused += 1
            results.append({"file": str(file), "error": {"code": error.code, "detail": error.detail}})
            if not as_json:
                print(f"{file}: refused, {error.code}: {error.detail}", file=sys.stderr)
            continue
        predictions = [
            {
                "model": manifest.name,
                "version": manifest.version,
                "property": manifest.target.property,
                "value": prediction.value,
                "unit": manifest.target.unit,
                "interval": {"level": 0.9, "low": prediction.low, "high": prediction.high},
                "domain": {
                    "in_domain": prediction.domain.in_domain,
                    "score": prediction.domain.score,
                    "reasons": prediction.domain.reasons,
                },
                "attention": prediction.attention.tolist(),
            }
            for manifest, prediction in found
        ]
        results.append({"file": str(file), "formula": crystal.formula, "predictions": predictions})
        if not as_json:
            _show(file, crystal.reduced_formula, predictions)
    if as_json:
        print(json.dumps(results))
    if refused:
        raise typer.Exit(2)


def _load(store: ModelStore, models: list[str] | None, device: "torch.device") -> list["Predictor"]:
    """What is asked for, or all in production but for those that cannot be loaded."""
    from deepergatgnn.predictor import Predictor

    predictors = []
    for name in models or store.names():
        try:
            predictors.append(Predictor.load(store.folder(name), device))
        except (ArtifactError, ModelNotFoundError) as error:
            if models:
                raise
            print(f"deepergatgnn: left out: {error}", file=sys.stderr)
    if not predictors:
        raise ConfigError(f"no model of the store {store.root} can be used: see `deepergatgnn models verify`")
    return predictors


def _show(file: Path, formula: str, predictions: list[dict[str, Any]]) -> None:
    for answer in predictions:
        interval = answer["interval"]
        outside = "" if answer["domain"]["in_domain"] else f"  outside: {'; '.join(answer['domain']['reasons'])}"
        print(
            f"{file}  {formula}  {answer['property']} {answer['value']:.4f} {answer['unit']} "
            f"[{interval['low']:.4f}, {interval['high']:.4f}]{outside}"
        )
