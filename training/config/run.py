"""Configuration of a training run: one YAML file, parsed once, frozen, passed on."""

import operator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError, model_validator

from deepergatgnn.checkpoints.manifest import MOST_CLASSES, NAME_PATTERN, PROBABILITY, VERSION_PATTERN
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.config import NetworkConfig, with_attention
from deepergatgnn.training.config.optimization import OptimizationConfig
from deepergatgnn.training.config.split import SplitConfig
from deepergatgnn.training.config.yaml_files import read_yaml, validated

# What trains well, untuned, on sets of hundreds to tens of thousands of crystals; the paper has no angles, 20 layers.
GRAPH: dict[str, Any] = {"angles": 8}
LARGEST_SEED = 2**31 - 1  # members and processes draw with seeds made from it, which have 64 bits
NETWORK: dict[str, Any] = {"layers": 5, "dropout": 0.1, "spread": True}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _is_regression(kind: object) -> bool:
    return kind == "regression"


class TargetConfig(_Section):
    """A column to learn and the model it is published as.

    Attributes:
        model: name in the store.
        key: column of `targets` in the data set.
        transform: of the column before standardising; "log10" for positive values that span decades.
        property: name in answers; the key, if not given.
        test_field: of several columns of official folds the one of this target: the others' test rows do not score it.
        unit: of the column.
        description: one line for people.
        weight: in the loss.
        kind: "classification" for a column of classes, of which probabilities are learned.
        classes: to tell apart, as in the column: text, truth values or whole numbers, the one that counts as positive
            last; rows of others are left out. All that the data have, sorted, if not given.
    """

    model: str = Field(pattern=NAME_PATTERN)
    key: str
    transform: Literal["identity", "log10"] = "identity"
    property: str = ""
    test_field: str | None = None
    unit: str
    description: str = ""
    weight: float = Field(default=1.0, gt=0)
    # Left out where they say nothing, so that a number is configured as it was before there were classes.
    kind: Literal["regression", "classification"] = Field(default="regression", exclude_if=_is_regression)
    classes: tuple[StrictBool | StrictInt | StrictStr, ...] = Field(
        default=(), max_length=MOST_CLASSES, exclude_if=operator.not_
    )

    @model_validator(mode="before")
    @classmethod
    def _unit_of_classes(cls, document: Any) -> Any:
        """What is learned of classes has one unit, which need not be given."""
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
            raise ValueError("classes must be at least two that differ and have names, or none for those of the data")
        return self


class ExcludedRows(_Section):
    """Rows of another data set whose reduced formulas the training part must not have.

    Attributes:
        data: the other data set.
        field, value: only its rows with this value in this column; all, if not given.
    """

    data: str
    field: str | None = None
    value: int | str | None = None


class TrainingConfig(_Section):
    """A whole run.

    Attributes:
        name: of the run; its state is kept under this name.
        data: a bundled set, a set of the data folder, or a path.
        extra_data: more sets of the same targets; their rows join the training part, as far as the main set does not
            have their reduced formulas.
        exclude: whose formulas the training part must not have, so that this network may later start another run.
        start: whose weights the network begins with: a published version, NAME or NAME@VERSION, or the folder of
            another run, runs/NAME, which is continued so with more epochs or data.
        source, licence: of the data, for the card.
        version: to publish; the next free one, if not given.
        members: networks, trained from different seeds, that make up one version (Lakshminarayanan et al.,
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

    @model_validator(mode="before")
    @classmethod
    def _filled_up(cls, document: Any) -> Any:
        """Options of graph and network that are not given are ours, not the paper's; one output a target."""
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
    """Read a YAML file.

    Raises:
        ConfigError: with the place and the reason, if the file does not fit.
    """
    return validated(TrainingConfig, read_yaml(path), path)
