"""Result of every reader: readable rows in file order, refused rows with their reason."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.errors import ConfigError
from deepergatgnn.structures import Crystal
from deepergatgnn.training.data.dataset import Refusal
from deepergatgnn.training.data.row_warnings import by_kind


@dataclass(frozen=True, eq=False)
class Row:
    """One crystal of a data set; `fields` are its columns besides structure and targets."""

    id: str
    crystal: Crystal
    targets: dict[str, Any]
    fields: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data set in memory: readable rows in file order, and refused rows."""

    name: str
    sha256: str
    rows: tuple[Row, ...]
    refused: tuple[Refusal, ...]

    @property
    def warnings(self) -> dict[str, list[str]]:
        """Ids of the rows whose structure was not read literally, by the kind of the warning."""
        return by_kind((row.id, row.crystal.warnings) for row in self.rows)

    def values(self, keys: Sequence[str]) -> NDArray[np.float64]:
        """Return targets [rows, keys]; NaN where a row has no finite number."""
        numbers = [[number(row.targets.get(key)) for key in keys] for row in self.rows]
        return np.array(numbers, dtype=np.float64).reshape(len(self.rows), len(keys))


def number(value: Any) -> float:
    """Return a target as a number; NaN if it is not finite."""
    try:
        found = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        return math.nan
    return found if math.isfinite(found) else math.nan


def sha256(parts: Iterable[bytes]) -> str:
    """Digest of several byte strings and of their lengths."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()


def optional(module: str, remedy: str) -> Any:
    """Import an optional package.

    Raises:
        ConfigError: with the remedy, if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"this data set is read through {module.split('.', maxsplit=1)[0]} ({error}): {remedy}"
        ) from None
