"""Warnings of information that models cannot use, one for each kind."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

OXIDATION_STATES: Final = "Oxidation states are ignored: the models know elements, not charges."
UNCERTAINTIES: Final = "Uncertainties in parentheses are ignored: 0.305(2) is read as 0.305."
AFTER_POSITIONS: Final = "What follows the positions of the atoms, such as velocities, is ignored."
CHARGE: Final = "The charge of the cell is ignored."
ATTACHED_ATOMS: Final = "The file counts attached atoms that have no position; they are missing from the structure."

_NAMES_SHOWN: Final = 3
_LONGEST_NAME: Final = 40  # characters


def listing(names: Sequence[str]) -> str:
    """List the first names and the number of the others."""
    shown = ", ".join(name[:_LONGEST_NAME] for name in names[:_NAMES_SHOWN])
    return shown + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")


def properties_warning(names: Iterable[str]) -> list[str]:
    """Return the warning of ignored site properties, if there are any.

    Args:
        names: names of the properties; repeated names are listed once.
    """
    distinct = list(dict.fromkeys(names))
    if not distinct:
        return []
    what = f"property {listing(distinct)} is" if len(distinct) == 1 else f"properties {listing(distinct)} are"
    return [f"The site {what} ignored: the models know elements and positions."]


def telling_properties(properties: Mapping[Any, Any]) -> list[str]:
    """Return the names of the properties that carry information, unlike zeros and free degrees of freedom.

    Args:
        properties: properties of one site.
    """
    return [str(name) for name, value in properties.items() if _tells(name, value)]


def _tells(name: object, value: object) -> bool:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    values = value if isinstance(value, list | tuple) else [value]
    if name == "selective_dynamics":
        return not all(one is True for one in values)
    return not all(_is_nothing(one) for one in values)


def _is_nothing(value: object) -> bool:
    """Return whether a value is None, NaN, zero or empty text, or a row of such values, such as zero forces."""
    if isinstance(value, list | tuple):
        return all(_is_nothing(one) for one in value)
    is_number = isinstance(value, int | float | np.number)
    return value is None or value == "" or (is_number and (value == 0 or value != value))  # noqa: PLR0124 - as nan
