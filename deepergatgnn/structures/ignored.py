"""What a file says and no model can use: never dropped in silence, told once for each kind."""

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
    """Write the first names and the number of the others."""
    shown = ", ".join(name[:_LONGEST_NAME] for name in names[:_NAMES_SHOWN])
    return shown + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")


def properties_warning(names: Iterable[str]) -> list[str]:
    """Say which properties of the sites are ignored, if any are.

    Args:
        names: of the properties; those that occur twice are told once.
    """
    distinct = list(dict.fromkeys(names))
    if not distinct:
        return []
    what = f"property {listing(distinct)} is" if len(distinct) == 1 else f"properties {listing(distinct)} are"
    return [f"The site {what} ignored: the models know elements and positions."]


def telling_properties(properties: Mapping[Any, Any]) -> list[str]:
    """Give the names of the properties that say something: zeros do not, nor do degrees of freedom that are all free.

    Args:
        properties: of one site.
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
    """Whether a value is none, no number, zero or empty text; or a row of such values, as the forces on atoms are."""
    if isinstance(value, list | tuple):
        return all(_is_nothing(one) for one in value)
    is_number = isinstance(value, int | float | np.number)
    return value is None or value == "" or (is_number and (value == 0 or value != value))  # noqa: PLR0124 - as nan
