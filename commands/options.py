"""Options that several commands share."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepergatgnn.checkpoints import STORE_VARIABLE
from model_store import ModelStore

if TYPE_CHECKING:
    import torch

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help=f"Folder of checkpoints; ${STORE_VARIABLE}, else those shipped."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


def open_store(folder: Path | None) -> ModelStore:
    """The store of an option, else of the environment, else the shipped one."""
    return ModelStore(folder or os.environ.get(STORE_VARIABLE) or None)


def device_named(name: str) -> "torch.device":
    """The device of an option; torch is imported only now, so that `--help` does not wait for it.

    Raises:
        ConfigError: if there is no such device.
    """
    from deepergatgnn import device

    return device.device_named(name)
