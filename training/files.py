"""Files of a run's folder: written whole or not at all, and by one process at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from deepergatgnn.errors import ConfigError

LOCK = "lock"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or the next start after a kill, finds the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def require_writable(folder: Path, what: str) -> None:
    """Refuse a folder, there or to be made, that cannot be written: better now than after the training.

    Raises:
        ConfigError: with what it is for.
    """
    there = folder.absolute()
    while not there.exists() and not there.is_symlink():
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"{what} {folder} cannot be written: {there} is no folder; name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{what} {folder} cannot be written: no permission to write into {there}; name another one")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; the system lets go of it when this one ends, however it ends.

    Raises:
        ConfigError: if another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("wb") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process works in {folder}: wait, or give this run another name") from None
        yield
