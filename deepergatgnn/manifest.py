"""The manifest of a checkpoint: everything about it but the weights, as JSON checked by a schema.

Schema versions are numbered from 1; `migrate` brings an older manifest to the current one, and the tests
keep one frozen checkpoint of each.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deepergatgnn.errors import ArtifactError
from deepergatgnn.graph import GraphConfig
from deepergatgnn.network_config import NetworkConfig

SCHEMA_VERSION = 1
NAME_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
VERSION_PATTERN = r"^(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})$"  # \d has digits of all scripts


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Target(_Record):
    """What is predicted.

    Attributes:
        property: name in answers.
        key: column of `targets` in the data set it was trained on.
        unit: of the value.
        description: one line for people.
    """

    property: str
    key: str
    unit: str
    description: str = ""


class Scaler(_Record):
    """value = mean + std * output of the network."""

    mean: float
    std: float = Field(gt=0)


class Calibration(_Record):
    """Split-conformal intervals: value ± half_width at each level (Lei et al., doi:10.1080/01621459.2017.1307116).

    Attributes:
        n: calibration crystals, which neither training nor early stopping saw.
        half_widths: level, as text such as "0.9" → half width in the target's unit.
    """

    method: Literal["split-conformal"] = "split-conformal"
    n: int = Field(ge=1)
    half_widths: dict[str, float]


class Domain(_Record):
    """What the network was trained on.

    Attributes:
        elements: atomic numbers in the training part.
        volume_per_atom: smallest and largest in the training part, Å³.
        distance_limit: 99th percentile, over the calibration part, of the Mahalanobis distance between a crystal
            vector and those of the training part; the score is the distance over this.
    """

    elements: tuple[int, ...]
    volume_per_atom: tuple[float, float]
    distance_limit: float = Field(gt=0)


class Golden(_Record):
    """One crystal with the value this checkpoint gave it when it was published."""

    lattice: tuple[tuple[float, float, float], ...]
    species: tuple[str, ...]
    frac_coords: tuple[tuple[float, float, float], ...]
    value: float


class Provenance(_Record):
    """Where the weights come from."""

    dataset: str
    dataset_sha256: str
    source: str
    licence: str
    split: dict[str, Any]
    rows: dict[str, int]
    refused: dict[str, int]
    seed: int
    command: str
    config: dict[str, Any]
    epochs: int
    best_epoch: int
    seconds: float
    hardware: str
    packages: dict[str, str]


class Manifest(_Record):
    """Everything about a checkpoint but the weights; `files` holds the sha256 of each other file of the folder."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN)
    created: str
    architecture: Literal["deepergatgnn"] = "deepergatgnn"
    network: NetworkConfig
    graph: GraphConfig
    target: Target
    scaler: Scaler
    calibration: Calibration
    domain: Domain
    metrics: dict[str, dict[str, float]]
    golden: tuple[Golden, ...]
    provenance: Provenance
    parameters: int
    files: dict[str, str]

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.network.targets != 1:
            raise ValueError(f"network.targets is {self.network.targets}: a version predicts one property")
        if "0.9" not in self.calibration.half_widths:
            raise ValueError('calibration.half_widths has no level "0.9"')
        return self


def migrate(document: dict[str, Any]) -> dict[str, Any]:
    """Bring a manifest of any known schema version to the current one.

    Raises:
        ArtifactError: for a schema version this package does not know.
    """
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"manifest has schema_version {version!r}, this package reads 1 to {SCHEMA_VERSION}: "
            "upgrade the package or publish the model again"
        )
    return document
