"""The manifest of a checkpoint: everything about it but the weights, as JSON checked by a schema.

Schema versions are numbered from 1; `migrate` brings an older manifest to the current one, and the tests
keep one frozen checkpoint of each.
"""

import math
import operator
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from deepergatgnn.element_features import element_symbols
from deepergatgnn.errors import ArtifactError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.config import NetworkConfig

SCHEMA_VERSION = 3
LEVELS = ("0.5", "0.8", "0.9", "0.95")  # of intervals, where there are crystals enough to promise them
MAIN_LEVEL = "0.9"  # of the interval that an answer has
MOST_CLASSES = 50
PROBABILITY = "probability"  # the unit of the value where there are classes
NAME_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
VERSION_PATTERN = r"^(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})$"  # \d has digits of all scripts


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _is_none(value: object) -> bool:
    return value is None


class Target(_Record):
    """Predicted property.

    Attributes:
        property: name in answers.
        key: column of `targets` in the data set it was trained on.
        unit: of the value.
        description: one line for people.
        classes: names of the classes, in the order of the network's outputs; none for a number.
    """

    property: str
    key: str
    unit: str
    description: str = ""
    classes: tuple[str, ...] = Field(default=(), max_length=MOST_CLASSES, exclude_if=operator.not_)

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(classes) == 1 or len(set(classes)) < len(classes) or not all(classes):
            raise ValueError("classes must be none, or at least two different non-empty names")
        return classes


class Scaler(_Record):
    """transform(value) = mean + std * output of the network; log10 for positive values that span decades."""

    transform: Literal["identity", "log10"] = "identity"
    mean: float
    std: float = Field(gt=0)


class PredictedScale(_Record):
    """Formula of the predicted scale of the error of a value, in the network's units, before calibration.

    log(scale) = constant + learned * a + ensemble * log(b) + distance * log(1 + c), with a the mean over members of
    the network's own log-scale, b the standard deviation over members of its output, c the domain score. All zero:
    the same for all crystals. No scale is larger than `most`, because the formula does not hold far from the training
    set.
    """

    constant: float = 0.0
    learned: float = 0.0
    ensemble: float = 0.0
    distance: float = 0.0
    most: float | None = None


class Calibration(_Record):
    """Conformal intervals, at those levels only that so many calibration crystals can promise; or probabilities.

    Split-conformal: output ± factor * scale, with a factor for each class of scales. Lei et al.,
    doi:10.1080/01621459.2017.1307116; normalised and Mondrian as in Boström and Johansson, PMLR 128, 114 (2020).

    CV+: quantiles of the outputs of the members ± their residuals, where each member of the ensemble did not learn
    from a fold of its own. Barber et al., Ann. Stat. 49, 486 (2021), doi:10.1214/20-AOS1965.

    Temperature: probabilities of classes are softmax(outputs / temperature). Guo et al., arXiv:1706.04599.

    Attributes:
        n: crystals whose residuals count, of networks that did not learn from them.
        spread: the formula of the scale.
        edges: between the classes of scales, ascending; none for a single class.
        factors: split-conformal: level, as text such as "0.9" → the factor of each class, one more than edges. A level
            that `n` crystals cannot promise is left out when it is read: older versions have them.
        residuals: CV+: for each member the absolute residuals of the crystals of its fold, in the network's units.
        temperature: of classes only; 1 where there were too few crystals to fit it.
    """

    method: Literal["split-conformal", "cv+", "temperature"] = "split-conformal"
    n: int = Field(ge=0)
    spread: PredictedScale = PredictedScale()
    edges: tuple[float, ...] = ()
    factors: dict[str, tuple[Annotated[float, Field(ge=0)], ...]] = {}
    residuals: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...] = ()
    temperature: float | None = Field(default=None, gt=0, exclude_if=_is_none)

    @field_validator("factors")
    @classmethod
    def _promised(cls, factors: dict[str, tuple[float, ...]], info: ValidationInfo) -> dict[str, tuple[float, ...]]:
        n = info.data.get("n", 0)
        return {level: each for level, each in factors.items() if conformal_rank(level, n) is not None}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if any(len(each) != len(self.edges) + 1 for each in self.factors.values()):
            raise ValueError(f"factors must have {len(self.edges) + 1} numbers a level, one more than edges")
        if list(self.edges) != sorted(self.edges):
            raise ValueError("edges must ascend")
        if self.method == "cv+" and sum(map(len, self.residuals)) != self.n:
            raise ValueError(f"residuals must be those of {self.n} crystals")
        if (self.method == "temperature") != (self.temperature is not None):
            raise ValueError("temperature belongs to the method of that name, and to no other")
        return self

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """Levels of which there are intervals."""
        if self.method == "temperature":
            return ()
        if self.method == "cv+":
            return tuple(level for level in LEVELS if conformal_rank(level, self.n) is not None)
        return tuple(self.factors)

    def shortfall(self, level: str = MAIN_LEVEL) -> str | None:
        """Return a clause that says why there is no interval at a level; None if there is one."""
        if level in self.levels:
            return None
        if self.method == "temperature":
            return "it gives probabilities of classes"
        if conformal_rank(level, self.n) is not None:
            return f"the residuals of its {self.n} calibration crystals have no finite quantile"
        count = f"{self.n} calibration crystal{'' if self.n == 1 else 's'}"
        return f"{count} cannot promise it, which takes {crystals_needed(level)}"


def conformal_rank(level: str, n: int) -> int | None:
    """⌈(n+1)·level⌉, the rank of the residual that covers a new one with that probability; None where it exceeds n.

    Raises:
        ValueError: if the level is not a number between 0 and 1, such as "0.9".
    """
    if not 0 < float(level) < 1:
        raise ValueError(f"level {level[:20]!r} is not between 0 and 1")
    rank = math.ceil((n + 1) * Fraction(level))  # in floating point some whole numbers would be rounded up
    return rank if rank <= n else None


def crystals_needed(level: str) -> int:
    """The least number of calibration crystals that can promise a level: 9 for "0.9"."""
    share = Fraction(level)
    return math.ceil(share / (1 - share))


class Domain(_Record):
    """Ranges of the training part.

    Attributes:
        elements: atomic numbers in the training part.
        volume_per_atom: smallest and largest in the training part, Å³.
        inequivalent_atoms: smallest and largest number, in the training part, of atoms that differ in surroundings;
            None where it was not recorded.
        distance_limit: 99th percentile, over the calibration part, of the Mahalanobis distance between a crystal
            vector and those of the training part; the score is the distance over this.
    """

    elements: tuple[int, ...]
    volume_per_atom: tuple[float, float]
    inequivalent_atoms: tuple[int, int] | None = None
    distance_limit: float = Field(gt=0)


class Golden(_Record):
    """One crystal with the value this checkpoint gave it when it was published."""

    lattice: tuple[tuple[float, float, float], ...]
    species: tuple[str, ...]
    frac_coords: tuple[tuple[float, float, float], ...]
    value: float

    @model_validator(mode="after")
    def _is_a_crystal(self) -> Self:
        if len(self.lattice) != 3:  # noqa: PLR2004 - vectors of a cell
            raise ValueError(f"a lattice has three vectors, not {len(self.lattice)}")
        if not self.species or len(self.species) != len(self.frac_coords):
            raise ValueError(f"{len(self.species)} species and {len(self.frac_coords)} frac_coords: one each per atom")
        if unknown := [symbol for symbol in self.species if symbol not in element_symbols()]:
            raise ValueError(f"{unknown[0][:20]!r} is no element")
        return self


class StartRecord(_Record):
    """Origin of the initial weights.

    Attributes:
        reference: NAME@VERSION, or the folder of a run.
        sha256: of its manifest, or of the state of its first member.
        test_rows, test_formulas: rows of the test part whose crystal, or whose reduced formula, it had learned from;
            None where its data were not there to compare.
    """

    reference: str
    sha256: str
    test_rows: int | None = None
    test_formulas: int | None = None


class Provenance(_Record):
    """Origin of the weights; `start` is None if they began at random, and in older versions."""

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
    start: StartRecord | None = None


class Manifest(_Record):
    """Everything about a checkpoint but the weights.

    Attributes:
        members: networks of the ensemble, whose outputs are averaged; each has a file of weights.
        metrics: part of the data → name → figure, errors in the target's unit.
        golden: crystals that every later load must give the same values.
        files: sha256 of each other file of the folder.
    """

    schema_version: Literal[3] = 3
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN)
    created: str
    network: NetworkConfig
    graph: GraphConfig
    target: Target
    scaler: Scaler
    members: int = Field(default=1, ge=1, le=32)
    calibration: Calibration
    domain: Domain
    metrics: dict[str, dict[str, float]]
    golden: tuple[Golden, ...]
    provenance: Provenance
    parameters: int
    files: dict[str, str]

    @property
    def reference(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        classes = self.target.classes
        if self.network.targets != max(1, len(classes)):
            needed = f"its {len(classes)} classes" if classes else "one property"
            raise ValueError(f"network.targets is {self.network.targets}: a version predicts {needed}")
        if bool(classes) != (self.calibration.method == "temperature"):
            raise ValueError("classes are calibrated by a temperature, and nothing else is")
        if self.calibration.method == "cv+" and len(self.calibration.residuals) != self.members:
            raise ValueError(f"calibration.residuals must be those of {self.members} members")
        return self


def migrate(document: dict[str, Any]) -> dict[str, Any]:
    """Bring a manifest of any known schema version to the current one.

    Raises:
        ArtifactError: for a schema version this package does not know.
    """
    version = document.get("schema_version")
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise ArtifactError(
            f"manifest has schema_version {version!r}, this package reads 1 to {SCHEMA_VERSION}: "
            "upgrade the package or publish the model again"
        )
    for step in (_from_1, _from_2)[version - 1 :]:
        document = step(document)
    return document


def _from_1(document: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 had one network, no transform, and one half width in the target's unit for all crystals."""
    migrated = document | {"schema_version": 2}
    try:
        calibration = dict(document["calibration"])
        std = float(document["scaler"]["std"])
        widths = dict(calibration.pop("half_widths"))
        calibration["factors"] = {level: [float(width) / std] for level, width in widths.items()}
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise ArtifactError("a manifest of schema_version 1 needs scaler.std and calibration.half_widths") from None
    return migrated | {"calibration": calibration}


def _from_2(document: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 had one network, and named it; its sizes are the options of today, and its parts the defaults."""
    migrated = document | {"schema_version": 3}
    if (architecture := migrated.pop("architecture", "deepergatgnn")) != "deepergatgnn":
        raise ArtifactError(
            f"manifest has schema_version 2 and architecture {str(architecture)[:40]!r}: only deepergatgnn is known"
        )
    return migrated
