"""The state of a run on disk, so that it goes on where it stopped: safetensors and JSON, written atomically."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

STATE = "state.safetensors"


@dataclass
class Progress:
    """Where a run stands."""

    epoch: int = 0
    best_epoch: int = 0
    best_error: float = float("inf")
    seconds: float = 0.0


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
        temporary = folder / f"{STATE}.{os.getpid()}.part"
        save_file({key: value.detach().cpu().clone() for key, value in tensors.items()}, temporary, metadata)
        temporary.replace(folder / STATE)

    def load(self, folder: Path, fingerprint: str) -> Progress | None:
        """Take up a state saved by the same configuration on the same data; None if there is none."""
        path = folder / STATE
        if not path.exists() or (metadata := _metadata(path)).get("fingerprint") != fingerprint:
            return None
        tensors = load_file(path)
        self.network.load_state_dict(_part(tensors, "network."))
        self.average.load_state_dict(_part(tensors, "average."))
        self.best.update(_part(tensors, "best."))
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            slots.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})
        self.generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["dropout"])
        return Progress(**json.loads(metadata["progress"]))


def _metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
