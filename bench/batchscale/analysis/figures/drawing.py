"""What figures share: paper, axes with plain numbers, marks for ties and misses, and the line that says whence."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from batchscale.analysis import number_format
from batchscale.analysis.figures import style
from batchscale.analysis.statistics.intervals import Array
from batchscale.analysis.summary_types import BatchSizeSummary

CHARACTERS_PER_INCH = 20
LABEL_INCHES_PER_CHARACTER = 0.062
LEGEND_MARGIN_INCHES = 0.4
ACROSS_INCHES, UP_INCHES = 0.5, 0.33
"""Room for one label of an axis."""
CELL_ID = "cell-"

GUIDE: dict[str, Any] = {"color": style.MUTED, "linestyle": "--", "linewidth": 1}
"""A line to compare with: perfect scaling, a limit."""
FITTED: dict[str, Any] = {"color": style.GREEN, "linestyle": "--", "linewidth": 1}
"""A fitted curve."""


class NothingToDrawError(Exception):
    """The rows a figure needs were not measured; the message says which."""


def sheet(panels: int = 1, height_factor: float = 1.0) -> tuple[Figure, list[Axes]]:
    """A figure of the current width with `panels` side by side, or one below the other where it is narrow."""
    width, height = mpl.rcParams["figure.figsize"]
    rows, columns = (panels, 1) if is_narrow() else (1, panels)
    stretch = height_factor * (0.8 * panels if is_narrow() and panels > 1 else 1)
    figure = Figure(figsize=(width, height * stretch), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def is_narrow() -> bool:
    """Whether the current figure is one column of a paper wide."""
    return mpl.rcParams["figure.figsize"][0] < style.NARROW_BELOW_INCHES


def log2_axis(axes: Axes, values: Sequence[int], label: str = "batch size", room: float = 1.0) -> None:
    """Batch sizes (or devices) on a log2 horizontal axis, as many plain numbers as `room` of the width can hold."""
    sizes = sorted({int(value) for value in values})
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
    width_inches = (mpl.rcParams["figure.figsize"][0] - 0.7) * room
    axes.xaxis.set_major_locator(FixedLocator(spaced(sizes, width_inches)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def spaced(sizes: Sequence[int], width_inches: float) -> list[int]:
    """The sorted batch sizes whose labels fit on a log2 axis: every k-th of a geometric list, else each with room."""
    octaves = math.log2(sizes[-1] / sizes[0]) + 1.0
    inches_per_octave = width_inches / octaves

    def fits(left: int, right: int) -> bool:
        characters = (len(str(left)) + len(str(right))) / 2 + 1
        return math.log2(right / left) * inches_per_octave >= characters * LABEL_INCHES_PER_CHARACTER

    ratios = [right / left for left, right in pairwise(sizes)]
    if ratios and max(ratios) / min(ratios) < 1.01:
        strides = (list(sizes[::stride]) for stride in range(1, len(sizes) + 1))
        return next(kept for kept in strides if all(fits(left, right) for left, right in pairwise(kept)))
    kept = [sizes[0]]
    for size in sizes[1:]:
        if fits(kept[-1], size):
            kept.append(size)
    return kept


def log_axis(axes: Axes, label: str, base: int = 10) -> None:
    """A logarithmic vertical axis with plain numbers."""
    axes.set_yscale("log", base=base)
    axes.set_ylabel(textwrap.fill(label, 30) if is_narrow() else label)
    plain_ticks(axes.yaxis, base)


def log_axis_across(axes: Axes, label: str) -> None:
    """A logarithmic horizontal axis with plain numbers, for anything but batch sizes."""
    axes.set_xscale("log")
    axes.set_xlabel(label)
    plain_ticks(axes.xaxis)


def plain_ticks(axis: Axis, base: int = 10) -> None:
    """Plain numbers on a logarithmic axis, its decades split as finely as there is room for."""
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else 1.0
    most = _labels_that_fit(axis)
    splits = [subs for subs in ((1, 2, 5), (1, 3), (1,)) if decades * len(subs) <= most]
    if base == 2:
        ticks = LogLocator(base=2, numticks=most + 2)
    elif decades < 0.7:
        ticks = MaxNLocator(5, steps=[1, 2, 5, 10])
    else:
        ticks = LogLocator(base=10, subs=splits[0] if splits else (1,), numticks=max(most, 12 if splits else most))
    axis.set_major_locator(ticks)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_format.tick(value, base)))


def _labels_that_fit(axis: Axis) -> int:
    """How many labels an axis has room for, before the layout has moved it a little."""
    axes = axis.axes
    box, figure = axes.get_position(), axes.get_figure(root=True)
    if figure is None:
        return 5
    inches = box.width * figure.get_figwidth() if axis is axes.xaxis else box.height * figure.get_figheight()
    return max(3, int(inches / (ACROSS_INCHES if axis is axes.xaxis else UP_INCHES)))


def band(axes: Axes, sizes: Sequence[int], ends: Array, color: str) -> None:
    """The intervals of a line of points: `ends` has shape (2, n); an open end runs off the top of the axes."""
    roof = 4 * ends[np.isfinite(ends)].max(initial=0)
    low, high = np.clip(ends, None, roof or None)
    axes.fill_between(sizes, low, high, color=color, alpha=0.16, linewidth=0, zorder=2)
    axes.vlines(sizes, low, high, color=color, linewidth=1, alpha=0.8, zorder=3)


def ring(axes: Axes, sizes: Sequence[float] | Array, values: Sequence[float] | Array, label: str, color: str) -> None:
    """Circle points that are to be seen together."""
    if len(sizes):
        look: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "markeredgecolor": color}
        axes.plot(list(sizes), list(values), "o", linestyle="none", label=label, zorder=5, **look)


def star(axes: Axes, batch_size: int, value: float, label: str) -> None:
    """Mark the optimum and name its batch size."""
    look: dict[str, Any] = {"color": style.BEST, "markersize": 11, "zorder": 6, "linestyle": "none"}
    axes.plot([batch_size], [value], "*", label=f"{label}: {batch_size}", **look)


def missed(axes: Axes, sizes: Sequence[int], label: str) -> None:
    """Mark batch sizes that have no value, along the top edge."""
    if len(sizes):
        look: dict[str, Any] = {
            "markersize": 6,
            "markerfacecolor": style.PAPER,
            "markeredgecolor": style.MUTED,
            "clip_on": False,
        }
        where: dict[str, Any] = {
            "transform": axes.get_xaxis_transform(),
            "label": label,
            "linestyle": "none",
            "zorder": 6,
        }
        axes.plot(list(sizes), [1.0] * len(sizes), "^", **look, **where)


def hover(
    axes: Axes, sizes: Sequence[int], values: Sequence[float] | Array, across: Sequence[float] | Array | None = None
) -> None:
    """Lay an invisible target over each finite point; on a page it shows the row of that batch size."""
    for size, right, value in zip(sizes, sizes if across is None else across, values, strict=True):
        if np.isfinite(value):
            axes.plot([right], [value], "o", markersize=11, alpha=0, gid=f"{CELL_ID}{int(size)}", zorder=9)


def batch_size_colors(sizes: Sequence[int]) -> dict[int, tuple[float, ...]]:
    """A colour for each of the sorted batch sizes, dark for small and light for large, even in log2."""
    scale = _batch_size_scale(sizes)
    return dict(zip(sizes, map(tuple, scale.to_rgba(np.array(sizes))), strict=True))


def batch_size_bar(figure: Figure, panels: Sequence[Axes], sizes: Sequence[int]) -> None:
    """The key to `batch_size_colors`, beside the panels."""
    bar = figure.colorbar(_batch_size_scale(sizes), ax=list(panels), pad=0.015, aspect=32, label="batch size")
    height_inches = figure.get_size_inches()[1] * 0.6
    bar.ax.yaxis.set_major_locator(FixedLocator(spaced(sizes, 2 * height_inches)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.outline.set_visible(False)  # type: ignore[operator] - the stub has a Spine as a plain artist


def _batch_size_scale(sizes: Sequence[int]) -> ScalarMappable:
    # Both ends of the palette would be lost: one on white paper, the other on a dark page.
    shades = ListedColormap(mpl.colormaps[style.SEQUENCE](np.linspace(0.18, 0.88, 256)))
    return ScalarMappable(LogNorm(sizes[0], max(sizes[-1], 2 * sizes[0])), shades)


def legend(figure: Figure) -> None:
    """Name what is drawn above the axes, where it can hide no data, in as many columns as fit."""
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    for columns in range(min(len(found), 5), 0, -1):
        drawn = figure.legend(list(found.values()), list(found), loc="outside upper left", ncols=columns)
        if drawn.get_window_extent().width < (figure.get_figwidth() - LEGEND_MARGIN_INCHES) * figure.dpi:
            return
        if columns > 1:
            drawn.remove()


def finished(figure: Figure, text: str) -> Figure:
    """Add the legend, and at the foot what was measured, where and how often; returns the figure."""
    legend(figure)
    width = int(figure.get_figwidth() * CHARACTERS_PER_INCH)
    lines = textwrap.fill(text.replace("$", r"\$"), width)
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=mpl.rcParams["font.size"] - 1.5, color=style.MUTED)
    return figure


def medians(cells: Sequence[BatchSizeSummary], quantity: str) -> Array:
    """Medians of known cells, shape (n,)."""
    return np.array([getattr(cell, quantity).median for cell in cells], dtype=np.float64)


def open_ends(cells: Sequence[BatchSizeSummary], quantity: str) -> Array:
    """Low and high ends of the intervals, shape (2, n); an end that is null is infinite."""
    pairs = [[np.inf if end is None else end for end in getattr(cell, quantity).interval] for cell in cells]
    return np.array(pairs, dtype=np.float64).T
