"""Configuration of a search: the varied parameters and the run that they vary."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deepergatgnn.checkpoints.manifest import NAME_PATTERN
from deepergatgnn.training.config.run import TrainingConfig
from deepergatgnn.training.config.yaml_files import read_yaml, validated

SECTIONS = ("network", "optimization")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Range(_Section):
    """Numbers from `low` to `high` inclusive: integers if both are, on a logarithmic scale if `log`."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic scale cannot begin at {self.low}")
        return self


class Choices(_Section):
    """A list of values."""

    choices: tuple[bool | int | float | str, ...] = Field(min_length=1)


class SweepConfig(_Section):
    """A search.

    Attributes:
        base: YAML file of a run, relative to the folder of the sweep.
        parameters: varied options, such as "optimization.learning_rate" or "network.layers". Only these two sections
            may vary: others change the data, so that the errors would not be comparable.
        name: name of the search. Default: that of the run with "-sweep".
        trials: number of configurations to try.
        pruner: "median" stops a trial whose validation error is above the median of earlier trials at the same epoch,
            after `warmup` epochs and the first five trials.
        warmup: number of epochs.
        seed: seed of the proposals.
    """

    base: str
    parameters: dict[str, Range | Choices] = Field(min_length=1)
    name: str | None = Field(default=None, pattern=NAME_PATTERN)
    trials: int = Field(default=20, ge=1)
    pruner: Literal["median", "none"] = "median"
    warmup: int = Field(default=5, ge=0)
    seed: int = Field(default=0, ge=0, le=4000)  # a million times it fits in 32 bits

    @model_validator(mode="after")
    def _sections(self) -> Self:
        for place in self.parameters:
            section, dot, option = place.partition(".")
            if section not in SECTIONS or not dot or not option or place == "network.targets":
                raise ValueError(f"parameter {place!r} cannot be varied: take an option of {' or '.join(SECTIONS)}")
        return self


def read_sweep(path: Path) -> tuple[SweepConfig, dict[str, Any]]:
    """Read the YAML file of a sweep and of its base, and validate the ends of every range.

    Raises:
        ConfigError: with the place and the reason, if a file is invalid.
    """
    config = validated(SweepConfig, read_yaml(path), path)
    base = read_yaml(path.parent / config.base)
    validated(TrainingConfig, base, path.parent / config.base)
    for place, values in config.parameters.items():
        for value in values.choices if isinstance(values, Choices) else (values.low, values.high):
            validated(TrainingConfig, with_parameters(base, {place: value}), f"{path}: parameters.{place} {value}")
    return config, base


def with_parameters(document: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the document with options set, each given as "section.option"."""
    changed = copy.deepcopy(dict(document))
    for place, value in parameters.items():
        section, _, option = place.partition(".")
        changed[section] = (changed.get(section) or {}) | {option: value}
    return changed
