"""Columns of classes: names of the classes, and their indices."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.checkpoints.manifest import MOST_CLASSES
from deepergatgnn.errors import ConfigError
from deepergatgnn.training.config.run import TargetConfig
from deepergatgnn.training.data.dataset import PreparedDataset

NOTHING = {"", "nan", "na", "n/a", "#n/a", "null", "-"}  # texts of an empty cell; "none" may be a class
TRUTHS = {"true", "false"}
SHOWN = 5


def class_name(value: Any) -> str | None:
    """Return the name of a class: text, true or false, or an integer; None if the value is not a class."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(int(value)) if math.isfinite(value) and value == int(value) else None
    if not isinstance(value, str) or value.strip().lower() in NOTHING:
        return None
    text = value.strip()
    return text.lower() if text.lower() in TRUTHS else text


def classes_of(dataset: PreparedDataset, target: TargetConfig) -> tuple[str, ...]:
    """Return the classes of a target: configured, else found in the data and sorted; empty for a number.

    Raises:
        ConfigError: if the data have fewer than two classes, or more than `MOST_CLASSES`.
    """
    if target.kind != "classification":
        return ()
    if target.classes:
        return tuple(str(class_name(each)) for each in target.classes)
    found = sorted(set(_names(dataset, target.key)) - {None}, key=_order)
    if not 2 <= len(found) <= MOST_CLASSES:  # noqa: PLR2004 - a single class cannot be learned
        some = ", ".join(map(str, found[:SHOWN]))
        raise ConfigError(
            f"target {target.key!r} of {dataset.name} has {len(found)} classes{f' ({some})' if some else ''}: give a "
            f"column of text, truth values or whole numbers with 2 to {MOST_CLASSES} of them, or list those to learn "
            "in `classes`"
        )
    return tuple(map(str, found))


def class_codes(dataset: PreparedDataset, key: str, classes: Sequence[str]) -> NDArray[np.float64]:
    """Return the index of the class of each row [n]; NaN for none or an unknown class."""
    places = {name: float(place) for place, name in enumerate(classes)}
    codes: NDArray[np.float64] = np.array([places.get(name or "", math.nan) for name in _names(dataset, key)])
    return codes.astype(np.float64)


def target_values(dataset: PreparedDataset, targets: Sequence[TargetConfig]) -> NDArray[np.float64]:
    """Return targets [rows, targets]: numbers in their own units, and indices of classes; NaN where missing.

    Raises:
        ConfigError: as `classes_of`.
    """
    numbers = dataset.values([target.key for target in targets])
    for index, target in enumerate(targets):
        if classes := classes_of(dataset, target):
            numbers[:, index] = class_codes(dataset, target.key, classes)
    return numbers


def one_hot(codes: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """One-hot encode class indices: [n] → [n, C]; NaN where missing."""
    rows: NDArray[np.float64] = (codes[:, None] == np.arange(count)).astype(np.float64)
    rows[~np.isfinite(codes)] = np.nan
    return rows


def _names(dataset: PreparedDataset, key: str) -> list[str | None]:
    column = dataset.fields.get(key)
    values: list[Any] = dataset.columns[key].tolist() if key in dataset.columns else [None] * len(dataset)
    if column is not None:  # fields hold the text and booleans
        values = [value if own is None else own for own, value in zip(column, values, strict=True)]
    return [class_name(value) for value in values]


def _order(name: str | None) -> tuple[int, float, str]:
    """Sort integers by value before text."""
    text = str(name)
    whole = text.removeprefix("-").isdecimal() and text.isascii()
    return (0, float(text), "") if whole else (1, 0.0, text)
