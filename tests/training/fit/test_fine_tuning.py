"""Lower layers that rest or learn slowly, for runs that start from a published version."""

from dataclasses import replace
from pathlib import Path

import pytest

from deepergatgnn.errors import ConfigError
from tests.training.fit.test_loop import QUICK, Trial, fresh, weights

HEIGHTS = {
    "embedding.edges.weight": 0,
    "body.layers.0.weight": 1,
    "body.layers.1.weight": 2,
    "head.values.weight": 3,
}


def test_frozen_layers_stay_as_they_are_with_their_statistics(tmp_path: Path) -> None:
    trial = Trial(tmp_path, replace(QUICK, frozen_layers=1))
    before = weights(trial.network)
    trial.run()
    changed = {name for name, content in weights(trial.network).items() if content != before[name]}
    below = {name for name in before if name.startswith(("embedding.", "body.layers.0.", "body.norms.0."))}
    assert not changed & below
    assert changed == before.keys() - below


def test_more_frozen_layers_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frozen_layers is 3, but the network has 2 layers"):
        Trial(tmp_path, replace(QUICK, frozen_layers=3)).run()


def test_lower_layers_learn_more_slowly(tmp_path: Path) -> None:
    """Adam's first step is the rate in every direction, whatever the gradient: the paces can be read off."""
    network = fresh(dropout=0.0)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    config = replace(QUICK, epochs=1, batch_size=80, layer_decay=0.5, weight_decay=0.0, ema=0.0, schedule="plateau")
    Trial(tmp_path, config, network).run()
    steps = {name: (p - before[name]).abs().max().item() for name, p in network.named_parameters()}
    for name, height in HEIGHTS.items():
        assert steps[name] == pytest.approx(config.learning_rate * 0.5 ** (3 - height), rel=1e-2), name
