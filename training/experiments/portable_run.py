"""Run in a folder, for training on a bare machine.

`deepergatgnn datasets prepare CONFIG.yaml --out FOLDER` writes the folder. On a machine with only torch,
torch-geometric, numpy, safetensors and these sources,

    python -m deepergatgnn.training FOLDER --runs RUNS --device cuda

trains its members, on several GPUs with `torchrun --nproc-per-node N -m deepergatgnn.training FOLDER --runs RUNS`;
`deepergatgnn train CONFIG.yaml --runs RUNS` then reads their states and publishes. (`deepergatgnn train --cache FOLDER`
also trains from the folder, but requires the complete package.)
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save

from deepergatgnn.device import device_named
from deepergatgnn.errors import ConfigError, DeeperGATGNNError
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.training.config.optimization import OptimizationConfig
from deepergatgnn.training.data.dataset import PreparedDataset
from deepergatgnn.training.data.examples import Examples
from deepergatgnn.training.data.graph_arrays import Subset
from deepergatgnn.training.data.storage import DamagedFolderError, map_file, read_prepared, write_prepared
from deepergatgnn.training.fit.distributed import joined, speaks
from deepergatgnn.training.fit.ensemble_member import TrainingTask, train_member
from deepergatgnn.training.fit.loop import Epoch

TASK, SCALED = "task.json", "scaled.bin"


@dataclass(frozen=True, eq=False)
class PortableRun:
    """Content of the folder of a run.

    Attributes:
        task: input of the training.
        dataset: all rows.
        parts: rows of each part of the split; "train" and "validation" are the examples of the task.
        scaled: standardised targets [n, T].
        record: other data, as JSON.
    """

    task: TrainingTask
    dataset: PreparedDataset
    parts: Mapping[str, NDArray[np.int64]]
    scaled: NDArray[np.float32]
    record: dict[str, Any]


def write_run(folder: Path, run: PortableRun) -> None:
    """Write a run into an empty folder."""
    task = run.task
    document = {
        "name": task.name,
        "network": task.network.document(),
        "optimization": asdict(task.optimization),
        "weights": task.weights,
        "seed": task.seed,
        "fingerprints": task.fingerprints,
        "starts": len(task.starts),
        "folds": task.folds,
        "outputs": task.outputs,
        "parts": list(run.parts),
        "record": run.record,
    }
    files = {TASK: json.dumps(document).encode(), SCALED: run.scaled.astype("<f4").tobytes()}
    files |= {_part_file(part): rows.astype("<i8").tobytes() for part, rows in run.parts.items()}
    files |= {_start_file(index): save(dict(start)) for index, start in enumerate(task.starts)}
    write_prepared(folder, run.dataset, files)


def read_run(folder: Path) -> PortableRun:
    """Read and check the folder of `write_run`.

    Raises:
        ConfigError: if the folder is incomplete or damaged.
    """
    try:
        dataset = read_prepared(folder)
        document = json.loads((folder / TASK).read_bytes())
        network = NetworkConfig.from_document(document["network"])
        scaled = map_file(folder, SCALED, "<f4", (len(dataset), network.targets))
        parts = {part: map_file(folder, _part_file(part), "<i8", (-1,)) for part in document["parts"]}
        training, validation = (
            Examples(Subset([dataset.graphs], parts[part]), scaled[parts[part]]) for part in ("train", "validation")
        )
        task = TrainingTask(
            name=document["name"],
            network=network,
            graph=dataset.graph,
            optimization=OptimizationConfig(**document["optimization"]),
            weights=tuple(document["weights"]),
            seed=document["seed"],
            fingerprints=tuple(document["fingerprints"]),
            starts=tuple(load((folder / _start_file(index)).read_bytes()) for index in range(document["starts"])),
            training=training,
            validation=validation,
            folds=tuple(tuple(fold) for fold in document["folds"]),
            outputs=tuple(document.get("outputs", ())),
        )
    except DamagedFolderError as error:
        raise ConfigError(f"{error}: write it with `deepergatgnn datasets prepare`") from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(
            f"{folder} is not a complete folder of a run ({error}): write it with `deepergatgnn datasets prepare`"
        ) from None
    return PortableRun(task, dataset, parts, scaled, document["record"])


def chosen(task: TrainingTask, member: int | None) -> range:
    """Return the indices of the members to train: all, or `member`, which counts from 1.

    Raises:
        ConfigError: if the run has no such member.
    """
    if member is None:
        return range(task.members)
    if not 1 <= member <= task.members:
        raise ConfigError(f"--member {member}: run {task.name!r} has members 1 to {task.members}")
    return range(member - 1, member)


def report_epoch(epoch: Epoch) -> None:
    """Print the result of an epoch on stderr."""
    print(  # noqa: T201 - this module is a program
        f"epoch {epoch.number}: loss {epoch.train_loss:.4f}, validation {epoch.validation}"
        f"{' (best)' if epoch.best else ''}, {epoch.seconds:.1f} s",
        file=sys.stderr,
        flush=True,
    )


def main() -> None:
    """Train the members of a run in a folder."""
    parser = argparse.ArgumentParser(prog="python -m deepergatgnn.training", description="Train a prepared run.")
    parser.add_argument("folder", type=Path, help="folder of `deepergatgnn datasets prepare`")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run states")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--member", type=int, help="train only this member, counted from 1")
    arguments = parser.parse_args()
    try:
        task = read_run(arguments.folder).task
        with joined(device_named(arguments.device)) as device:
            for member in chosen(task, arguments.member):
                train_member(task, member, arguments.runs, device=device, report=report_epoch)
    except DeeperGATGNNError as error:
        _stop(str(error), 2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        _stop("interrupted; the same command resumes after the last finished epoch", 130)


def _stop(message: str, code: int) -> None:
    if speaks():
        print(f"deepergatgnn.training: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def _part_file(part: str) -> str:
    return f"{part}.rows.bin"


def _start_file(index: int) -> str:
    return f"start-{index + 1}.safetensors"


if __name__ == "__main__":
    main()
