"""Device selection."""

import torch

from deepergatgnn.errors import ConfigError


def device_named(name: str) -> torch.device:
    """Return an available device; `auto` selects a GPU if there is one.

    Args:
        name: auto, cpu, cuda or cuda:N.

    Raises:
        ConfigError: if the device is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
    return device
