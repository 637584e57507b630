"""Plots of a trained version as PNG: pure functions from arrays to bytes, the same bytes for the same arrays.

Colours are those of Okabe and Ito, and cividis and viridis, which colour-blind people can tell apart.
"""

import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image

BLUE, VERMILION, GREEN, ORANGE, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#666666"
DPI = 120
COLOURS = 256
MANY = 1500  # points; more of them are counted in hexagons
CELLS, BINS = 45, 40
BAND = (0.86, 0.94)  # of coverage in a quintile, of what 90 % was promised for
PERCENTILES = (0.5, 99.5)  # of what sets the limits of an axis, so that a stray crystal does not
Numbers = NDArray[np.float64]
History = Sequence[tuple[float, float, float]]


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches; no state is shared with pyplot."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def png(figure: Figure) -> bytes:
    """The bytes of a figure, without dates or versions, in so few colours that they take a few tens of kilobytes."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A property may be named in letters that the font does not have: boxes are drawn in their place.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    picture = Image.fromarray(pixels[..., :3].copy())
    content = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return content.getvalue()


def say(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Label the axes; texts are taken as they are, a $ in a unit is no mathematics."""
    axes.set_xlabel(x, parse_math=False)
    axes.set_ylabel(y, parse_math=False)
    axes.set_title(title, parse_math=False, fontsize=10)
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def draw_parity(true: Numbers, predicted: Numbers, flagged: NDArray[np.bool_], label: str, title: str) -> bytes:
    """Predicted against true [n]; crystals outside the domain [n] are marked, those outside the frame at its edge."""
    figure = new_figure(5.0, 4.6)
    axes = figure.add_subplot()
    low, high = _limits(np.concatenate([true, predicted]))
    true, predicted = true.clip(low, high), predicted.clip(low, high)
    _cloud(figure, axes, true, predicted, (low, high, low, high))
    if flagged.any():
        size = 14 if len(true) <= MANY else 5
        axes.scatter(
            true[flagged], predicted[flagged], s=size, facecolors="none", edgecolors=VERMILION, linewidths=0.8,
            label=f"outside the domain ({flagged.sum()})",
        )  # fmt: skip
        axes.legend(loc="upper left", fontsize=8)
    axes.plot([low, high], [low, high], color="black", linewidth=0.9)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    say(axes, f"true {label}", f"predicted {label}", title)
    return png(figure)


def draw_residuals(true: Numbers, predicted: Numbers, label: str, title: str) -> bytes:
    """Histogram of predicted - true [n], and these against the truth with the mean of each tenth of the crystals."""
    residuals = predicted - true
    figure = new_figure(8.4, 3.6)
    left, right = figure.subplots(1, 2)
    edge = max(float(np.percentile(np.abs(residuals), PERCENTILES[1])), 1e-12)
    clipped = np.clip(residuals, -edge, edge)
    left.hist(clipped, bins=np.linspace(-edge, edge, BINS + 1).tolist(), color=BLUE)
    mae = float(np.abs(residuals).mean())
    left.axvline(0, color="black", linewidth=0.9)
    left.axvline(float(residuals.mean()), color=VERMILION, linewidth=1.2, label=f"mean {residuals.mean():.3g}")
    left.axvspan(-mae, mae, color=ORANGE, alpha=0.25, linewidth=0, zorder=0, label=f"± MAE {mae:.3g}")
    left.legend(fontsize=8)
    say(left, f"predicted - true {label}", "crystals", title)
    low, high = _limits(true)
    _cloud(figure, right, true.clip(low, high), clipped, (low, high, -edge, edge))
    right.axhline(0, color="black", linewidth=0.9)
    parts = [part for part in np.array_split(np.argsort(true, kind="stable"), 10) if len(part)]
    right.plot(
        [float(true[part].mean()) for part in parts], [float(residuals[part].mean()) for part in parts],
        color=VERMILION, marker="o", markersize=4, linewidth=1.2, label="mean of each tenth",
    )  # fmt: skip
    right.set_xlim(low, high)
    right.set_ylim(-1.05 * edge, 1.05 * edge)
    right.legend(fontsize=8)
    say(right, f"true {label}", "predicted - true", "residuals against the truth")
    return png(figure)


def draw_learning(
    members: Sequence[History], best_epochs: Sequence[int], loss: str, *, of_classes: bool = False
) -> bytes:
    """Training loss, validation error and learning rate of each epoch, a line for each network."""
    validation = "validation log loss" if of_classes else "validation MAE"
    figure = new_figure(6.4, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for index, (history, best) in enumerate(zip(members, best_epochs, strict=True)):
        epochs = np.arange(1, len(history) + 1)
        losses, found, rates = np.array(history, dtype=np.float64).reshape(-1, 3).T
        first, style = index == 0, {"linewidth": 1.1, "alpha": 1.0 if len(members) == 1 else 0.7}
        upper.plot(epochs, losses, color=BLUE, label=f"training loss ({loss})" if first else None, **style)
        upper.plot(epochs, found, color=VERMILION, label=validation if first else None, **style)
        if 0 < best <= len(found):
            name = "best epoch" if first else None
            upper.plot(best, found[best - 1], color="black", marker="*", markersize=9, linestyle="none", label=name)
        lower.plot(epochs, rates, color=GREEN, **style)
    upper.set_yscale("log")
    upper.yaxis.set_major_formatter(LogFormatter())
    upper.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.4)))
    upper.legend(fontsize=8)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.set_ylim(bottom=0)
    title = "learning curve" if len(members) == 1 else f"learning curves of {len(members)} networks"
    say(upper, "", "" if of_classes else "standard deviations of the target", title)
    say(lower, "epoch", "learning rate")
    return png(figure)


def draw_calibration(coverage: Mapping[float, float], n: int, by_width: Mapping[str, float], unit: str) -> bytes:
    """Measured against promised coverage, and coverage at 90 % by quintile of the width of the interval.

    Args:
        coverage: level → share of the n crystals whose interval held the truth.
        n: crystals.
        by_width: n_1, coverage_1, mae_1, from_1, to_1 and so on.
        unit: of the widths.
    """
    figure = new_figure(8.4, 3.7)
    left, right = figure.subplots(1, 2)
    levels = np.array(sorted(coverage))
    measured = np.array([coverage[level] for level in levels])
    left.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle="--", label="as promised")
    left.errorbar(
        levels, measured, yerr=_share_errors(measured, np.full(len(levels), n)), color=BLUE, marker="o", markersize=5,
        linewidth=1.2, capsize=3, label="test part, ± standard error",
    )  # fmt: skip
    left.set_xlim(0.4, 1)
    left.set_ylim(min(0.4, float(measured.min(initial=1)) - 0.05), 1.01)
    left.legend(loc="upper left", fontsize=8)
    say(left, "promised", "covered", "coverage by level")
    groups = sorted(int(name.removeprefix("coverage_")) for name in by_width if name.startswith("coverage_"))
    shares = np.array([by_width[f"coverage_{group}"] for group in groups])
    counts = np.array([by_width[f"n_{group}"] for group in groups])
    right.axhspan(*BAND, color=ORANGE, alpha=0.25, linewidth=0, label=f"{BAND[0]:.0%} to {BAND[1]:.0%}")
    right.axhline(0.9, color=GREY, linewidth=0.9, linestyle="--")
    right.errorbar(
        groups, shares, yerr=_share_errors(shares, counts), color=BLUE, marker="o", markersize=6, linestyle="none",
        capsize=3,
    )  # fmt: skip
    right.set_ylim(min(0.7, float(shares.min(initial=1)) - 0.1), 1.01)
    right.set_xlim(0.5, max(groups, default=1) + 0.5)
    right.legend(loc="lower left", fontsize=8)
    limits = [f"{by_width[f'from_{group}']:.3g} - {by_width[f'to_{group}']:.3g}" for group in groups]
    right.set_xticks(groups, limits, fontsize=7, rotation=20)
    say(right, f"width of the 90 % interval, {unit}", "covered", "coverage at 90 % by quintile of width")
    for axes in (left, right):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return png(figure)


def draw_vectors(places: Numbers, colours: Numbers, label: str) -> bytes:
    """Crystals at their places in a plane [n, 2], coloured by a property [n]."""
    figure = new_figure(5.4, 4.4)
    axes = figure.add_subplot()
    low, high = np.percentile(colours, PERCENTILES)
    dots = axes.scatter(
        places[:, 0], places[:, 1], c=colours, s=7, cmap="viridis", vmin=low, vmax=high, linewidths=0
    )  # fmt: skip
    _colour_bar(figure, axes, dots, f"true {label}")
    axes.set_xticks([])
    axes.set_yticks([])
    say(axes, "t-SNE 1", "t-SNE 2", f"crystal vectors of {len(places)} crystals of the test part")
    return png(figure)


def _cloud(figure: Figure, axes: Axes, x: Numbers, y: Numbers, extent: tuple[float, float, float, float]) -> None:
    """Points, or counts in hexagons where there are too many of them to see."""
    if len(x) <= MANY:
        axes.scatter(x, y, s=9, color=BLUE, alpha=0.5, linewidths=0)
        return
    counts = axes.hexbin(x, y, gridsize=CELLS, extent=extent, mincnt=1, norm=LogNorm(), cmap="cividis", linewidths=0.1)
    _colour_bar(figure, axes, counts, "crystals")


def _colour_bar(figure: Figure, axes: Axes, scale: ScalarMappable, label: str) -> None:
    figure.colorbar(scale, ax=axes, shrink=0.9).set_label(label, parse_math=False)


def _share_errors(shares: Numbers, counts: Numbers) -> Numbers:
    """Standard errors of shares of so many crystals."""
    return np.sqrt(shares * (1 - shares) / counts)


def _limits(numbers: Numbers) -> tuple[float, float]:
    """Limits of an axis that hold nearly all numbers."""
    low, high = np.percentile(numbers, PERCENTILES).tolist()
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin
