"""The training loop: batches, AdamW, averaged weights, early stopping, state after every epoch."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own habit
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from deepergatgnn.errors import ConfigError
from deepergatgnn.graphs.crystal_graph import CrystalGraph
from deepergatgnn.nn.batch import GraphBatch, collate, edges_at_once, split_by_edges
from deepergatgnn.nn.crystal_model import CrystalModel, NetworkOutput
from deepergatgnn.nn.normalization import DifferentiableGroupNorm, WeightedBatchNorm
from deepergatgnn.training.config.optimization import OptimizationConfig, one_cycle, plateau
from deepergatgnn.training.data.examples import Examples
from deepergatgnn.training.fit.attention_loss import EVERY, attention_loss
from deepergatgnn.training.fit.batches import Batches, collated, draw_batches, share_out
from deepergatgnn.training.fit.checkpoint import Progress, RunState, TrainingError
from deepergatgnn.training.fit.distributed import check_agreement, rank, ranks, sum_gradients, sum_over_ranks

LOOK_EVERY = 32  # batches between two checks of the loss, each of which synchronises a GPU
Tensors = tuple[Tensor, ...] | list[Tensor]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """Report of an epoch; errors are means over targets, in standard deviations, of classes log losses.

    `measure` names which of both `validation_mae` is a mean of; "error" stands for both.
    """

    number: int
    train_loss: float
    validation_mae: float
    best: bool
    seconds: float
    measure: str = "MAE"

    @property
    def validation(self) -> str:
        """The validation error, for people."""
        return f"{self.measure} {self.validation_mae:.4f}{' sd' if self.measure == 'MAE' else ''}"


def train(
    network: CrystalModel,
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
    outputs: Sequence[int] = (),
) -> Progress:
    """Train in place; at the end `network` holds the best averaged weights.

    On one CPU thread a run that was interrupted reaches the same bits as one that was not; with several threads the
    order of sums may follow the load of the machine. Several processes (see `distributed`) take the same
    steps as one, each on its part of every batch, up to rounding; each draws its own dropout.

    Args:
        network: initialised with the run's seed, or with the weights of a published version.
        training: examples to learn.
        validation: examples that choose the best epoch.
        config: the loop's numbers.
        weights: of each target in the loss.
        seed: of the order of the examples.
        device: where to compute.
        folder: where the state goes, and from where an earlier run with the same fingerprint is taken up.
        fingerprint: of configuration and data.
        report: called after every epoch, by the first process only.
        track: wraps the batches of an epoch, for a progress bar.
        outputs: of the network for each target: one for a number, else one for each class; none if all are numbers.

    Raises:
        ConfigError: if more layers are frozen than there are, or the attention that is to be fitted is not there.
        TrainingError: if the loss is not finite or the state cannot be written or read.
    """
    network.to(device)
    loop = _Loop.of(network, config, weights, outputs, device)
    state = RunState(network, loop.average, {}, loop.optimizer, torch.Generator().manual_seed(seed))
    progress = state.load(folder, fingerprint) or Progress()
    check_agreement(progress.epoch, str(folder))
    for epoch in range(progress.epoch, config.epochs):
        if epoch - progress.best_epoch >= config.patience:
            break
        start = time.perf_counter()
        _seed_dropout(seed, epoch)
        batches = draw_batches(training.work, config.batch_size, state.generator)
        mine = [share_out(rows, training.work, ranks())[rank()] for rows in batches]
        train_loss, rate = loop.train_epoch(
            track(collated(training, mine), epoch, len(mine)), len(mine), progress, folder
        )
        error = _error(loop.average, validation, device, outputs)
        progress.epoch, last_best = epoch + 1, progress.best_error
        progress.history.append((train_loss, error, rate))
        _require_finite("validation error", error, epoch, folder)
        if error < progress.best_error:
            progress.best_error, progress.best_epoch = error, epoch + 1
            state.best.update({key: value.clone() for key, value in loop.average.module.state_dict().items()})
        progress.seconds += time.perf_counter() - start
        if rank() == 0:
            _save(state, folder, progress, fingerprint)
            seconds = time.perf_counter() - start
            report(Epoch(epoch + 1, train_loss, error, error < last_best, seconds, measure_of(outputs)))
    network.load_state_dict(state.best)
    network.eval()
    return progress


@dataclass(frozen=True, eq=False)
class _Loop:
    """All that an epoch of training needs, made once for a run."""

    network: CrystalModel
    forward: Callable[[GraphBatch], NetworkOutput]
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    frozen: list[nn.Module]
    config: OptimizationConfig
    weights: Tensor
    outputs: Sequence[int]
    device: torch.device

    @classmethod
    def of(
        cls,
        network: CrystalModel,
        config: OptimizationConfig,
        weights: Sequence[float],
        outputs: Sequence[int],
        device: torch.device,
    ) -> "_Loop":
        """The loop of a network that is on its device."""
        _check_attention(network, config)
        frozen = _freeze(network, config.frozen_layers)
        average = AveragedModel(network, multi_avg_fn=_moving_average(config.ema), use_buffers=True)
        optimizer = torch.optim.AdamW(_parameter_groups(network, config))
        forward = torch.compile(network, dynamic=True) if config.compile and _can_compile() else network
        loss_weights = torch.tensor(weights, dtype=torch.float32, device=device)
        return cls(network, forward, average, optimizer, frozen, config, loss_weights, outputs, device)

    def train_epoch(self, batches: Batches, count: int, progress: Progress, folder: Path) -> tuple[float, float]:
        """Take one step for each of `count` batches.

        Returns:
            The mean loss and the last learning rate.

        Raises:
            TrainingError: if the loss is not finite.
        """
        config, epoch, rate = self.config, progress.epoch, 0.0
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        self.network.train()
        for module in self.frozen:
            module.eval()
        for index, (graph, targets) in enumerate(batches):
            rate = _rate((epoch + index / count) / config.epochs, progress, config)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["pace"]
            total += self._step(graph, targets, index)
            if index % LOOK_EVERY == 0 or index + 1 == count:
                _require_finite("loss", float(total), epoch, folder)
        return float(total) / count, rate

    def _step(self, graph: GraphBatch, targets: Tensor, index: int) -> Tensor:
        """Take a step and return the loss of the values, over all processes."""
        config, network, moved = self.config, self.network, graph.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            output = self.forward(moved)
        loss, scale_loss = _losses(output, targets.to(self.device), self.weights, config, self.outputs)
        further = _attention_part(network, moved, output, index, config)
        self.optimizer.zero_grad()
        (loss + scale_loss + further).backward()  # type: ignore[no-untyped-call]
        total = sum_gradients(network, loss)
        for parameters in _heads_and_body(network):
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        self.optimizer.step()
        self.average.update_parameters(network)
        return total


@torch.inference_mode()
def outputs(network: torch.nn.Module, graphs: Sequence[CrystalGraph], device: torch.device) -> NetworkOutput:
    """Compute the outputs for any number of graphs, batch by batch; the result is on the CPU."""
    network.eval()
    parts = [network(collate(part).to(device)) for part in split_by_edges(graphs, edges_at_once(device))]
    values, attention, vectors, log_scales = zip(*parts, strict=True)
    return NetworkOutput(
        torch.cat(values).cpu(),
        None if attention[0] is None else torch.cat(attention).cpu(),
        torch.cat(vectors).cpu(),
        torch.cat(log_scales).cpu(),
    )


def validation_error(network: nn.Module, examples: Examples, device: torch.device) -> float:
    """Mean absolute error over rows and targets, in standard deviations of the training targets."""
    total, count = _absolute_errors(network, examples, device).tolist()
    return float(total / count)


def measure_of(targets: Sequence[int]) -> str:
    """Name of the validation error, by the outputs for each target."""
    kinds = {"MAE" if each == 1 else "log loss" for each in targets}
    return "error" if len(kinds) > 1 else next(iter(kinds), "MAE")


def _error(average: AveragedModel, examples: Examples, device: torch.device, targets: Sequence[int]) -> float:
    """Validation error of the averaged weights; each process computes its part."""
    sums = _absolute_errors(average.module, examples.part(rank(), ranks()), device, targets)
    total, count = sum_over_ranks(sums.to(device)).tolist()
    return float(total / count)


def _absolute_errors(
    network: nn.Module, examples: Examples, device: torch.device, targets: Sequence[int] = ()
) -> Tensor:
    """Sum and number of the absolute errors, and of the cross-entropies of classes."""
    if not len(examples.graphs):
        return torch.zeros(2, dtype=torch.float64)
    values, truth = outputs(network, examples.graphs, device).values.double(), torch.from_numpy(examples.targets)
    errors, known = (values - truth).abs(), truth.isfinite()
    if has_classes(targets):
        known, errors = known[:, _firsts(targets)], _with_classes(errors, values, truth.nan_to_num(), targets)
    return torch.stack([errors[known].sum(), known.sum()])


def _save(state: RunState, folder: Path, progress: Progress, fingerprint: str) -> None:
    try:
        state.save(folder, progress, fingerprint)
    except OSError as failure:
        raise TrainingError(
            f"the state of epoch {progress.epoch} cannot be written to {folder}: {failure.strerror or failure}; "
            f"{_kept(progress.epoch - 1, folder)}"
        ) from None


def _require_finite(what: str, value: float, epoch: int, folder: Path) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the {what} is {value} in epoch {epoch + 1}: lower optimization.learning_rate; {_kept(epoch, folder)}"
        )


def _kept(epoch: int, folder: Path) -> str:
    return f"the state of epoch {epoch} is kept in {folder}" if epoch else "there is no state yet"


def _seed_dropout(seed: int, epoch: int) -> None:
    """Seed the dropout of each further process; the first one continues the generator of its state."""
    if rank():
        torch.manual_seed((seed << 32) + (epoch << 12) + rank())


def _rate(done: float, progress: Progress, config: OptimizationConfig) -> float:
    """The learning rate at a share of the run."""
    if config.schedule == "one-cycle":
        return one_cycle(done, config)
    return plateau([error for _, error, _ in progress.history], config)


def _moving_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Exponential moving average of weights and buffers, shorter in the first steps so that early epochs count."""

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(updates)) / (10 + int(updates)))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)
            else:
                mean.copy_(value)

    return update


def has_classes(targets: Sequence[int]) -> bool:
    """Whether any target has classes, by the outputs for each target."""
    return any(each > 1 for each in targets)


def _firsts(targets: Sequence[int]) -> list[int]:
    """The first output of each target."""
    return [sum(targets[:index]) for index in range(len(targets))]


def _with_classes(each: Tensor, values: Tensor, truth: Tensor, targets: Sequence[int]) -> Tensor:
    """Losses by output [B, O] → losses by target [B, T]: for classes the cross-entropy replaces those of its outputs.

    Shapes:
        each, values: [B, O].
        truth: [B, O], of classes 1 for the true one and 0 for the others; 0 where it is not known.
    """
    columns = []
    for first, count in zip(_firsts(targets), targets, strict=True):
        here = slice(first, first + count)
        entropy = -(truth[:, here] * F.log_softmax(values[:, here], dim=1)).sum(dim=1, keepdim=True)
        columns.append(each[:, here] if count == 1 else entropy)
    return torch.cat(columns, dim=1)


def _losses(
    output: NetworkOutput,
    targets: Tensor,
    weights: Tensor,
    config: OptimizationConfig,
    of_targets: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Loss of the values, and of the predicted scales: the negative logarithm of a Laplace density of the residuals.

    Of classes the loss is the cross-entropy, and they have no scale; `of_targets` are the outputs for each target.
    Each is the part of these rows in the mean over the batch of all processes.
    """
    known = torch.isfinite(targets)
    truth = torch.where(known, targets, 0.0)
    values, log_scales = output.values.to(targets.dtype), output.log_scales.to(targets.dtype)
    if config.loss == "l1":
        each = F.l1_loss(values, truth, reduction="none")
    elif config.loss == "mse":
        each = F.mse_loss(values, truth, reduction="none")
    elif config.loss == "huber":
        each = F.huber_loss(values, truth, reduction="none")
    else:
        each = F.smooth_l1_loss(values, truth, reduction="none", beta=config.beta)
    scale_loss = (values - truth).abs().detach() * torch.exp(-log_scales) + log_scales
    if has_classes(of_targets):
        firsts = _firsts(of_targets)
        numbers = torch.tensor([count == 1 for count in of_targets], device=scale_loss.device)
        each = _with_classes(each, values, truth, of_targets)
        scale_loss = scale_loss[:, firsts] * numbers
        known = known[:, firsts]
    share = known * weights
    total = sum_over_ranks(share.sum()).clamp_min(1e-12)
    return (each * share).sum() / total, (scale_loss * share).sum() / total


def _attention_part(
    network: CrystalModel, graph: GraphBatch, output: NetworkOutput, index: int, config: OptimizationConfig
) -> Tensor | float:
    """The weighted loss of the attention, in the batches that have it."""
    if not config.attention_weight or index % EVERY or output.attention is None:
        return 0.0
    return config.attention_weight * attention_loss(network, graph, output.attention)


def _check_attention(network: CrystalModel, config: OptimizationConfig) -> None:
    if config.attention_weight and (reason := network.config.attention_reason):
        raise ConfigError(f"optimization.attention_weight is {config.attention_weight}, but {reason}: set it to 0")


def _freeze(network: CrystalModel, layers: int) -> list[nn.Module]:
    """Freeze the embedding and so many layers from below; return these modules, whose statistics rest too."""
    if layers > network.config.layers:
        raise ConfigError(f"optimization.frozen_layers is {layers}, but the network has {network.config.layers} layers")
    if not layers:
        return []
    below = [module for stage in network.stages()[: layers + 1] for module in stage]
    for module in below:
        module.requires_grad_(requires_grad=False)
    return below


def _heads_and_body(network: CrystalModel) -> list[list[nn.Parameter]]:
    """Two groups that are clipped separately, so that the gradient of the scales does not shrink the others."""
    scales = [] if network.head.scales is None else list(network.head.scales.parameters())
    separate = set(map(id, scales))
    return [[each for each in network.parameters() if id(each) not in separate], scales]


def _parameter_groups(network: CrystalModel, config: OptimizationConfig) -> list[dict[str, object]]:
    """Group parameters by pace and weight decay: decay for matrices, none for biases and normalizations."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    stages = network.stages()
    heights = {
        id(parameter): height
        for height, stage in enumerate(stages)
        for module in stage
        for parameter in module.parameters()
    }
    kinds = (DifferentiableGroupNorm, WeightedBatchNorm)
    norms = {id(each) for module in network.modules() if isinstance(module, kinds) for each in module.parameters()}
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim > 1 and id(parameter) not in norms
        pace = config.layer_decay ** (len(stages) - 1 - heights[id(parameter)])
        groups.setdefault((pace, config.weight_decay if matrix else 0.0), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "pace": pace, "lr": config.learning_rate}
        for (pace, decay), parameters in groups.items()
    ]


def _can_compile() -> bool:
    """Whether torch.compile works here: it needs a C++ compiler, which a machine may lack."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(2))
    except Exception as error:  # noqa: BLE001 - whatever the compiler's reason, eager mode gives the same numbers
        log.warning("torch.compile does not work here, training without it: %s", str(error).splitlines()[0])
        return False
    return True
