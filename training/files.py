"""Files of a run: atomic writes and locks."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from deepergatgnn.errors import ConfigError

LOCK = "lock"


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file atomically and durably."""
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
    """Refuse a folder that cannot be created or written.

    Args:
        folder: existing or not.
        what: purpose of the folder, for the message.

    Raises:
        ConfigError: with the purpose.
    """
    there = folder.absolute()
    while not there.exists() and not there.is_symlink():
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"{what} {folder} cannot be written: {there} is not a folder; name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{what} {folder} cannot be written: no permission to write into {there}; name another one")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder; the system releases the lock when the process ends.

    Raises:
        ConfigError: if another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("wb") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process uses {folder}: wait, or give this run another name") from None
        yield
