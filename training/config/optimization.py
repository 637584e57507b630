"""Options of the training loop, and the learning-rate schedules. Needs no library, for bare machines."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from deepergatgnn.ranges import check_range

RISE_FROM = 0.04  # first rate of the one-cycle schedule, as a share of the peak


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """Options of the training loop.

    Attributes:
        epochs: largest number of epochs.
        patience: epochs without a better validation error before stopping.
        batch_size: number of average crystals; batches have about equal work (atoms and edges), not equal counts.
        learning_rate: initial rate of the plateau schedule, peak rate of the one-cycle schedule.
        schedule: "one-cycle" (Smith and Topin, arXiv:1708.07120), or "plateau" as in the code of the paper:
            multiplied by `plateau_factor` after `plateau_patience` epochs without a better validation error.
        warmup: fraction of the one-cycle schedule before the peak.
        plateau_factor, plateau_patience, plateau_floor: options of the plateau schedule; the floor is its lowest rate.
        weight_decay: weight decay of AdamW (Loshchilov and Hutter, arXiv:1711.05101).
        loss: loss on standardised targets; "huber" is quadratic below 1 standard deviation, "smooth_l1" below `beta`.
        beta: error at which smooth L1 becomes linear.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which are validated and published; 0 for none.
        precision: precision of the forward pass; with "bfloat16" normalizations and sums stay in float32.
        compile: use torch.compile if a compiler exists; compilation takes minutes and pays off in long runs only.
        frozen_layers: number of layers of the body, from below and with the embedding, that a run with `start` does
            not change; 0 for none.
        layer_decay: factor of the learning rate of each layer relative to the layer above it, in a run with `start`.
        attention_weight: weight of the loss that fits the attention of atoms to the effect of their removal
            (`deepergatgnn.training.fit.attention_loss`); 0 for none.
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
    """Learning rate of the one-cycle schedule, two cosines, at the completed share of the run."""
    if done < config.warmup:
        rise = (1 - math.cos(math.pi * done / config.warmup)) / 2
        return config.learning_rate * (RISE_FROM + (1 - RISE_FROM) * rise)
    return config.learning_rate * (1 + math.cos(math.pi * (done - config.warmup) / (1 - config.warmup))) / 2


def plateau(validation_errors: list[float], config: OptimizationConfig) -> float:
    """Learning rate of the plateau schedule after epochs with these validation errors; it has no other state."""
    rate, best, waited = config.learning_rate, math.inf, 0
    for error in validation_errors:
        best, waited = (error, 0) if error < best else (best, waited + 1)
        if waited > config.plateau_patience:
            rate, waited = max(config.plateau_floor, rate * config.plateau_factor), 0
    return rate
