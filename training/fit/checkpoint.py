"""The state of a run on disk, so that it goes on where it stopped: safetensors and JSON, written atomically."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from deepergatgnn.errors import ConfigError, DeeperGATGNNError
from deepergatgnn.nn.crystal_model import current_names

STATE = "state.safetensors"


class TrainingError(DeeperGATGNNError):
    """A run cannot go on; its last good state is on disk."""


@dataclass
class Progress:
    """Where a run stands; `history` has (training loss, validation error, last learning rate) of each epoch."""

    epoch: int = 0
    best_epoch: int = 0
    best_error: float = float("inf")
    seconds: float = 0.0
    history: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class RunState:
    """All that an undisturbed run would have in memory between two epochs."""

    network: nn.Module
    average: nn.Module
    best: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator

    def save(self, folder: Path, progress: Progress, fingerprint: str) -> None:
        """Write the state, whole or not at all."""
        tensors = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in self.best.items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in slots.items()}
        tensors["generator"] = self.generator.get_state()
        tensors["dropout"] = torch.get_rng_state()
        metadata = {"progress": json.dumps(asdict(progress)), "fingerprint": fingerprint}
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(f"{STATE}.*.part"):  # of a process that was killed while it wrote
            stale.unlink(missing_ok=True)
        temporary = folder / f"{STATE}.{os.getpid()}.part"
        content = save({key: value.detach().cpu().clone() for key, value in tensors.items()}, metadata)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(folder / STATE)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def load(self, folder: Path, fingerprint: str) -> Progress | None:
        """Take up a state saved by the same configuration on the same data; None if there is none.

        Raises:
            ConfigError: if it is the state of another configuration or of other data: it is never overwritten.
            TrainingError: if the file is damaged.
        """
        path = folder / STATE
        if not path.exists():
            return None
        try:
            metadata = _metadata(path)
            if metadata.get("fingerprint") != fingerprint:
                raise other_run(folder, metadata)
            tensors = load_file(path)
        except ConfigError:
            raise
        except (SafetensorError, ValueError) as error:
            raise TrainingError(f"{path} is damaged: {error}; remove it to start anew") from None
        self.network.load_state_dict(_part(tensors, "network."))
        self.average.load_state_dict(_part(tensors, "average."))
        self.best.update(current_names(_part(tensors, "best.")))
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            slots.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})
        self.generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["dropout"])
        progress = Progress(**json.loads(metadata["progress"]))
        progress.history = [(loss, error, rate) for loss, error, rate in progress.history]
        return progress


def check_state(folder: Path, fingerprint: str, differences: str = "") -> None:
    """Refuse to go on where the state of another run is, before anything else is done.

    Args:
        folder: of a member of a run.
        fingerprint: of the configuration and the data to train with.
        differences: between both, for people.

    Raises:
        ConfigError: that names both ways to go on.
        TrainingError: if the state is damaged.
    """
    path = folder / STATE
    if not path.exists():
        return
    try:
        metadata = _metadata(path)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} is damaged: {error}; remove it to start anew") from None
    if metadata.get("fingerprint") != fingerprint:
        raise other_run(folder, metadata, differences)


def other_run(folder: Path, metadata: Mapping[str, str], differences: str = "") -> ConfigError:
    """The refusal to overwrite the state of another configuration or of other data."""
    epoch = json.loads(metadata.get("progress", "{}")).get("epoch", 0)
    run = folder.parent
    return ConfigError(
        f"{folder} holds epoch {epoch} of another configuration or of other data"
        f"{f' ({differences})' if differences else ''}, which is not overwritten: to continue from its weights, give "
        f"this run another name and `start: {run}`; to begin anew, give it another name alone, or remove {run}"
    )


def best_weights(path: Path) -> dict[str, Tensor]:
    """The best averaged weights in the state of a member.

    Raises:
        ConfigError: if it is not such a state.
    """
    try:
        return current_names(_part(load_file(path), "best."))
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{path} is not the state of a run: {error}") from None


def _metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
