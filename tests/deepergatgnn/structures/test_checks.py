"""Configurations that are plain dataclasses: out of range is refused by name, in Python and in a document."""

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.ranges import check_range
from deepergatgnn.training.config.optimization import OptimizationConfig

CONFIGS = [GraphConfig, NetworkConfig, OptimizationConfig]
each = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(-10, 10))
def test_what_is_in_the_range_passes_and_nothing_else(value: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    inside = {"closed": low <= value <= high, "open": low < value < high}
    for kind, bounds in (("closed", {"least": low, "most": high}), ("open", {"above": low, "below": high})):
        if inside[kind]:
            check_range("x", value, **bounds)
        else:
            with pytest.raises(ValueError, match=r"^x is "):
                check_range("x", value, **bounds)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_in_no_range(value: float) -> None:
    with pytest.raises(ValueError, match="x is"):
        check_range("x", value, least=-1e300, most=math.inf)
    with pytest.raises(ValueError, match=r"x is (nan|inf|-inf), it must be finite"):
        check_range("x", value)


def test_the_message_has_the_number_and_the_whole_range() -> None:
    with pytest.raises(ValueError, match=r"^dropout is 1\.5, it must be below 1$"):
        check_range("dropout", 1.5, least=0, below=1)
    with pytest.raises(ValueError, match=r"^x is nan, it must be at least 0 and at most 2$"):
        check_range("x", math.nan, least=0, most=2)


@each
def test_the_defaults_are_in_range_and_survive_a_document(config: type) -> None:
    schema = TypeAdapter(config)
    assert schema.validate_python({}) == config()
    assert schema.validate_json(schema.dump_json(config())) == config()
    assert hash(config()) == hash(schema.validate_python(schema.dump_python(config())))


@each
def test_every_number_has_a_range(config: type) -> None:
    """Not one option takes a number that makes no sense, in a document or in Python."""
    schema = TypeAdapter(config)
    for field in fields(config):
        if field.type not in (int, float):
            continue
        for wrong in [-1] if field.type is int else [-1.0, math.nan, math.inf]:
            with pytest.raises(ValueError, match=f"{field.name} is {wrong}"):
                config(**{field.name: wrong})
            with pytest.raises(ValidationError, match=f"{field.name} is {wrong}"):
                schema.validate_python({field.name: wrong})


@each
def test_types_and_names_are_checked_within_a_larger_document(config: type) -> None:
    class Document(BaseModel):
        part: config = config()  # type: ignore[valid-type]

    def refusal(part: Any) -> tuple[tuple[int | str, ...], str]:
        with pytest.raises(ValidationError) as caught:
            Document.model_validate({"part": part})
        [error] = caught.value.errors()
        return error["loc"], error["msg"]

    for field in fields(config):
        place, _ = refusal({field.name: "a word"})
        assert place == ("part", field.name)
        if field.type is int:
            assert refusal({field.name: 2.5})[0] == ("part", field.name)
            assert refusal({field.name: -1 if field.name in {"frozen_layers", "angles"} else 0})[0] == ("part",)
    assert refusal({"surprise": 1}) == (("part", "surprise"), "Unexpected keyword argument")
    for wrong in ("deep", 3, [1]):
        assert refusal(wrong)[0] == ("part",)
