"""One YAML file says everything about a training run; parsed once, frozen, passed on."""

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deepergatgnn.errors import ConfigError
from deepergatgnn.graph import GraphConfig
from deepergatgnn.manifest import NAME_PATTERN, VERSION_PATTERN
from deepergatgnn.network_config import NetworkConfig


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TargetConfig(_Section):
    """A column to learn and the model it is published as.

    Attributes:
        model: name in the store.
        key: column of `targets` in the data set.
        property: name in answers; the key, if not given.
        unit: of the column.
        description: one line for people.
        weight: in the loss.
    """

    model: str = Field(pattern=NAME_PATTERN)
    key: str
    property: str = ""
    unit: str
    description: str = ""
    weight: float = Field(default=1.0, gt=0)


class SplitConfig(_Section):
    """How rows are parted into training, validation, calibration and test.

    Attributes:
        test_field: column with official folds; `test_fold` is then the test part.
        test_fold: value of that column.
        test_fraction: of all rows, drawn at random, where there are no official folds.
        validation_fraction: of the rows that are not test; chooses the best epoch.
        calibration_fraction: likewise; sets the intervals.
        by: draw single rows, or all rows of a reduced formula together.
    """

    test_field: str | None = None
    test_fold: int | None = None
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    validation_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    calibration_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    by: Literal["row", "formula"] = "row"

    @model_validator(mode="after")
    def _folds(self) -> Self:
        if (self.test_field is None) != (self.test_fold is None):
            raise ValueError("give both test_field and test_fold, or neither")
        return self


class OptimizationConfig(_Section):
    """The loop.

    Attributes:
        epochs: at most.
        patience: epochs without a better validation error before stopping.
        batch_size: crystals.
        learning_rate: peak of the one-cycle schedule (Smith and Topin, arXiv:1708.07120).
        warmup: fraction of the steps that rise to the peak.
        weight_decay: of AdamW (Loshchilov and Hutter, arXiv:1711.05101).
        loss: on standardised targets.
        clip: norm of the gradient.
        ema: decay of the averaged weights, which are validated and published; 0 for none.
        compile: use torch.compile where a compiler exists; compiling takes minutes, which only long runs earn back.
    """

    epochs: int = Field(default=40, ge=1)
    patience: int = Field(default=40, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup: float = Field(default=0.2, gt=0, lt=1)
    weight_decay: float = Field(default=1e-2, ge=0)
    loss: Literal["l1", "smooth_l1", "mse"] = "l1"
    clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.995, ge=0, lt=1)
    compile: bool = False


class TrainingConfig(_Section):
    """A whole run.

    Attributes:
        name: of the run; its state is kept under this name.
        data: a bundled set, a set of the data folder, or a path to a .jsonl.gz.
        source, licence: of the data, for the card.
        version: to publish; the next free one, if not given.
    """

    name: str = Field(pattern=NAME_PATTERN)
    data: str
    source: str = ""
    licence: str = ""
    version: str | None = Field(default=None, pattern=VERSION_PATTERN)
    targets: tuple[TargetConfig, ...] = Field(min_length=1)
    split: SplitConfig = SplitConfig()
    graph: GraphConfig = GraphConfig()
    network: NetworkConfig = NetworkConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _count_targets(cls, document: Any) -> Any:
        """The network has one output a target; nobody has to say it twice."""
        if isinstance(document, dict) and isinstance(document.get("targets"), list | tuple):
            network = document.get("network") or {}
            if isinstance(network, dict):
                network = {"targets": len(document["targets"])} | network
            return document | {"network": network}
        return document

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.network.targets != len(self.targets):
            raise ValueError(f"network.targets is {self.network.targets}, but {len(self.targets)} targets are listed")
        if len({target.model for target in self.targets}) < len(self.targets):
            raise ValueError("two targets have the same model name")
        return self


def read_config(path: Path) -> TrainingConfig:
    """Read a YAML file.

    Raises:
        ConfigError: with the place and the reason, if the file does not fit.
    """
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    try:
        return TrainingConfig.model_validate(document)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"{path}: {reasons}") from None
