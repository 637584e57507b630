"""Training of one member of an ensemble from prepared examples; needs no more than a bare machine has."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.training.config.optimization import OptimizationConfig
from deepergatgnn.training.data.examples import Examples
from deepergatgnn.training.fit.batches import Batches
from deepergatgnn.training.fit.checkpoint import Progress
from deepergatgnn.training.fit.loop import Epoch, train

Track = Callable[[Batches, int, int], Batches]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingTask:
    """Everything that determines the weights of the members of a run.

    Attributes:
        name: of the run.
        network, graph, optimization: sizes and numbers.
        weights: of each target in the loss.
        seed: of the first member.
        fingerprints: of each member; a state is taken up only by the same.
        starts: weights to begin with, member by member in turn; none to begin at random.
        training, validation: examples.
        folds: training examples that each member does not learn from, by number; none if all learn from all.
        outputs: of the network for each target: one for a number, else one for each class; none if all are numbers.
    """

    name: str
    network: NetworkConfig
    graph: GraphConfig
    optimization: OptimizationConfig
    weights: tuple[float, ...]
    seed: int
    fingerprints: tuple[str, ...]
    starts: tuple[dict[str, Tensor], ...]
    training: Examples
    validation: Examples
    folds: tuple[tuple[int, ...], ...] = ()
    outputs: tuple[int, ...] = ()

    @property
    def members(self) -> int:
        """Networks of the run."""
        return len(self.fingerprints)


def train_member(
    task: TrainingTask,
    member: int,
    runs: Path,
    *,
    device: torch.device,
    report: Callable[[Epoch], None],
    track: Track = lambda batches, _epoch, _total: batches,
) -> tuple[CrystalModel, Progress]:
    """Train one network of the ensemble, or take up its state; its seed is the run's plus its number.

    Args:
        task: the run.
        member: its number, from 0.
        runs: folder of run states.
        device: where to compute.
        report: called after every epoch.
        track: wraps the batches of an epoch, for a progress bar.

    Raises:
        TrainingError: if the loss is not finite or the state cannot be written.
    """
    torch.manual_seed(task.seed + member)
    network = CrystalModel(task.network, task.graph)
    if task.starts:
        network.load_state_dict(network.state_dict() | task.starts[member % len(task.starts)])
    progress = train(
        network,
        task.training.without(task.folds[member]) if task.folds else task.training,
        task.validation,
        task.optimization,
        task.weights,
        seed=task.seed + member,
        device=device,
        folder=member_folder(runs, task.name, member),
        fingerprint=task.fingerprints[member],
        report=report,
        track=track,
        outputs=task.outputs,
    )
    return network, progress


def member_folder(runs: Path, name: str, member: int) -> Path:
    """Folder of the state of a member of a run."""
    return runs / name / f"member-{member + 1}"
