"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepergatgnn.checkpoints.locations import STORE_VARIABLE
from deepergatgnn.errors import ConfigError
from deepergatgnn.model_store import ModelStore

if TYPE_CHECKING:
    import torch

DEVICE_VARIABLE = "DEEPERGATGNN_DEVICE"

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help=f"Folder of checkpoints; ${STORE_VARIABLE}, else those shipped.",
        envvar=STORE_VARIABLE,
        show_envvar=False,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        help=f"auto, cpu, cuda or cuda:N; ${DEVICE_VARIABLE}, else auto.", envvar=DEVICE_VARIABLE, show_envvar=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


def open_store(folder: Path | None, *, new: bool = False) -> ModelStore:
    """The store of an option, which the environment may have given, else the shipped one.

    Args:
        folder: of the option.
        new: whether it may be empty or not there yet, for a command that publishes into it.

    Raises:
        ConfigError: if it is no folder, or has no model to read.
    """
    store = ModelStore(folder)
    if store.root.exists() and not store.root.is_dir():
        raise ConfigError(f"the model store {store.root} is not a folder: name one with --store or ${STORE_VARIABLE}")
    if new:
        return store
    if not store.root.is_dir():
        raise ConfigError(f"there is no model store {store.root}: name one with --store or ${STORE_VARIABLE}")
    if not store.names():
        raise ConfigError(
            f"the model store {store.root} has no model: train one into it, or name another with --store or "
            f"${STORE_VARIABLE}"
        )
    return store


def device_named(name: str) -> "torch.device":
    """The device of an option; torch is imported only now, so that `--help` does not wait for it.

    Raises:
        ConfigError: if there is no such device.
    """
    from deepergatgnn import device

    return device.device_named(name)
