"""Location of a checkpoint: a folder of its own, or NAME[@VERSION] in a store.

The kernel only looks a version up; `model_store` publishes, promotes, verifies and deletes versions.
"""

import os
import re
from pathlib import Path
from typing import Final

from deepergatgnn.checkpoints.files import MANIFEST, read_bytes
from deepergatgnn.checkpoints.manifest import NAME_PATTERN, VERSION_PATTERN
from deepergatgnn.errors import ModelNotFoundError

STORE_VARIABLE: Final = "DEEPERGATGNN_MODEL_STORE"
SHIPPED: Final = (Path(__file__).parents[1] / "model_store" / "checkpoints").resolve()
PRODUCTION: Final = "production"  # the file of a model that names the version served by default
LONGEST_NAME: Final = 100  # characters; the name becomes a folder's
LONGEST_POINTER: Final = 256  # bytes


def split_reference(reference: str) -> tuple[str, str | None]:
    """Split NAME[@VERSION].

    Raises:
        ModelNotFoundError: if it is not of that form, so that no name ever becomes a path.
    """
    name, at, version = reference.partition("@")
    named = len(name) <= LONGEST_NAME and re.fullmatch(NAME_PATTERN, name)
    if not named or (at and not re.fullmatch(VERSION_PATTERN, version)):
        raise ModelNotFoundError(f"{reference[:80]!r} is not a model: write NAME or NAME@MAJOR.MINOR.PATCH")
    return name, version or None


def default_store() -> Path:
    """The folder that DEEPERGATGNN_MODEL_STORE names, else that of the checkpoints shipped with the package."""
    return Path(os.environ.get(STORE_VARIABLE) or SHIPPED)


def checkpoint_folder(source: Path | str, store: Path | str | None = None) -> Path:
    """Find the folder of a checkpoint.

    Args:
        source: a folder; or, as text, NAME (its production version) or NAME@VERSION of the store. A text that could be
            either is a name; write `./NAME` for the folder.
        store: the folder of the store; `default_store()`, if not given.

    Raises:
        ModelNotFoundError: if neither the store has such a version nor is there such a folder.
    """
    if isinstance(source, Path):
        return source
    try:
        name, version = split_reference(source)
    except ModelNotFoundError:
        if source and Path(source).is_dir():
            return Path(source)
        raise ModelNotFoundError(
            f"{source[:200]!r} is not a model: write NAME, NAME@MAJOR.MINOR.PATCH or the folder of a checkpoint"
        ) from None
    root = Path(store) if store is not None else default_store()
    if version is None:
        version = _production(root / name)
    if version is not None and (folder := root / name / version).is_dir():
        return folder
    if (Path(source) / MANIFEST).is_file():
        return Path(source)
    raise ModelNotFoundError(_absence(root, name, version))


def _production(model: Path) -> str | None:
    """The version that a model's pointer names; None without a readable one."""
    try:
        version = read_bytes(model / PRODUCTION, LONGEST_POINTER).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return version if re.fullmatch(VERSION_PATTERN, version) else None


def _absence(root: Path, name: str, version: str | None) -> str:
    """Sentence that names what the store has instead."""
    if not root.is_dir():
        return f"there is no store {root}: set {STORE_VARIABLE}, or unset it for the models shipped with the package"
    versions = _named(root / name, VERSION_PATTERN)
    if not versions:
        return f"no model {name!r}: the store has {', '.join(_named(root, NAME_PATTERN)) or 'none'}"
    if version is None:
        return f"model {name!r} has no version in production: write {name}@VERSION, one of {', '.join(versions)}"
    return f"model {name!r} has no version {version}: it has {', '.join(versions)}"


def _named(folder: Path, pattern: str) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if re.fullmatch(pattern, path.name) and path.is_dir())
    except OSError:
        return []
