"""A heat map over the periodic table as PNG."""

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from deepergatgnn.element_features import element_symbol
from deepergatgnn.training.publication.plots import new_figure, png

NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)
LAST = 103  # lawrencium; of what comes after it there are no crystals
FEW = 5  # crystals below which an error says little of its element
DARK = 0.5  # luminance below which letters are white
LONG_PERIOD, LAST_PERIOD = 18, 7


def place(number: int) -> tuple[int, int]:
    """Row and column of an element, from 1; lanthanides and actinides, 15 each, are in rows 9 and 10 from column 3."""
    period = int(np.searchsorted(NOBLE_GASES, number))
    position, last = number - NOBLE_GASES[period - 1], NOBLE_GASES[period]
    length = last - NOBLE_GASES[period - 1]
    if length > LONG_PERIOD and 3 <= position <= 17:  # noqa: PLR2004 - fifteen elements below the table
        return period + 3, position
    to_the_right = last - number
    s_block = position <= (1 if length == 2 else 2)  # noqa: PLR2004 - helium stands over neon
    return period, position if s_block else LONG_PERIOD - to_the_right


def draw_elements(errors: Mapping[str, float], counts: Mapping[str, float], unit: str) -> bytes:
    """MAE [unit] of the crystals that contain an element, and their number, by symbol of the element.

    Elements of few crystals do not set the range of the colours.
    """
    figure = new_figure(9.6, 5.2)
    axes = figure.add_subplot()
    trusted = [error for symbol, error in errors.items() if counts[symbol] >= FEW] or list(errors.values()) or [1.0]
    scale = Normalize(0, float(np.percentile(trusted, 95)) or 1.0)
    colours = colormaps["cividis"]
    for number in range(1, LAST + 1):
        symbol, (level, column) = element_symbol(number), place(number)
        row = level - 0.6 * (level > LAST_PERIOD)
        error = errors.get(symbol)
        colour = "#eeeeee" if error is None else colours(float(scale(error)))
        axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, facecolor=colour, linewidth=0))
        if error is None:
            axes.text(column, row, symbol, ha="center", va="center", fontsize=9, color="#aaaaaa")
            continue
        ink = "white" if np.dot(colour[:3], (0.299, 0.587, 0.114)) < DARK else "black"
        axes.text(column, row - 0.22, symbol, ha="center", va="center", fontsize=9.5, color=ink, weight="bold")
        axes.text(column, row + 0.10, f"{error:.2g}", ha="center", va="center", fontsize=6.5, color=ink)
        axes.text(column, row + 0.34, f"{counts[symbol]:.0f}", ha="center", va="center", fontsize=5.5, color=ink)
    axes.set_xlim(0.4, 18.6)
    axes.set_ylim(9.95, 0.4)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title("MAE of the crystals of the test part that contain an element, and their number", fontsize=10)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, shrink=0.7, pad=0.01, extend="max")
    bar.set_label(f"MAE, {unit}", parse_math=False)
    return png(figure)
