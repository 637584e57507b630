"""Several processes take the steps of one: sums, gradients, statistics, a whole epoch, and an end in order."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, distributed, multiprocessing

from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.training.config.optimization import OptimizationConfig
from deepergatgnn.training.data.examples import Examples
from deepergatgnn.training.fit.batches import collated, share_out
from deepergatgnn.training.fit.checkpoint import STATE
from deepergatgnn.training.fit.distributed import check_agreement, rank, ranks, sum_gradients, sum_over_ranks
from deepergatgnn.training.fit.loop import _losses
from tests.conftest import ROOT
from tests.support.fixtures import BUNDLED, graphs_of, some_crystals

BATCHES = ([0, 1, 2, 3, 4], [5])  # of the second, one of two processes gets nothing
RUN = f"""
name: shared
data: {BUNDLED}
targets:
  - {{model: shared-bulk-modulus, key: log10_K_VRH, unit: log10(GPa)}}
network: {{layers: 2, channels: 16, heads: 2, groups: 4, dropout: 0.0}}
optimization: {{epochs: EPOCHS}}
"""


def some_examples() -> Examples:
    targets = np.random.default_rng(0).normal(size=(6, 2))
    targets[1, 0] = np.nan
    return Examples(graphs_of(some_crystals(6)), targets)  # type: ignore[arg-type] - float64, to see rounding apart


def step(graphs: Sequence[CrystalGraph], targets: np.ndarray) -> dict[str, Tensor]:
    """Gradients, statistics and loss of two batches in float64, in this process's part."""
    torch.manual_seed(0)
    sizes = NetworkConfig(layers=2, channels=8, heads=2, groups=3, targets=2, spread=True)
    network = CrystalModel(sizes, GraphConfig()).double().train()
    examples = Examples(graphs, targets)
    found: dict[str, Tensor] = {}
    mine = [share_out(rows, examples.work, ranks())[rank()] for rows in BATCHES]
    for number, (graph, truth) in enumerate(collated(examples, mine)):
        network.zero_grad()
        output = network(graph.to("cpu", dtype=torch.float64))
        loss, spread = _losses(output, truth, torch.tensor([1.0, 0.5]).double(), OptimizationConfig())
        (loss + spread).backward()  # type: ignore[no-untyped-call]
        found[f"{number} loss"] = sum_gradients(network, loss)
        found |= {f"{number} {name}": p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return found | {name: tensor.clone() for name, tensor in network.named_buffers()}


def process(number: int, folder: Path, graphs: Sequence[CrystalGraph], targets: np.ndarray) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    found = step(graphs, targets)
    found["sum"] = sum_over_ranks(torch.tensor([number + 1.0, 10.0]))
    check_agreement(3, "here")
    try:
        check_agreement(number, "there")
    except ValueError as error:
        (folder / f"{number}.txt").write_text(str(error))
    np.savez(folder / f"{number}.npz", **{name: tensor.numpy() for name, tensor in found.items()})
    distributed.destroy_process_group()


def test_two_processes_have_the_gradients_and_statistics_of_one(tmp_path: Path) -> None:
    examples = some_examples()
    alone = step(examples.graphs, examples.targets)
    multiprocessing.spawn(process, (tmp_path, examples.graphs, examples.targets), nprocs=2)  # type: ignore[no-untyped-call]
    for number in range(2):
        with np.load(tmp_path / f"{number}.npz") as together:
            assert set(together) == alone.keys() | {"sum"}
            for name, tensor in alone.items():
                np.testing.assert_allclose(together[name], tensor.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)
            assert together["sum"].tolist() == [3, 20]
        said = (tmp_path / f"{number}.txt").read_text()
        assert said == "the processes do not see the same state in there: --runs must be a folder they share"


def test_a_single_process_sums_nothing() -> None:
    values = torch.tensor([1.0, 2.0])
    assert sum_over_ranks(values) is values
    assert (rank(), ranks()) == (0, 1)
    check_agreement(3, "here")


def command(folder: Path, epochs: int, *launcher: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    config = folder / "run.yaml"
    config.write_text(RUN.replace("EPOCHS", str(epochs)))
    places = ["--runs", str(folder / "runs"), "--store", str(folder / "store")]
    return [sys.executable, "-m", *launcher, "deepergatgnn.commands.main", "train", str(config), *places]


def together(folder: Path, epochs: int) -> list[str]:
    return command(folder, epochs, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def test_an_epoch_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """All within 1e-5, but for one weight that no answer depends on.

    The bias of the attention's score shifts a softmax: its gradient is nothing but rounding, which Adam divides by its
    own size, so it drifts by up to the learning rate a step, in a direction that is chance.
    """
    said = []
    for name, arguments in (("one", command(tmp_path / "one", 1)), ("two", together(tmp_path / "two", 1))):
        done = subprocess.run(arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        losses = re.findall(r"^epoch 1: loss ([\d.]+), validation MAE ([\d.]+) sd", done.stderr, re.MULTILINE)
        assert len(losses) == 1, f"{name}: said by one process only"
        assert len(done.stdout.splitlines()) == 1
        said.append((losses, done.stdout))
    assert said[0] == said[1]
    one, two = (load_file(tmp_path / name / "runs" / "shared" / "member-1" / STATE) for name in ("one", "two"))
    apart = {key: (one[key].double() - two[key].double()).abs().max().item() for key in one}
    free = {key for key in apart if key.endswith("attention.output.bias")}
    assert max(apart[key] for key in apart.keys() - free) <= 1e-5
    assert max(apart[key] for key in free) <= 14 * OptimizationConfig().learning_rate
    assert torch.equal(one["generator"], two["generator"])


def test_when_one_process_dies_all_end_and_the_state_is_good(tmp_path: Path) -> None:
    arguments = together(tmp_path, 10_000)
    with subprocess.Popen(arguments, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True) as launcher:
        assert launcher.stderr is not None
        try:
            for line in launcher.stderr:
                if line.startswith("epoch 2:"):
                    break
            children = {_rank(child): child for child in _children(launcher.pid)}
            os.kill(children[1], signal.SIGKILL)
            _, messages = launcher.communicate(timeout=60)
        finally:
            launcher.kill()
    assert launcher.returncode == 1
    assert "Signal 9 (SIGKILL)" in messages
    assert "[rank0]: Traceback" not in messages
    end = time.monotonic() + 10
    while Path(f"/proc/{children[0]}").exists():
        assert time.monotonic() < end, "the other process outlives it"
        time.sleep(0.05)
    [state] = (tmp_path / "runs" / "shared" / "member-1").iterdir()
    assert state.name == STATE
    assert load_file(state)


def _children(parent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _rank(pid: int) -> int:
    found = re.search(rb"\0RANK=(\d+)\0", Path(f"/proc/{pid}/environ").read_bytes())
    return int(found.group(1)) if found else -1
