"""Errors of the kernel; every message names the value and the remedy.

They have no HTTP status: one table of the service maps `code` to a status.
"""

from typing import Literal

StructureErrorCode = Literal[
    "unreadable",
    "no_structure",
    "disordered",
    "unknown_element",
    "overlapping_atoms",
    "bad_cell",
    "too_dense",
    "too_sparse",
    "too_many_atoms",
    "too_many_edges",
    "too_many_bytes",
    "magnetic_cif",
]


class DeeperGATGNNError(Exception):
    """Base of all errors that this library raises deliberately."""


class StructureError(DeeperGATGNNError, ValueError):
    """Refused structure.

    Attributes:
        code: machine-readable reason, one of `StructureErrorCode`.
        detail: one sentence that names the value and the remedy.
    """

    def __init__(self, code: StructureErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code: StructureErrorCode = code
        self.detail = detail

    def __reduce__(self) -> tuple[type["StructureError"], tuple[str, str]]:
        """Pickle the constructor arguments, so that the error crosses a process boundary unchanged."""
        return type(self), (self.code, self.detail)


class ArtifactError(DeeperGATGNNError):
    """Refused checkpoint folder: damaged, of an unknown kind, or unsafe to load."""


class ModelNotFoundError(DeeperGATGNNError, LookupError):
    """The store has no checkpoint of that name or version."""


class ConfigError(DeeperGATGNNError, ValueError):
    """Invalid configuration or data file."""
