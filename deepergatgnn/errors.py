"""What can go wrong in the kernel; every message names the value and the remedy.

Nothing here knows HTTP: the service maps `code` to a status in one table.
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
    """Base of every error this library raises on purpose."""


class StructureError(DeeperGATGNNError, ValueError):
    """A structure was refused.

    Attributes:
        code: machine-readable reason, one of `StructureErrorCode`.
        detail: one sentence that names the value and says what to change.
    """

    def __init__(self, code: StructureErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code: StructureErrorCode = code
        self.detail = detail

    def __reduce__(self) -> tuple[type["StructureError"], tuple[str, str]]:
        """Pickle by constructor arguments, so that the error crosses a process boundary whole."""
        return type(self), (self.code, self.detail)


class ArtifactError(DeeperGATGNNError):
    """A checkpoint folder was refused: damaged, of an unknown kind, or unsafe to load."""


class ModelNotFoundError(DeeperGATGNNError, LookupError):
    """No checkpoint of that name or version is in the store."""


class ConfigError(DeeperGATGNNError, ValueError):
    """A configuration or a data file does not say what it must."""
