"""Cost models: the fit recovers known costs, follows a device, and holds on a real network."""

import numpy as np
import pytest

from deepergatgnn.model_store import ModelStore
from deepergatgnn.predictor import Predictor
from deepergatgnn.service.scheduling.cost import Cost, CostModel, batch_overhead, mean_costs, price
from deepergatgnn.service.worker.measurements import measure_costs


def observed(cost: Cost, batches: int, seed: int, noise: float = 0.0) -> CostModel:
    generator = np.random.default_rng(seed)
    model = CostModel()
    for crystals in generator.integers(1, 100, batches).tolist():
        edges, atoms = int(crystals * generator.uniform(5, 60)), int(crystals * generator.uniform(1, 12))
        seconds = cost.seconds(edges, atoms, crystals) * float(np.exp(noise * generator.normal()))
        model.observe(edges, atoms, crystals, seconds)
    model.fit()
    return model


def test_the_fit_finds_the_costs() -> None:
    cost = Cost(3e-6, 2e-5, 4e-4, 7e-3)
    assert vars(observed(cost, 60, 0).cost) == pytest.approx(vars(cost), rel=1e-6)


def test_the_fit_bears_noise_and_is_never_negative() -> None:
    cost = Cost(3e-6, 2e-5, 4e-4, 7e-3)
    model = observed(cost, 250, 1, noise=0.3)
    assert min(vars(model.cost).values()) >= 0
    for batch in ((200, 30, 10), (2000, 300, 100)):
        assert model.cost.seconds(*batch) == pytest.approx(cost.seconds(*batch), rel=0.2)


def test_a_device_that_becomes_slower_is_followed() -> None:
    model = observed(Cost(1e-6, 1e-5, 1e-4, 1e-3), 256, 2)
    slow = Cost(1e-5, 1e-4, 1e-3, 1e-2)
    generator = np.random.default_rng(3)
    for crystals in generator.integers(1, 100, 300).tolist():
        model.observe(20 * crystals, 4 * crystals, crystals, slow.seconds(20 * crystals, 4 * crystals, crystals))
    assert model.cost.seconds(1000, 200, 50) == pytest.approx(slow.seconds(1000, 200, 50), rel=0.05)


def test_measured_costs_of_a_shipped_model_price_larger_crystals_higher() -> None:
    cost = measure_costs(Predictor.load(ModelStore().folder("bulk-modulus"))).cost
    assert cost.seconds(10, 2, 1) > 0
    assert cost.seconds(3000, 300, 12) > cost.seconds(10, 2, 1)


def test_a_price_sums_over_models_and_the_mean_goes_over_workers() -> None:
    costs = mean_costs([{"a@1.0.0": (1.0, 0.0, 0.0, 9.0)}, {"a@1.0.0": (3.0, 0.0, 0.0, 9.0), "b@1.0.0": (0, 1, 0, 0)}])
    assert price(["a@1.0.0", "b@1.0.0"], 10, 7, costs) == pytest.approx(2.0 * 10 + 7)


def test_the_overhead_of_a_batch_counts_once_for_each_model() -> None:
    costs = {"a@1.0.0": Cost(0, 0, 0, 3e-3), "b@1.0.0": Cost(0, 0, 0, 4e-3)}
    assert batch_overhead(["a@1.0.0", "b@1.0.0", "a@1.0.0"], costs) == pytest.approx(7e-3)
    assert batch_overhead(["c@1.0.0"], costs) == Cost().batch  # not known yet
