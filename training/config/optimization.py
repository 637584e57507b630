"""The numbers of the loop: a plain dataclass, and what follows from it, so that a bare machine can train."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from deepergatgnn.ranges import check_range

RISE_FROM = 0.04  # of the peak, where the one-cycle schedule begins


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """The loop.

    Attributes:
        epochs: at most.
        patience: epochs without a better validation error before stopping.
        batch_size: crystals of average size; batches hold about equal work (atoms and edges), not equal counts.
        learning_rate: the first one of the plateau schedule, the peak of the one-cycle schedule.
        schedule: "one-cycle" (Smith and Topin, arXiv:1708.07120), or "plateau" as in the paper's code: times
            `plateau_factor` after `plateau_patience` epochs without a better validation error.
        warmup: fraction of the one-cycle schedule that rises to the peak.
        plateau_factor, plateau_patience, plateau_floor: of the plateau schedule; the floor is its lowest rate.
        weight_decay: of AdamW (Loshchilov and Hutter, arXiv:1711.05101).
        loss: on standardised targets; "huber" is quadratic below 1 standard deviation, "smooth_l1" the same here but
            for a scale of `beta`.
        beta: where smooth L1 becomes linear.
        clip: norm of the gradient.
        ema: decay of the averaged weights, which are validated and published; 0 for none.
        precision: of the forward pass; "bfloat16" for GPUs that have it, normalizations and sums stay in float32.
        compile: use torch.compile where a compiler exists; compiling takes minutes, which only long runs earn back.
        frozen_layers: of a run that starts from a published version: this many layers of the body from below, and the
            embedding with them, are not changed. 0 changes everything.
        layer_decay: likewise: each layer learns this much more slowly than the one above it.
        attention_weight: of the loss that ties the attention of atoms to what taking them away does to the prediction
            (`deepergatgnn.training.fit.attention_loss`); 0 leaves the attention to the pooling alone.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    epochs: int = 48
    patience: int = 48
    batch_size: int = 64
    learning_rate: float = 3e-3
    schedule: Literal["one-cycle", "plateau"] = "one-cycle"
    warmup: float = 0.2
    plateau_factor: float = 0.8
    plateau_patience: int = 10
    plateau_floor: float = 1e-5
    weight_decay: float = 1e-2
    loss: Literal["l1", "smooth_l1", "huber", "mse"] = "l1"
    beta: float = 0.5
    clip: float = 1.0
    ema: float = 0.995
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    frozen_layers: int = 0
    layer_decay: float = 1.0
    attention_weight: float = 0.0

    def __post_init__(self) -> None:
        check_range("epochs", self.epochs, least=1)
        check_range("patience", self.patience, least=1)
        check_range("batch_size", self.batch_size, least=2)
        check_range("learning_rate", self.learning_rate, above=0)
        check_range("warmup", self.warmup, above=0, below=1)
        check_range("plateau_factor", self.plateau_factor, above=0, below=1)
        check_range("plateau_patience", self.plateau_patience, least=1)
        check_range("plateau_floor", self.plateau_floor, least=0)
        check_range("weight_decay", self.weight_decay, least=0)
        check_range("beta", self.beta, above=0)
        check_range("clip", self.clip, above=0)
        check_range("ema", self.ema, least=0, below=1)
        check_range("frozen_layers", self.frozen_layers, least=0)
        check_range("layer_decay", self.layer_decay, above=0, most=1)
        check_range("attention_weight", self.attention_weight, least=0)


def one_cycle(done: float, config: OptimizationConfig) -> float:
    """A cosine up to the peak and a cosine down to nothing: a pure function of the share of the run that is done."""
    if done < config.warmup:
        rise = (1 - math.cos(math.pi * done / config.warmup)) / 2
        return config.learning_rate * (RISE_FROM + (1 - RISE_FROM) * rise)
    return config.learning_rate * (1 + math.cos(math.pi * (done - config.warmup) / (1 - config.warmup))) / 2


def plateau(validation_errors: list[float], config: OptimizationConfig) -> float:
    """The rate after epochs with these validation errors: a pure function of them, so nothing needs to be saved."""
    rate, best, waited = config.learning_rate, math.inf, 0
    for error in validation_errors:
        best, waited = (error, 0) if error < best else (best, waited + 1)
        if waited > config.plateau_patience:
            rate, waited = max(config.plateau_floor, rate * config.plateau_factor), 0
    return rate
