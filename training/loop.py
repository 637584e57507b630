"""The training loop: batches, one-cycle AdamW, averaged weights, early stopping, state after every epoch."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own habit
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from deepergatgnn.batch import GraphBatch, collate
from deepergatgnn.errors import DeeperGATGNNError
from deepergatgnn.graph import CrystalGraph
from deepergatgnn.network import DeeperGATGNN
from deepergatgnn.predictor import cut
from training.config import OptimizationConfig
from training.state import Progress, RunState

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
    "mse": F.mse_loss,
}
EVALUATION_EDGES = 200_000
Batches = Iterable[tuple[GraphBatch, Tensor]]
Tensors = tuple[Tensor, ...] | list[Tensor]
log = logging.getLogger(__name__)


class TrainingError(DeeperGATGNNError):
    """A run cannot go on; its last good state is on disk."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Graphs with standardised targets [n, T]; NaN where a target is missing."""

    graphs: Sequence[CrystalGraph]
    targets: NDArray[np.float32]


@dataclass(frozen=True)
class Epoch:
    """What is reported after an epoch; errors are means over targets, in standard deviations."""

    number: int
    train_loss: float
    validation_mae: float
    best: bool
    seconds: float


def learning_rate(step: int, steps: int, config: OptimizationConfig) -> float:
    """One-cycle schedule: a cosine up to the peak, a cosine down to nothing; a pure function of the step."""
    rise = max(1, round(config.warmup * steps))
    if step < rise:
        return config.learning_rate * (0.04 + 0.96 * (1 - math.cos(math.pi * step / rise)) / 2)
    return config.learning_rate * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


def train(
    network: DeeperGATGNN,
    training: Examples,
    validation: Examples,
    config: OptimizationConfig,
    weights: Sequence[float],
    *,
    seed: int,
    device: torch.device,
    folder: Path,
    fingerprint: str,
    report: Callable[[Epoch], None],
    track: Callable[[Batches, int, int], Batches] = lambda batches, _epoch, _total: batches,
) -> Progress:
    """Train in place; at the end `network` holds the best averaged weights.

    On one CPU thread a run that was interrupted reaches the same bits as one that was not; with several threads the
    order of sums may follow the load of the machine.

    Args:
        network: initialised with the run's seed.
        training: examples to learn.
        validation: examples that choose the best epoch.
        config: the loop's numbers.
        weights: of each target in the loss.
        seed: of the order of the examples.
        device: where to compute.
        folder: where the state goes, and from where an earlier run with the same fingerprint is taken up.
        fingerprint: of configuration and data.
        report: called after every epoch.
        track: wraps the batches of an epoch, for a progress bar.

    Raises:
        TrainingError: if the loss is not finite.
    """
    network.to(device)
    average = AveragedModel(network, multi_avg_fn=_moving_average(config.ema), use_buffers=True)
    optimizer = torch.optim.AdamW(_parameter_groups(network, config.weight_decay), lr=config.learning_rate)
    state = RunState(network, average, {}, optimizer, torch.Generator().manual_seed(seed))
    progress = state.load(folder, fingerprint) or Progress()
    forward = torch.compile(network, dynamic=True) if config.compile and _can_compile() else network
    per_epoch = max(1, len(training.graphs) // config.batch_size)
    loss_weights = torch.tensor(weights, dtype=torch.float32, device=device)
    for epoch in range(progress.epoch, config.epochs):
        if epoch - progress.best_epoch >= config.patience:
            break
        start, total = time.perf_counter(), 0.0
        network.train()
        batches = _batches(training, config.batch_size, per_epoch, state.generator)
        for index, batch in enumerate(track(batches, epoch, per_epoch)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch * per_epoch + index, config.epochs * per_epoch, config)
            graph, targets = batch
            loss = _loss(forward(graph.to(device)).values, targets.to(device), loss_weights, LOSSES[config.loss])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimizer.step()
            average.update_parameters(network)
            total += loss.item()
            if not math.isfinite(total):
                raise TrainingError(
                    f"the loss is {loss.item()} in epoch {epoch + 1}: lower optimization.learning_rate; "
                    f"the state of epoch {epoch} is kept in {folder}"
                )
        average.eval()
        error = validation_error(average.module, validation, device)
        better = error < progress.best_error
        if better:
            progress.best_error, progress.best_epoch = error, epoch + 1
            state.best.update({key: value.clone() for key, value in average.module.state_dict().items()})
        progress.epoch = epoch + 1
        progress.seconds += time.perf_counter() - start
        state.save(folder, progress, fingerprint)
        report(Epoch(epoch + 1, total / per_epoch, error, better, time.perf_counter() - start))
    network.load_state_dict(state.best)
    network.eval()
    return progress


@torch.inference_mode()
def outputs(network: torch.nn.Module, graphs: Sequence[CrystalGraph], device: torch.device) -> tuple[Tensor, Tensor]:
    """Standardised values [n, T] and crystal vectors [n, F] of any number of graphs, on the CPU."""
    network.eval()
    parts = [network(collate(part).to(device)) for part in cut(graphs, EVALUATION_EDGES)]
    return torch.cat([part.values for part in parts]).cpu(), torch.cat([part.crystal_vectors for part in parts]).cpu()


def validation_error(network: torch.nn.Module, examples: Examples, device: torch.device) -> float:
    """Mean absolute error over rows and targets, in standard deviations of the training targets."""
    values = outputs(network, examples.graphs, device)[0].numpy()
    return float(np.nanmean(np.abs(values - examples.targets)))


def _moving_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Exponential moving average of weights and buffers; shorter at first, so that early epochs can be judged."""

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(updates)) / (10 + int(updates)))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)
            else:
                mean.copy_(value)

    return update


def _loss(values: Tensor, targets: Tensor, weights: Tensor, function: Callable[..., Tensor]) -> Tensor:
    known = torch.isfinite(targets)
    each = function(values, torch.where(known, targets, 0.0), reduction="none") * known * weights
    return each.sum() / (known * weights).sum().clamp_min(1e-12)


def _batches(
    examples: Examples, size: int, count: int, generator: torch.Generator
) -> Iterator[tuple[GraphBatch, Tensor]]:
    """Shuffled batches; the rest that fills none is left to another epoch's shuffle."""
    order = torch.randperm(len(examples.graphs), generator=generator).tolist()
    for index in range(count):
        rows = order[index * size : (index + 1) * size]
        yield collate([examples.graphs[row] for row in rows]), torch.from_numpy(examples.targets[rows])


def _parameter_groups(network: torch.nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices; none for biases and normalizations."""
    matrices = [
        p for name, p in network.named_parameters() if p.ndim > 1 and ".norm" not in name and "norms." not in name
    ]
    chosen = {id(p) for p in matrices}
    others = [p for p in network.parameters() if id(p) not in chosen]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _can_compile() -> bool:
    """Whether torch.compile works here: it needs a C++ compiler, which a machine may lack."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(2))
    except Exception as error:  # noqa: BLE001 - whatever the compiler's reason, eager mode gives the same numbers
        log.warning("torch.compile does not work here, training without it: %s", str(error).splitlines()[0])
        return False
    return True
