"""`.env` file, read once at the start of a command, with the same meaning for every command and process."""

import os
from pathlib import Path

from dotenv import dotenv_values

from deepergatgnn.errors import ConfigError

ENV_FILE = ".env"
PREFIX = "DEEPERGATGNN_"
LARGEST = 2**20  # bytes


def read_env_file(path: Path | str = ENV_FILE) -> None:
    """Set the variables of the project that a file defines, except those already in the environment.

    Raises:
        ConfigError: if the file exists and cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        return
    try:
        if file.stat().st_size > LARGEST:
            raise ConfigError(f"{path} has more than {LARGEST} bytes: write lines of NAME=VALUE")
        found = dotenv_values(file, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8: save it as UTF-8") from None
    present = {name.upper() for name in os.environ}
    for name, value in found.items():
        if name.upper().startswith(PREFIX) and name.upper() not in present and value is not None and "\0" not in value:
            os.environ[name.upper()] = value
