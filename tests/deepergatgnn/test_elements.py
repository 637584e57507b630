"""Fixed features of the elements."""

import numpy as np
import pytest
from pymatgen.core.periodic_table import Element

from deepergatgnn.element_features import (
    BLOCKS,
    FEATURES,
    GAUSSIANS,
    GROUPS,
    PERIODS,
    SCALES,
    element_features,
    element_symbol,
)
from deepergatgnn.graphs.crystal_graph import GraphConfig

KNOWN = 108
ALL = element_features(KNOWN)
FIRST_PROPERTY = GROUPS + PERIODS + len(BLOCKS) + 4


def test_shape_type_and_range() -> None:
    assert ALL.shape == (KNOWN, FEATURES)
    assert ALL.dtype == np.float32
    assert ALL.min() >= 0
    assert ALL.max() <= 1


def test_no_featuriser_asks_for_an_element_without_features() -> None:
    assert GraphConfig(max_atomic_number=KNOWN).max_atomic_number == len(element_features(118))
    with pytest.raises(ValueError, match="max_atomic_number is 109, it must be at most 108"):
        GraphConfig(max_atomic_number=KNOWN + 1)


def test_symbols_are_those_of_the_periodic_table() -> None:
    assert [element_symbol(number) for number in range(1, KNOWN + 1)] == [
        Element.from_Z(number).symbol for number in range(1, KNOWN + 1)
    ]


@pytest.mark.parametrize("number", range(1, KNOWN + 1))
def test_group_period_and_block_are_one_hot_and_right(number: int) -> None:
    row, element = ALL[number - 1], Element.from_Z(number)
    group, period, block = np.split(row[: FIRST_PROPERTY - 4], [GROUPS, GROUPS + PERIODS])
    assert group.sum() == period.sum() == block.sum() == 1
    assert group[element.group - 1] == 1
    assert period[element.row - 1] == 1
    assert BLOCKS[block.argmax()] == element.block


def test_no_two_elements_are_alike() -> None:
    assert len(np.unique(ALL, axis=0)) == KNOWN


def test_a_shorter_table_is_the_beginning_of_a_longer_one() -> None:
    """No feature depends on which other elements there are."""
    np.testing.assert_array_equal(element_features(30), ALL[:30])


def test_iron_and_oxygen_stand_where_their_electronegativities_are() -> None:
    low, high, _ = SCALES["electronegativity"]
    centres = np.linspace(low, high, GAUSSIANS)
    for number, electronegativity in ((26, 1.83), (8, 3.44)):
        smoothed = ALL[number - 1][FIRST_PROPERTY : FIRST_PROPERTY + GAUSSIANS]
        assert abs(centres[smoothed.argmax()] - electronegativity) <= (centres[1] - centres[0]) / 2


def test_what_is_not_known_is_all_zeros() -> None:
    helium = ALL[1]
    assert not helium[FIRST_PROPERTY : FIRST_PROPERTY + GAUSSIANS].any()  # it has no electronegativity
    assert helium[FIRST_PROPERTY + GAUSSIANS :].any()


def test_every_known_property_is_seen_by_a_gaussian() -> None:
    """All but the melting point of helium, 0.95 K under pressure: outside the range the Gaussians fade."""
    strongest = ALL[:, FIRST_PROPERTY:].reshape(KNOWN, len(SCALES), GAUSSIANS).max(axis=-1)
    unseen = np.argwhere((strongest > 0) & (strongest < 0.02))
    assert [(element_symbol(number + 1), list(SCALES)[index]) for number, index in unseen] == [("He", "melting_point")]


def test_the_table_may_be_changed_by_its_owner_only() -> None:
    mine = element_features(5)
    mine[:] = 7
    assert element_features(5).max() <= 1
