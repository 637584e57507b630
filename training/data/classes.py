"""Columns of classes: what they hold, by name, and the numbers that stand for it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepergatgnn.checkpoints.manifest import MOST_CLASSES
from deepergatgnn.errors import ConfigError
from deepergatgnn.training.config.run import TargetConfig
from deepergatgnn.training.data.dataset import PreparedDataset

NOTHING = {"", "nan", "na", "n/a", "#n/a", "null", "-"}  # as text in a cell; "none" may be a class
TRUTHS = {"true", "false"}
SHOWN = 5


def class_name(value: Any) -> str | None:
    """The name of a class: text as it is, true or false, a whole number; None for anything else, which is no class."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(int(value)) if math.isfinite(value) and value == int(value) else None
    if not isinstance(value, str) or value.strip().lower() in NOTHING:
        return None
    text = value.strip()
    return text.lower() if text.lower() in TRUTHS else text


def classes_of(dataset: PreparedDataset, target: TargetConfig) -> tuple[str, ...]:
    """The classes of a target: those of its configuration, else those found in the data, sorted; none for a number.

    Raises:
        ConfigError: if the data have fewer than two, or more than fifty.
    """
    if target.kind != "classification":
        return ()
    if target.classes:
        return tuple(str(class_name(each)) for each in target.classes)
    found = sorted(set(_names(dataset, target.key)) - {None}, key=_order)
    if not 2 <= len(found) <= MOST_CLASSES:  # noqa: PLR2004 - one class is nothing to tell apart
        some = ", ".join(map(str, found[:SHOWN]))
        raise ConfigError(
            f"target {target.key!r} of {dataset.name} has {len(found)} classes{f' ({some})' if some else ''}: give a "
            f"column of text, truth values or whole numbers with 2 to {MOST_CLASSES} of them, or list those to learn "
            "in `classes`"
        )
    return tuple(map(str, found))


def class_codes(dataset: PreparedDataset, key: str, classes: Sequence[str]) -> NDArray[np.float64]:
    """The place of each row's class among the classes [n]; NaN for none, or one that is not among them."""
    places = {name: float(place) for place, name in enumerate(classes)}
    codes: NDArray[np.float64] = np.array([places.get(name or "", math.nan) for name in _names(dataset, key)])
    return codes.astype(np.float64)


def target_values(dataset: PreparedDataset, targets: Sequence[TargetConfig]) -> NDArray[np.float64]:
    """Targets [rows, targets]: numbers in their own units, and places of classes; NaN where there is none.

    Raises:
        ConfigError: as `classes_of`.
    """
    numbers = dataset.values([target.key for target in targets])
    for index, target in enumerate(targets):
        if classes := classes_of(dataset, target):
            numbers[:, index] = class_codes(dataset, target.key, classes)
    return numbers


def one_hot(codes: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Codes [n] as rows [n, C] with a 1 in the place of the class; NaN where there is none."""
    rows: NDArray[np.float64] = (codes[:, None] == np.arange(count)).astype(np.float64)
    rows[~np.isfinite(codes)] = np.nan
    return rows


def _names(dataset: PreparedDataset, key: str) -> list[str | None]:
    column = dataset.fields.get(key)
    values: list[Any] = dataset.columns[key].tolist() if key in dataset.columns else [None] * len(dataset)
    if column is not None:  # text and truth values are here alone
        values = [value if own is None else own for own, value in zip(column, values, strict=True)]
    return [class_name(value) for value in values]


def _order(name: str | None) -> tuple[int, float, str]:
    """Whole numbers by size before text by its letters."""
    text = str(name)
    whole = text.removeprefix("-").isdecimal() and text.isascii()
    return (0, float(text), "") if whole else (1, 0.0, text)
