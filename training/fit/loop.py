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
from deepergatgnn.nn.network import DeeperGATGNN, NetworkOutput
from deepergatgnn.training.config.optimization import OptimizationConfig, one_cycle, plateau
from deepergatgnn.training.data.examples import Examples
from deepergatgnn.training.fit.attention_loss import EVERY, attention_loss
from deepergatgnn.training.fit.batches import Batches, collated, draw_batches, share_out
from deepergatgnn.training.fit.checkpoint import Progress, RunState, TrainingError
from deepergatgnn.training.fit.distributed import check_agreement, rank, ranks, sum_gradients, sum_over_ranks

LOOK_EVERY = 32  # batches between two looks at the loss, each of which waits for a GPU
Tensors = tuple[Tensor, ...] | list[Tensor]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """What is reported after an epoch; errors are means over targets, in standard deviations, of classes log losses.

    `measure` says which of both `validation_mae` is a mean of; "error" stands for both.
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
        ConfigError: if more layers are frozen than there are.
        TrainingError: if the loss is not finite or the state cannot be written or read.
    """
    network.to(device)
    frozen = _freeze(network, config.frozen_layers)
    average = AveragedModel(network, multi_avg_fn=_moving_average(config.ema), use_buffers=True)
    optimizer = torch.optim.AdamW(_parameter_groups(network, config))
    state = RunState(network, average, {}, optimizer, torch.Generator().manual_seed(seed))
    progress = state.load(folder, fingerprint) or Progress()
    check_agreement(progress.epoch, str(folder))
    forward = torch.compile(network, dynamic=True) if config.compile and _can_compile() else network
    loss_weights = torch.tensor(weights, dtype=torch.float32, device=device)
    for epoch in range(progress.epoch, config.epochs):
        if epoch - progress.best_epoch >= config.patience:
            break
        start, total = time.perf_counter(), torch.zeros((), dtype=torch.float64, device=device)
        _seed_dropout(seed, epoch)
        network.train()
        for module in frozen:
            module.eval()
        batches = draw_batches(training.work, config.batch_size, state.generator)
        mine = [share_out(rows, training.work, ranks())[rank()] for rows in batches]
        for index, (graph, targets) in enumerate(track(collated(training, mine), epoch, len(mine))):
            rate = _rate((epoch + index / len(batches)) / config.epochs, progress, config)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["pace"]
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                output = forward(graph.to(device))
            loss, spread_loss = _losses(output, targets.to(device), loss_weights, config, outputs)
            further = _attention_part(network, graph.to(device), output, index, config)
            optimizer.zero_grad()
            (loss + spread_loss + further).backward()  # type: ignore[no-untyped-call]
            total += sum_gradients(network, loss)
            for parameters in _heads_and_body(network):
                torch.nn.utils.clip_grad_norm_(parameters, config.clip)
            optimizer.step()
            average.update_parameters(network)
            if index % LOOK_EVERY == 0 or index + 1 == len(batches):
                _require_finite("loss", float(total), epoch, folder)
        progress.epoch, last_best = epoch + 1, progress.best_error
        progress.history.append((float(total) / len(batches), _error(average, validation, device, outputs), rate))
        train_loss, error, _ = progress.history[-1]
        _require_finite("validation error", error, epoch, folder)
        if error < progress.best_error:
            progress.best_error, progress.best_epoch = error, epoch + 1
            state.best.update({key: value.clone() for key, value in average.module.state_dict().items()})
        progress.seconds += time.perf_counter() - start
        if rank() == 0:
            _save(state, folder, progress, fingerprint)
            seconds = time.perf_counter() - start
            report(Epoch(epoch + 1, train_loss, error, error < last_best, seconds, measure_of(outputs)))
    network.load_state_dict(state.best)
    network.eval()
    return progress


@torch.inference_mode()
def outputs(network: torch.nn.Module, graphs: Sequence[CrystalGraph], device: torch.device) -> NetworkOutput:
    """All that the network says of any number of graphs, on the CPU."""
    network.eval()
    parts = [network(collate(part).to(device)) for part in split_by_edges(graphs, edges_at_once(device))]
    return NetworkOutput(*(torch.cat(pieces).cpu() for pieces in zip(*parts, strict=True)))


def validation_error(network: nn.Module, examples: Examples, device: torch.device) -> float:
    """Mean absolute error over rows and targets, in standard deviations of the training targets."""
    total, count = _absolute_errors(network, examples, device).tolist()
    return float(total / count)


def measure_of(targets: Sequence[int]) -> str:
    """What the validation error is a mean of, by the outputs for each target."""
    kinds = {"MAE" if each == 1 else "log loss" for each in targets}
    return "error" if len(kinds) > 1 else next(iter(kinds), "MAE")


def _error(average: AveragedModel, examples: Examples, device: torch.device, targets: Sequence[int]) -> float:
    """The validation error of the averaged weights, each process having looked at its part."""
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
    """Each process draws its own; the first one goes on with the generator that is part of its state."""
    if rank():
        torch.manual_seed((seed << 32) + (epoch << 12) + rank())


def _rate(done: float, progress: Progress, config: OptimizationConfig) -> float:
    """The learning rate at a share of the run."""
    if config.schedule == "one-cycle":
        return one_cycle(done, config)
    return plateau([error for _, error, _ in progress.history], config)


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


def has_classes(targets: Sequence[int]) -> bool:
    """Whether any target has classes, by the outputs for each target."""
    return any(each > 1 for each in targets)


def _firsts(targets: Sequence[int]) -> list[int]:
    """The first output of each target."""
    return [sum(targets[:index]) for index in range(len(targets))]


def _with_classes(each: Tensor, values: Tensor, truth: Tensor, targets: Sequence[int]) -> Tensor:
    """[B, O] → [B, T]: what there is of numbers, and the cross-entropies of classes in place of what there is of those.

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
    """The loss of the values, and that of the spreads: the negative logarithm of a Laplace density of the residuals.

    Of classes the loss is the cross-entropy, and they have no spread; `of_targets` are the outputs for each target.
    Each is the part of these rows in the mean over the batch of all processes.
    """
    known = torch.isfinite(targets)
    truth = torch.where(known, targets, 0.0)
    values, log_spreads = output.values.to(targets.dtype), output.log_spreads.to(targets.dtype)
    if config.loss == "l1":
        each = F.l1_loss(values, truth, reduction="none")
    elif config.loss == "mse":
        each = F.mse_loss(values, truth, reduction="none")
    elif config.loss == "huber":
        each = F.huber_loss(values, truth, reduction="none")
    else:
        each = F.smooth_l1_loss(values, truth, reduction="none", beta=config.beta)
    spread = (values - truth).abs().detach() * torch.exp(-log_spreads) + log_spreads
    if has_classes(of_targets):
        firsts = _firsts(of_targets)
        numbers = torch.tensor([count == 1 for count in of_targets], device=spread.device)
        each, spread = _with_classes(each, values, truth, of_targets), spread[:, firsts] * numbers
        known = known[:, firsts]
    share = known * weights
    total = sum_over_ranks(share.sum()).clamp_min(1e-12)
    return (each * share).sum() / total, (spread * share).sum() / total


def _attention_part(
    network: DeeperGATGNN, graph: GraphBatch, output: NetworkOutput, index: int, config: OptimizationConfig
) -> Tensor | float:
    """The weighted loss of the attention, in the batches that have it."""
    if not config.attention_weight or index % EVERY:
        return 0.0
    return config.attention_weight * attention_loss(network, graph, output.attention)


def _freeze(network: DeeperGATGNN, layers: int) -> list[nn.Module]:
    """Keep the embeddings and so many layers from below as they are; those modules, whose statistics rest too."""
    if layers > network.config.layers:
        raise ConfigError(f"optimization.frozen_layers is {layers}, but the network has {network.config.layers} layers")
    if not layers:
        return []
    below = [network.embed_element, network.embed_edge, *network.layers[:layers], *network.norms[:layers]]
    for module in below:
        module.requires_grad_(requires_grad=False)
    return below


def _heads_and_body(network: DeeperGATGNN) -> list[list[nn.Parameter]]:
    """Clipped apart: how much the spreads have to learn must not hold the values back."""
    spread = [] if network.spread is None else list(network.spread.parameters())
    apart = set(map(id, spread))
    return [[each for each in network.parameters() if id(each) not in apart], spread]


def _parameter_groups(network: DeeperGATGNN, config: OptimizationConfig) -> list[dict[str, object]]:
    """One group for each pace and weight decay: decay for matrices, none for biases and normalizations."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        height = _height(name, network.config.layers)
        matrix = parameter.ndim > 1 and ".norm" not in name and "norms." not in name
        pace = config.layer_decay ** (network.config.layers + 1 - height)
        groups.setdefault((pace, config.weight_decay if matrix else 0.0), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "pace": pace, "lr": config.learning_rate}
        for (pace, decay), parameters in groups.items()
    ]


def _height(name: str, layers: int) -> int:
    """0 for the embeddings, 1 to L for the AGAT layers from below, L + 1 for all above them."""
    first, _, rest = name.partition(".")
    if first in {"layers", "norms"}:
        return int(rest.partition(".")[0]) + 1
    return 0 if first.startswith("embed_") else layers + 1


def _can_compile() -> bool:
    """Whether torch.compile works here: it needs a C++ compiler, which a machine may lack."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(2))
    except Exception as error:  # noqa: BLE001 - whatever the compiler's reason, eager mode gives the same numbers
        log.warning("torch.compile does not work here, training without it: %s", str(error).splitlines()[0])
        return False
    return True
