"""The YAML file of a search: what is varied, around which run."""

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
    """Numbers from `low` to `high`, both included: whole ones if both are, on a logarithmic scale if `log`."""

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
    """One of these values."""

    choices: tuple[bool | int | float | str, ...] = Field(min_length=1)


class SweepConfig(_Section):
    """A search.

    Attributes:
        base: the YAML file of a run; its path is taken from the sweep's folder.
        parameters: what is varied, as "optimization.learning_rate" or "network.layers". Only these two sections may
            vary: any other changes the data, and then the errors are not those of the same crystals.
        name: of the search; the run's with "-sweep", if not given.
        trials: number of configurations to try.
        pruner: "median" stops a trial whose validation error is above the median of the earlier trials at the same
            epoch, but neither before `warmup` epochs nor among the first five trials.
        warmup: epochs.
        seed: of the proposals.
    """

    base: str
    parameters: dict[str, Range | Choices] = Field(min_length=1)
    name: str | None = Field(default=None, pattern=NAME_PATTERN)
    trials: int = Field(default=20, ge=1)
    pruner: Literal["median", "none"] = "median"
    warmup: int = Field(default=5, ge=0)
    seed: int = Field(default=0, ge=0, le=4000)  # times a million it has to fit in 32 bits

    @model_validator(mode="after")
    def _sections(self) -> Self:
        for place in self.parameters:
            section, dot, option = place.partition(".")
            if section not in SECTIONS or not dot or not option or place == "network.targets":
                raise ValueError(f"parameter {place!r} cannot be varied: take an option of {' or '.join(SECTIONS)}")
        return self


def read_sweep(path: Path) -> tuple[SweepConfig, dict[str, Any]]:
    """Read a sweep's YAML file and the document of its base, and try the ends of every range.

    Raises:
        ConfigError: with the place and the reason, if a file does not fit.
    """
    config = validated(SweepConfig, read_yaml(path), path)
    base = read_yaml(path.parent / config.base)
    validated(TrainingConfig, base, path.parent / config.base)
    for place, values in config.parameters.items():
        for value in values.choices if isinstance(values, Choices) else (values.low, values.high):
            validated(TrainingConfig, with_parameters(base, {place: value}), f"{path}: parameters.{place} {value}")
    return config, base


def with_parameters(document: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A document with some options set, each given as "section.option"."""
    changed = copy.deepcopy(dict(document))
    for place, value in parameters.items():
        section, _, option = place.partition(".")
        changed[section] = (changed.get(section) or {}) | {option: value}
    return changed
