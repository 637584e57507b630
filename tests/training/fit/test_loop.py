"""The loop: it learns, it stops, and an interruption leaves no trace."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deepergatgnn.errors import ConfigError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.batch import collate
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.crystal_model import CrystalModel
from deepergatgnn.training.config.optimization import OptimizationConfig
from deepergatgnn.training.data.examples import Examples
from deepergatgnn.training.fit.batches import Batches
from deepergatgnn.training.fit.checkpoint import STATE, Progress, TrainingError
from deepergatgnn.training.fit.loop import Epoch, outputs, train, validation_error
from tests.support.fixtures import graphs_of, some_rows

CPU = torch.device("cpu")
QUICK = OptimizationConfig(epochs=3, batch_size=16)


@cache
def examples() -> tuple[Examples, Examples]:
    """Eighty crystals to learn and twenty to validate, bulk and shear modulus standardised."""
    rows = some_rows(100)
    values = np.array([[row.targets["log10_K_VRH"], row.targets["log10_G_VRH"]] for row in rows])
    scaled = ((values - values.mean(axis=0)) / values.std(axis=0)).astype(np.float32)
    graphs = graphs_of([row.crystal for row in rows])
    order = np.random.default_rng(0).permutation(100)
    return tuple(Examples([graphs[row] for row in part], scaled[part]) for part in (order[:80], order[80:]))  # type: ignore[return-value]


def fresh(seed: int = 0, *, dropout: float = 0.2, spread: bool = False) -> CrystalModel:
    torch.manual_seed(seed)
    sizes = NetworkConfig(layers=2, channels=16, heads=2, groups=4, targets=2, dropout=dropout, spread=spread)
    return CrystalModel(sizes, GraphConfig())


@dataclass
class Trial:
    """One call of `train`, with what it reported."""

    folder: Path
    config: OptimizationConfig = QUICK
    network: CrystalModel = field(default_factory=fresh)
    epochs: list[Epoch] = field(default_factory=list)

    def run(
        self,
        training: Examples | None = None,
        validation: Examples | None = None,
        *,
        fingerprint: str = "same",
        report: Callable[[Epoch], None] | None = None,
        track: Callable[[Batches, int, int], Batches] = lambda batches, _epoch, _total: batches,
    ) -> Progress:
        return train(
            self.network,
            training or examples()[0],
            validation or examples()[1],
            self.config,
            (1.0, 0.5),
            seed=1,
            device=CPU,
            folder=self.folder,
            fingerprint=fingerprint,
            report=report or self.epochs.append,
            track=track,
        )


def weights(network: CrystalModel) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}


class InterruptionError(Exception):
    """As if the process had ended."""


def test_a_few_epochs_lower_the_error(tmp_path: Path) -> None:
    trial = Trial(tmp_path, replace(QUICK, epochs=8, learning_rate=5e-3))
    before = validation_error(fresh(), examples()[0], CPU)
    progress = trial.run()
    assert validation_error(trial.network, examples()[0], CPU) < 0.8 * before
    assert trial.epochs[-1].train_loss < 0.8 * trial.epochs[0].train_loss
    assert [epoch.number for epoch in trial.epochs] == list(range(1, 9))
    assert progress.epoch == 8
    assert not trial.network.training


def test_the_network_left_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    trial = Trial(tmp_path, replace(QUICK, epochs=6, learning_rate=0.03, ema=0.0))
    progress = trial.run()
    errors = [epoch.validation_mae for epoch in trial.epochs]
    assert progress.best_epoch == int(np.argmin(errors)) + 1
    assert progress.best_error == min(errors)
    assert progress.history == [
        (e.train_loss, e.validation_mae, r) for e, (*_, r) in zip(trial.epochs, progress.history, strict=True)
    ]
    assert validation_error(trial.network, examples()[1], CPU) == pytest.approx(min(errors), rel=1e-6)
    assert [epoch.best for epoch in trial.epochs] == [
        error < min([*errors[:index], math.inf]) for index, error in enumerate(errors)
    ]


def told(epochs: list[Epoch]) -> list[tuple[int, float, float, bool]]:
    """Reports without their times."""
    return [(epoch.number, epoch.train_loss, epoch.validation_mae, epoch.best) for epoch in epochs]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Bits are promised for one thread: with several, the matrix library may share sums by the load of the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[tuple[int, float, float, bool]]]:
    """What three epochs give when nothing happens."""
    trial = Trial(tmp_path_factory.mktemp("undisturbed"))
    trial.run()
    return weights(trial.network), told(trial.epochs)


def test_the_same_seed_gives_the_same_weights_to_the_bit(
    tmp_path: Path, whole: tuple[dict[str, bytes], object]
) -> None:
    trial = Trial(tmp_path)
    trial.run()
    assert (weights(trial.network), told(trial.epochs)) == whole


def test_a_run_interrupted_between_epochs_goes_on_to_the_same_bits(
    tmp_path: Path, whole: tuple[dict[str, bytes], list[tuple[int, float, float, bool]]]
) -> None:
    def stop(epoch: Epoch) -> None:
        raise InterruptionError(epoch.number)

    with pytest.raises(InterruptionError, match="1"):
        Trial(tmp_path).run(report=stop)
    again = Trial(tmp_path, network=fresh(seed=99))  # whatever it starts from, the state on disk counts
    again.run()
    assert weights(again.network) == whole[0]
    assert told(again.epochs) == whole[1][1:]


def test_a_run_interrupted_within_an_epoch_goes_on_to_the_same_bits(
    tmp_path: Path, whole: tuple[dict[str, bytes], list[tuple[int, float, float, bool]]]
) -> None:
    def stop(batches: Batches, epoch: int, _total: int) -> Batches:
        for index, batch in enumerate(batches):
            if (epoch, index) == (1, 2):
                raise InterruptionError
            yield batch

    with pytest.raises(InterruptionError):
        Trial(tmp_path).run(track=stop)
    again = Trial(tmp_path)
    again.run()
    assert weights(again.network) == whole[0]
    assert told(again.epochs) == whole[1][1:]


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path, whole: tuple[dict[str, bytes], object]) -> None:
    Trial(tmp_path).run()
    again = Trial(tmp_path)
    progress = again.run()
    assert again.epochs == []
    assert progress.epoch == 3
    assert weights(again.network) == whole[0]


def test_the_state_of_another_configuration_is_neither_taken_up_nor_overwritten(tmp_path: Path) -> None:
    Trial(tmp_path).run(fingerprint="other")
    content = (tmp_path / STATE).read_bytes()
    with pytest.raises(ConfigError, match="which is not overwritten"):
        Trial(tmp_path).run()
    assert (tmp_path / STATE).read_bytes() == content


def test_only_the_state_is_left_in_the_folder(tmp_path: Path) -> None:
    Trial(tmp_path / "deep" / "er").run()
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == [STATE]


def test_it_stops_when_validation_does_not_improve(tmp_path: Path) -> None:
    """What is learned is the opposite of what is validated: the first epoch stays the best."""
    training, validation = examples()
    opposite = replace(training, targets=np.full_like(training.targets, 5.0))
    against = replace(validation, targets=np.full_like(validation.targets, -5.0))
    trial = Trial(tmp_path, replace(QUICK, epochs=50, patience=2, learning_rate=0.01))
    progress = trial.run(opposite, against)
    assert (progress.epoch, progress.best_epoch) == (3, 1)
    again = Trial(tmp_path, trial.config)
    again.run(opposite, against)
    assert again.epochs == []


def test_a_loss_that_is_no_number_stops_the_run_with_the_remedy(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    with torch.no_grad():
        trial.network.head.values.bias.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"the loss is nan in epoch 1: lower optimization\.learning_rate"):
        trial.run()
    assert trial.epochs == []


def test_weights_that_blow_up_in_the_last_step_of_an_epoch_are_not_kept(tmp_path: Path) -> None:
    """Their own loss was still finite; the state must not hold what no run can go on from."""
    trial = Trial(tmp_path)

    def spoil(batches: Batches, epoch: int, total: int) -> Batches:
        for index, batch in enumerate(batches):
            if (epoch, index) == (1, total - 1):
                trial.network.head.values.bias.register_hook(lambda gradient: gradient * math.nan)
            yield batch

    with pytest.raises(TrainingError, match=r"the validation error is nan in epoch 2: .* the state of epoch 1 is kept"):
        trial.run(track=spoil)
    again = Trial(tmp_path)
    assert again.run().epoch == 3
    assert [epoch.number for epoch in again.epochs] == [2, 3]


def test_a_run_that_blows_up_keeps_the_state_of_the_epoch_before(tmp_path: Path) -> None:
    trial = Trial(tmp_path)

    def spoil(epoch: Epoch) -> None:
        trial.epochs.append(epoch)
        with torch.no_grad():
            trial.network.head.values.bias.fill_(math.inf)

    with pytest.raises(TrainingError, match=r"in epoch 2: .* the state of epoch 1 is kept in"):
        trial.run(report=spoil)
    again = Trial(tmp_path)
    assert again.run().epoch == 3
    assert [epoch.number for epoch in again.epochs] == [2, 3]


def test_the_spread_head_leaves_the_values_as_they_are_to_the_bit(tmp_path: Path) -> None:
    with_spread = Trial(tmp_path / "with", network=fresh(dropout=0.0, spread=True))
    without = Trial(tmp_path / "without", network=fresh(dropout=0.0))
    first = with_spread.network.head.scales.weight.detach().clone()  # type: ignore[union-attr]
    with_spread.run()
    without.run()
    learned = weights(with_spread.network)
    assert {name: learned[name] for name in weights(without.network)} == weights(without.network)
    assert not torch.equal(with_spread.network.head.scales.weight, first)  # type: ignore[union-attr]


def test_a_run_in_bfloat16_learns(tmp_path: Path) -> None:
    trial = Trial(tmp_path, replace(QUICK, epochs=8, learning_rate=5e-3, precision="bfloat16"))
    before = validation_error(fresh(), examples()[0], CPU)
    trial.run()
    assert validation_error(trial.network, examples()[0], CPU) < 0.8 * before


def test_the_plateau_schedule_follows_the_validation_errors(tmp_path: Path) -> None:
    """Training and validation pull apart, so no epoch is better than the first."""
    training, validation = examples()
    opposite = replace(training, targets=np.full_like(training.targets, 5.0))
    against = replace(validation, targets=np.full_like(validation.targets, -5.0))
    config = replace(QUICK, epochs=6, schedule="plateau", plateau_patience=1, plateau_factor=0.5, ema=0.0)
    progress = Trial(tmp_path, config).run(opposite, against)
    errors = [error for _, error, _ in progress.history]
    assert errors[0] == min(errors)
    assert [rate / config.learning_rate for _, _, rate in progress.history] == [1, 1, 1, 0.5, 0.5, 0.25]


def test_a_run_with_missing_targets_learns(tmp_path: Path) -> None:
    training, validation = examples()
    holes = training.targets.copy()
    holes[::3, 0] = holes[1::4, 1] = np.nan
    trial = Trial(tmp_path)
    trial.run(replace(training, targets=holes), replace(validation, targets=validation.targets * [[1, np.nan]]))
    assert all(math.isfinite(epoch.train_loss) and math.isfinite(epoch.validation_mae) for epoch in trial.epochs)


def test_outputs_do_not_depend_on_how_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    network, graphs = fresh().eval(), examples()[1].graphs
    with torch.inference_mode():
        expected: Tensor = network(collate(graphs)).values
    for limit in (1, 1000):
        monkeypatch.setattr("deepergatgnn.training.fit.loop.edges_at_once", lambda _, limit=limit: limit)
        found = outputs(network, graphs, CPU)
        torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=1e-5)
        assert found.crystal_vectors.shape == (len(graphs), 16)
        assert found.log_scales.shape == (len(graphs), 2)
        assert len(found.attention) == sum(graph.n_nodes for graph in graphs)
