"""Options shared by several commands."""

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
        help=f"Folder of checkpoints. Default: ${STORE_VARIABLE}, else the shipped store.",
        envvar=STORE_VARIABLE,
        show_envvar=False,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        help=f"auto, cpu, cuda or cuda:N. Default: ${DEVICE_VARIABLE}, else auto.",
        envvar=DEVICE_VARIABLE,
        show_envvar=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def open_store(folder: Path | None, *, new: bool = False) -> ModelStore:
    """Open the store of the option, else the shipped store.

    Args:
        folder: value of the option or of its environment variable.
        new: accept an empty or missing folder, for commands that publish.

    Raises:
        ConfigError: if it is not a folder, or has no model.
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
    """Return the device of the option; torch is imported here, so that `--help` is fast.

    Raises:
        ConfigError: if the device is not available.
    """
    from deepergatgnn import device

    return device.device_named(name)
