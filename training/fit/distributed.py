"""Several processes that train one network, as torchrun starts them; for a single process every sum is itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.fit.checkpoint import TrainingError


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started with this one, over gloo on CPUs and NCCL on GPUs.

    Args:
        device: a kind; each process takes a GPU of its own.

    Yields:
        The device of this process.

    Raises:
        ConfigError: if there are fewer GPUs than processes on this machine.
        TrainingError: if another process ended before this one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = _own_gpu(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise TrainingError(
            "another process of this run has ended: its own message says why; the same command goes on from the last "
            "finished epoch"
        ) from None
    distributed.destroy_process_group()


def _own_gpu(device: torch.device) -> torch.device:
    local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if device.index is not None:
        raise ConfigError(f"--device {device}: each of several processes takes a GPU of its own, say --device cuda")
    if local >= count:
        raise ConfigError(f"more processes than the {count} GPUs here: torchrun --nproc-per-node {count}")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def speaks() -> bool:
    """Whether this is the only process that torchrun started on this machine, or the first of them."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def rank() -> int:
    """Number of this process, from 0; only 0 writes and reports."""
    return distributed.get_rank() if _several() else 0


def ranks() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _several() else 1


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of what each process has, without a gradient; the same bits for all of them."""
    if not _several():
        return tensor
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total


def sum_gradients(network: nn.Module, loss: Tensor) -> Tensor:
    """Add up the gradients and the losses of all processes in one message.

    Args:
        network: the same for all processes, frozen parameters too; `grad` is overwritten.
        loss: of the part of this process, over the weight of the whole batch.

    Returns:
        The loss of the whole batch.
    """
    if not _several():
        return loss.detach()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    message = torch.cat([gradient.reshape(-1) for gradient in gradients] + [loss.detach().reshape(1)])
    distributed.all_reduce(message)
    *totals, total = torch.split(message, [gradient.numel() for gradient in gradients] + [1])
    for gradient, summed in zip(gradients, totals, strict=True):
        gradient.copy_(summed.view_as(gradient))
    return total[0]


def check_agreement(epoch: int, place: str) -> None:
    """Refuse a run whose processes have taken up different states, or only some of them any.

    Raises:
        ConfigError: if so.
    """
    if not _several():
        return
    extremes = torch.tensor([epoch, -epoch], device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(extremes, op=distributed.ReduceOp.MIN)
    if extremes[0] != -extremes[1]:
        raise ConfigError(f"the processes do not see the same state in {place}: --runs must be a folder they share")
