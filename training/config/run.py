"""Configuration of a training run: one YAML file, parsed once, frozen, passed on."""

import operator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from deepergatgnn.checkpoints.manifest import MOST_CLASSES, NAME_PATTERN, PROBABILITY, VERSION_PATTERN
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.config import NetworkConfig, with_attention
from deepergatgnn.training.config.optimization import OptimizationConfig
from deepergatgnn.training.config.split import SplitConfig
from deepergatgnn.training.config.yaml_files import read_yaml, validated

# Defaults that train well on hundreds to tens of thousands of crystals; the paper has 20 layers and no angles.
GRAPH: dict[str, Any] = {"angles": 8}
LARGEST_SEED = 2**31 - 1  # the seeds of members and processes derive from it and have 64 bits
NETWORK: dict[str, Any] = {"layers": 5, "dropout": 0.1, "spread": True}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _is_regression(kind: object) -> bool:
    return kind == "regression"


class TargetConfig(_Section):
    """A target column and the model that is published for it.

    Attributes:
        model: name in the store.
        key: column of `targets` in the data set.
        transform: transform before standardisation; "log10" for positive values that span decades.
        property: name in answers. Default: the key.
        test_field: the column of official folds of this target, if there are several; test rows of the other columns
            do not score it.
        unit: unit of the column.
        description: one line.
        weight: weight in the loss.
        kind: "classification" for a column of classes, whose probabilities are learned.
        classes: classes as in the column: text, booleans or integers, the positive class last; rows of other classes
            are left out. Default: all classes of the data, sorted.
    """

    model: str = Field(pattern=NAME_PATTERN)
    key: str
    transform: Literal["identity", "log10"] = "identity"
    property: str = ""
    test_field: str | None = None
    unit: str
    description: str = ""
    weight: float = Field(default=1.0, gt=0)
    # Excluded at their defaults, so that the record of a regression equals that of releases without classes.
    kind: Literal["regression", "classification"] = Field(default="regression", exclude_if=_is_regression)
    classes: tuple[StrictBool | StrictInt | StrictStr, ...] = Field(
        default=(), max_length=MOST_CLASSES, exclude_if=operator.not_
    )

    @model_validator(mode="before")
    @classmethod
    def _unit_of_classes(cls, document: Any) -> Any:
        """Set the unit of classes, which is always that of a probability."""
        if isinstance(document, dict) and document.get("kind") == "classification":
            return {"unit": PROBABILITY} | document
        return document

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.kind == "regression":
            if self.classes:
                raise ValueError("classes belong to `kind: classification`")
            return self
        if self.transform != "identity":
            raise ValueError(f"classes have no transform {self.transform!r}: leave it out")
        if self.unit != PROBABILITY:
            raise ValueError(f"the unit of classes is {PROBABILITY!r}, not {self.unit!r}: leave it out")
        names = [str(each).lower() if isinstance(each, bool) else str(each).strip() for each in self.classes]
        if len(names) == 1 or len(set(names)) < len(names) or not all(names):
            raise ValueError(
                "classes must be at least two different non-empty names, or absent to take those of the data"
            )
        return self


class ExcludedRows(_Section):
    """Rows of another data set whose reduced formulas are excluded from the training part.

    Attributes:
        data: the other data set.
        field, value: select its rows with this value in this column. Default: all rows.
    """

    data: str
    field: str | None = None
    value: int | str | None = None


class TrainingConfig(_Section):
    """A training run.

    Attributes:
        name: name of the run and of the folder of its state.
        data: a bundled set, a set of the data folder, or a path.
        extra_data: more sets with the same targets; rows whose reduced formula is not in the main set are added to the
            training part.
        exclude: formulas to exclude from the training part, so that another run may start from this network.
        start: initial weights: a published version, NAME or NAME@VERSION, or the folder of another run, runs/NAME,
            which is continued with more epochs or data.
        source, licence: source and licence of the data, for the card.
        version: version to publish. Default: the next free version.
        members: number of networks of the ensemble, trained from different seeds (Lakshminarayanan et al.,
            arXiv:1612.01474).
    """

    name: str = Field(pattern=NAME_PATTERN)
    data: str
    extra_data: tuple[str, ...] = ()
    exclude: tuple[ExcludedRows, ...] = ()
    start: str | None = None
    source: str = ""
    licence: str = ""
    version: str | None = Field(default=None, pattern=VERSION_PATTERN)
    targets: tuple[TargetConfig, ...] = Field(min_length=1)
    split: SplitConfig = SplitConfig()
    graph: GraphConfig = Field(default_factory=lambda: GraphConfig(**GRAPH))
    network: NetworkConfig = Field(default_factory=lambda: NetworkConfig(**NETWORK))
    optimization: OptimizationConfig = OptimizationConfig()
    members: int = Field(default=1, ge=1, le=32)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)

    @field_validator("network")
    @classmethod
    def _is_reducible(cls, network: NetworkConfig) -> NetworkConfig:
        """Training data are graphs after symmetry reduction."""
        if not network.may_merge_atoms:
            raise ValueError(f"{network.title} sees {sorted(network.sees)}, more than symmetry reduction preserves")
        return network

    @model_validator(mode="before")
    @classmethod
    def _filled_up(cls, document: Any) -> Any:
        """Apply the defaults of this project to graph and network, and one output for each target."""
        if isinstance(document, dict) and isinstance(document.get("targets"), list | tuple):
            graph, network = document.get("graph") or {}, document.get("network") or {}
            if isinstance(graph, dict):
                graph = GRAPH | graph
            if isinstance(network, dict):
                network = {"targets": len(document["targets"])} | NETWORK | with_attention(network)
            return document | {"graph": graph, "network": network}
        return document

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.network.targets != len(self.targets):
            raise ValueError(f"network.targets is {self.network.targets}, but {len(self.targets)} targets are listed")
        fields = {target.test_field for target in self.targets} - {None}
        known = {self.split.test_field} if isinstance(self.split.test_field, str) else set(self.split.test_field or ())
        if fields - known:
            raise ValueError(
                f"test_field {sorted(map(str, fields - known))} of a target is not one of split.test_field"
            )
        if len({target.model for target in self.targets}) < len(self.targets):
            raise ValueError("two targets have the same model name")
        return self


def completed(document: Any) -> dict[str, Any]:
    """Fill in the options that a recorded configuration of an earlier version does not have, to compare it.

    Args:
        document: as `TrainingConfig.model_dump` wrote it; one that this version cannot read is returned as it is.
    """
    try:
        return TrainingConfig.model_validate(document).model_dump(mode="json")
    except ValidationError:
        return dict(document)


def read_config(path: Path) -> TrainingConfig:
    """Read the YAML file of a run.

    Raises:
        ConfigError: with the place and the reason, if the file is invalid.
    """
    return validated(TrainingConfig, read_yaml(path), path)
