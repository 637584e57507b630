"""The state on disk, and runs that end in every way a run can end."""

import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from deepergatgnn.errors import ConfigError
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.training.fit.checkpoint import STATE, Progress, RunState, TrainingError, check_state
from tests.conftest import ROOT
from tests.support.fixtures import seeded_network
from tests.support.literal_network import literal_name

PROGRESS = Progress(epoch=2, best_epoch=1, best_error=0.1, seconds=3.5, history=[(1 / 3, 0.1, 1e-3), (0.2, 0.3, 5e-4)])
PROGRAM = "from deepergatgnn.commands.main import main; main()"
LIMITED = (
    "import resource, signal, sys; sys.dont_write_bytecode = True; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); signal.signal(signal.SIGXFSZ, signal.{action}); "
    + PROGRAM
)
RUN = """
name: safe
data: {data}
targets:
  - {{model: safe-bulk-modulus, key: log10_K_VRH, unit: log10(GPa)}}
split: {{test_fraction: 0.2, validation_fraction: 0.1, calibration_fraction: 0.1}}
network: {{layers: 1, channels: 16, heads: 2, groups: 4, dropout: 0.1}}
optimization: {{epochs: 40, batch_size: 16}}
"""


def some_state(seed: int = 0) -> RunState:
    """A state after one step, so that the optimizer has something to remember."""
    network = seeded_network(seed, layers=1, channels=8, heads=2, groups=2)
    average = AveragedModel(network, use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    torch.stack([parameter.square().sum() for parameter in network.parameters()]).sum().backward()
    optimizer.step()
    average.update_parameters(network)
    best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return RunState(network, average, best, optimizer, torch.Generator().manual_seed(seed))


def former_name(name: str) -> str:
    """The name of a tensor in states of before schema 3."""
    place = next((each for each in ("network.", "average.module.", "best.") if name.startswith(each)), None)
    return name if place is None else place + literal_name(name.removeprefix(place))


def test_a_state_comes_back_as_it_was_to_the_bit(tmp_path: Path) -> None:
    state = some_state()
    torch.manual_seed(5)
    state.save(tmp_path, PROGRESS, "print")
    drawn = torch.rand(3), torch.rand(3, generator=state.generator)
    other = some_state(seed=1)
    assert other.load(tmp_path, "print") == PROGRESS
    assert torch.equal(torch.rand(3), drawn[0])
    assert torch.equal(torch.rand(3, generator=other.generator), drawn[1])
    for ours, theirs in ((other.network, state.network), (other.average, state.average)):
        assert all(torch.equal(ours.state_dict()[name], tensor) for name, tensor in theirs.state_dict().items())
    assert all(torch.equal(other.best[name], tensor) for name, tensor in state.best.items())
    slots, expected = other.optimizer.state_dict()["state"], state.optimizer.state_dict()["state"]
    assert slots.keys() == expected.keys()
    assert all(torch.equal(slots[index][key], value) for index in expected for key, value in expected[index].items())


def test_the_names_in_the_file_stay_what_they_are(tmp_path: Path) -> None:
    """States of long runs are on people's disks; a renamed tensor would take their runs away."""
    state = some_state()
    state.save(tmp_path, PROGRESS, "print")
    network: CrystalModel = state.network  # type: ignore[assignment]
    weights = list(network.state_dict())
    assert load_file(tmp_path / STATE).keys() == {
        *(f"network.{name}" for name in weights),
        *(f"average.module.{name}" for name in weights),
        *(f"best.{name}" for name in weights),
        "average.n_averaged",
        *(
            f"optimizer.{index}.{slot}"
            for index in range(len(list(network.parameters())))
            for slot in ("step", "exp_avg", "exp_avg_sq")
        ),
        "generator",
        "dropout",
    }


def test_a_state_of_before_the_network_had_parts_comes_back_too(tmp_path: Path) -> None:
    state = some_state()
    state.save(tmp_path, PROGRESS, "print")
    with (tmp_path / STATE).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    former = {former_name(name): tensor for name, tensor in load_file(tmp_path / STATE).items()}
    assert {"network.head.weight", "average.module.embed_edge.bias", "best.layers.0.weight"} <= former.keys()
    save_file(former, tmp_path / STATE, header["__metadata__"])
    other = some_state(seed=1)
    assert other.load(tmp_path, "print") == PROGRESS
    for ours, theirs in ((other.network, state.network), (other.average, state.average)):
        assert all(torch.equal(ours.state_dict()[name], tensor) for name, tensor in theirs.state_dict().items())
    assert other.best.keys() == state.best.keys()
    assert all(torch.equal(other.best[name], tensor) for name, tensor in state.best.items())


def test_no_state_is_no_state(tmp_path: Path) -> None:
    assert some_state().load(tmp_path, "print") is None


def test_the_state_of_something_else_is_refused_with_both_ways_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "member-1"
    some_state().save(folder, PROGRESS, "other")
    content = (folder / STATE).read_bytes()
    for refuse in (lambda: some_state().load(folder, "print"), lambda: check_state(folder, "print", "epochs 2 there")):
        with pytest.raises(ConfigError, match=f"to continue .* `start: {tmp_path}/run`; to begin anew, .* or remove"):
            refuse()
    assert (folder / STATE).read_bytes() == content
    check_state(folder, "other")
    check_state(tmp_path / "none", "other")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_damaged_state_is_refused_with_the_remedy(tmp_path: Path, kept: int) -> None:
    some_state().save(tmp_path, PROGRESS, "print")
    path = tmp_path / STATE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TrainingError, match=r"state\.safetensors is damaged: .*; remove it to start anew"):
        some_state().load(tmp_path, "print")


@dataclass(frozen=True)
class Command:
    """One and the same `deepergatgnn train`, however often it is started."""

    folder: Path
    data: Path

    @property
    def state(self) -> Path:
        """Where its state is."""
        return self.folder / "runs" / "safe" / "member-1" / STATE

    @contextmanager
    def started(self, program: str = PROGRAM) -> Iterator["subprocess.Popen[str]"]:
        """The process, which is no more at the end of the block."""
        config = self.folder / "run.yaml"
        config.write_text(RUN.format(data=self.data))
        places = ["--runs", str(self.folder / "runs"), "--store", str(self.folder / "store")]
        with subprocess.Popen(
            [sys.executable, "-c", program, "train", str(config), *places],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def ended(self, program: str = PROGRAM) -> tuple[int, str]:
        """Exit code and messages of a process that is left alone."""
        with self.started(program) as process:
            _, messages = process.communicate(timeout=300)
        return process.returncode, messages

    def stopped(self, number: signal.Signals, after_epochs: int, wait_s: float = 0.0) -> tuple[int, str]:
        """Exit code and last messages of a process that gets a signal some time after so many of its own epochs."""
        with self.started() as process:
            assert process.stderr is not None
            seen = 0
            while seen < after_epochs:
                line = process.stderr.readline()
                assert line, "it ended before the signal"
                seen += line.startswith("epoch ")
            time.sleep(wait_s)
            process.send_signal(number)
            _, messages = process.communicate(timeout=60)
        return process.returncode, messages

    def epoch(self) -> int:
        """The epoch of the state on disk; reading it proves that it is whole."""
        load_file(self.state)
        content = self.state.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return int(json.loads(header["__metadata__"]["progress"])["epoch"])

    def published(self) -> bytes:
        """The weights of the version."""
        return (self.folder / "store" / "safe-bulk-modulus" / "1.0.0" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first crystals of the bundled set."""
    path = tmp_path_factory.mktemp("data") / "first.jsonl"
    with gzip.open(ROOT / "training" / "examples" / "elastic_tensor_2015.jsonl.gz", "rt") as file:
        path.write_text("".join(next(file) for _ in range(120)))
    return path


def test_whatever_ends_a_run_the_same_command_goes_on_to_the_same_bits(tmp_path: Path, data: Path) -> None:
    undisturbed, run = (Command(tmp_path / name, data) for name in ("undisturbed", "disturbed"))
    for command in (undisturbed, run):
        command.folder.mkdir()
    assert undisturbed.ended()[0] == 0

    # Dies in the middle of writing its first state: the kernel kills it at that very byte.
    assert run.ended(LIMITED.format(size=4096, action="SIG_DFL"))[0] == -signal.SIGXFSZ
    [torn] = run.state.parent.iterdir()
    assert torn.name != STATE
    assert torn.stat().st_size == 4096

    # Killed at any moment, within an epoch or while it writes.
    chance = random.Random(0)  # noqa: S311 - moments, not secrets
    assert run.stopped(signal.SIGKILL, 3, chance.uniform(0, 0.1))[0] == -signal.SIGKILL
    first = run.epoch()
    assert first >= 3

    # No room for the next state: an error from the system, as on a full disk.
    before = run.state.read_bytes()
    code, messages = run.ended(LIMITED.format(size=len(before) // 2, action="SIG_IGN"))
    assert code == 1
    assert re.search(rf"^deepergatgnn: the state of epoch {first + 1} cannot be written to .*: File too large; "
                     rf"the state of epoch {first} is kept in ", messages, re.MULTILINE)  # fmt: skip
    assert "Traceback" not in messages
    assert run.state.read_bytes() == before
    assert list(run.state.parent.iterdir()) == [run.state]

    # Ctrl-C.
    code, messages = run.stopped(signal.SIGINT, 2)
    assert code == 130
    assert messages.splitlines()[-1] == (
        "deepergatgnn: interrupted; the same command resumes after the last finished epoch"
    )
    assert "Traceback" not in messages
    assert run.epoch() >= first + 2

    assert run.stopped(signal.SIGKILL, 2, chance.uniform(0, 0.1))[0] == -signal.SIGKILL
    assert run.epoch() < 40
    assert run.ended()[0] == 0
    assert run.published() == undisturbed.published()
