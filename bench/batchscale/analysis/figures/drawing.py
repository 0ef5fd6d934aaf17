"""What figures share: the sheet, axes with plain numbers, marks for ties and misses, and the line on their origin."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from batchscale.analysis import number_format
from batchscale.analysis.figures import style
from batchscale.analysis.summary_types import BatchSizeSummary, Summary
from batchscale.config.goal import Goal
from batchscale.statistics.intervals import Array

LEAST_PANEL_INCHES = 2.2
CHARACTERS_PER_INCH = 19
LABEL_INCHES_PER_CHARACTER = 0.062
LEGEND_MARGIN_INCHES = 0.3
ROUNDING = 1e-9
"""Values this close to each other, relative to themselves, differ only by rounding."""
ACROSS_INCHES, UP_INCHES = 0.42, 0.3
"""Room for one label of an axis."""
BATCH_SIZE = "batch size"
KNOWN_MARGIN = 1.25
"""A known loss that is further than this factor from all that is drawn has no line: it would press the curves flat."""
LABEL_PLACES = (0.99, 0.79, 0.59, 0.39)
"""Horizontal places of the names of lines, in turn, so that neighbours do not overlap."""
BATCH_SIZE_ID = "cell-"
"""Prefix of the SVG id of a point that belongs to a batch size."""

GUIDE: dict[str, Any] = {"color": style.MUTED, "linestyle": "--", "linewidth": 1}
"""A line to compare with: perfect scaling, a limit."""
FITTED: dict[str, Any] = {"color": style.GREEN, "linestyle": "--", "linewidth": 1}
"""A fitted curve."""


class NothingToDrawError(Exception):
    """The rows that a figure needs were not measured; the message names them."""


def medians(cells: Sequence[BatchSizeSummary], quantity: str) -> Array:
    """Return the medians of cells whose `quantity` is known, shape (n,)."""
    return np.array([getattr(cell, quantity).median for cell in cells], dtype=np.float64)


def open_ends(cells: Sequence[BatchSizeSummary], quantity: str) -> Array:
    """Return the low and high ends of the intervals, shape (2, n); an end that is null is infinite."""
    pairs = [[np.inf if end is None else end for end in getattr(cell, quantity).interval] for cell in cells]
    return np.array(pairs, dtype=np.float64).T


def sheet(panels: int = 1, height_factor: float = 1.0) -> tuple[Figure, list[Axes]]:
    """Return a figure of the current width and its panels: side by side if each has room, else stacked."""
    width, height = mpl.rcParams["figure.figsize"]
    columns = panels if width >= panels * LEAST_PANEL_INCHES else 1
    rows = panels // columns
    stretch = height_factor * (0.8 * rows if rows > 1 else 1)
    figure = Figure(figsize=(width, height * stretch), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


class BatchSizeLocator(FixedLocator):
    """Ticks at batch sizes (or numbers of devices), as many as the axis has room for when it is drawn.

    Attributes:
        labelled: the axis.
        sizes: the sorted batch sizes.
        room: the length of the axis is multiplied by this; labels of a vertical axis need less room.
    """

    def __init__(self, axis: Axis, sizes: Sequence[int], room: float) -> None:
        super().__init__(sizes)
        self.labelled, self.sizes, self.room = axis, sizes, room

    def __call__(self) -> Sequence[float]:
        """Return the batch sizes that get a label."""
        axes = self.labelled.axes
        figure = axes.get_figure(root=True)
        length = axes.bbox.width if self.labelled is axes.xaxis else axes.bbox.height
        return spaced(self.sizes, self.room * length / figure.dpi) if figure else list(self.sizes)


def label_batch_sizes(axis: Axis, sizes: Sequence[int], room: float = 1.0) -> None:
    """Label a log2 axis with the batch sizes as plain numbers."""
    axis.set_major_locator(BatchSizeLocator(axis, sizes, room))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axis.set_minor_locator(NullLocator())


def log2_axis(axes: Axes, values: Sequence[int], label: str = BATCH_SIZE) -> None:
    """Make the horizontal axis logarithmic to base 2, labelled with batch sizes (or numbers of devices)."""
    sizes = sorted({int(value) for value in values})
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] / 1.45, sizes[-1] * 1.45)
    label_batch_sizes(axes.xaxis, sizes)
    axes.set_xlabel(label)


def log2_axis_up(axes: Axes, values: Sequence[int]) -> None:
    """Make the vertical axis logarithmic to base 2, labelled with batch sizes."""
    sizes = sorted({int(value) for value in values})
    axes.set_yscale("log", base=2)
    axes.set_ylim(sizes[0] / 1.45, sizes[-1] * 1.45)
    label_batch_sizes(axes.yaxis, sizes, room=2.0)
    axes.set_ylabel(BATCH_SIZE)


def add_tokens(figure: Figure, summary: Summary) -> None:
    """Give every axis over batch sizes a second one in tokens, at the top, where the data is text."""
    tokens = summary.tokens_per_example
    if tokens is None:
        return
    for axes in figure.axes:
        locator = axes.xaxis.get_major_locator()
        if not isinstance(locator, BatchSizeLocator) or axes.get_xlabel() != BATCH_SIZE:
            continue
        axes.set_xlabel(f"{BATCH_SIZE} ({summary.example}s)")
        top = axes.secondary_xaxis("top", functions=_scaled_by(tokens))
        top.xaxis.set_major_locator(BatchSizeLocator(top.xaxis, [size * tokens for size in locator.sizes], 1.0))
        top.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_format.short(round(value))))
        top.xaxis.set_minor_locator(NullLocator())
        top.set_xlabel(f"{BATCH_SIZE} (tokens)")


def add_tokens_per_second(axes: Axes, summary: Summary) -> None:
    """Give a vertical axis of examples per second a second one in tokens, at the right, where the data is text."""
    tokens = summary.tokens_per_example
    if tokens is None:
        return
    right = axes.secondary_yaxis("right", functions=_scaled_by(tokens))
    right.set_ylabel("tokens per second")
    right.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    right.yaxis.set_minor_locator(NullLocator())
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number_format.short(value)))


def _scaled_by(tokens: int) -> tuple[Callable[[ArrayLike], Array], Callable[[ArrayLike], Array]]:
    """Return the way from an axis of examples to one of tokens, and back."""
    return lambda examples: np.asarray(examples, np.float64) * tokens, lambda found: np.asarray(found) / tokens


def near_known(known: Mapping[str, float], drawn: Array) -> dict[str, float]:
    """Return the known losses that are near what is drawn, the least first."""
    if not known:
        return {}
    low, high = drawn.min() / KNOWN_MARGIN, drawn.max() * KNOWN_MARGIN
    return dict(sorted(((name, loss) for name, loss in known.items() if low < loss < high), key=lambda pair: pair[1]))


def known_lines(axes: Axes, near: Mapping[str, float]) -> None:
    """Draw known losses as named lines."""
    for at, (name, loss) in enumerate(near.items()):
        axes.axhline(loss, color=style.MUTED, linestyle=":", linewidth=0.9, zorder=1.5)
        where: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
        halo: dict[str, Any] = {"facecolor": style.PAPER, "edgecolor": "none", "pad": 0.4, "alpha": 0.8}
        place = LABEL_PLACES[at % len(LABEL_PLACES)]
        axes.text(place, loss, name, color=style.MUTED, fontsize="small", bbox=halo, zorder=5, **where)


def spaced(sizes: Sequence[int], inches: float) -> list[int]:
    """Return those of the sorted batch sizes whose labels fit on a log2 axis, every k-th of a geometric list."""
    octaves = math.log2(sizes[-1] / sizes[0]) + 1.0
    inches_per_octave = inches / octaves

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
    """Make the vertical axis logarithmic, labelled with plain numbers."""
    low, high = axes.dataLim.intervaly
    if 0 < low < high < low * (1 + ROUNDING):
        # Matplotlib widens a range of one value by itself, but warns of one that rounding makes empty.
        axes.set_ylim(low / 10, high * 10)
    axes.set_yscale("log", base=base)
    axes.set_ylabel(_wrapped(label, axes.yaxis))
    plain_ticks(axes.yaxis, base)


def log_axis_across(axes: Axes, label: str) -> None:
    """Make the horizontal axis logarithmic, labelled with plain numbers, for anything but batch sizes."""
    axes.set_xscale("log")
    axes.set_xlabel(_wrapped(label, axes.xaxis))
    plain_ticks(axes.xaxis)


def plain_ticks(axis: Axis, base: int = 10) -> None:
    """Label a logarithmic axis with plain numbers, its decades split as finely as there is room for."""
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else 1.0
    most = max(3, int(_inches(axis) / (ACROSS_INCHES if axis is axis.axes.xaxis else UP_INCHES)))
    splits = [subs for subs in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)) if decades * len(subs) <= most]
    if base == 2:
        ticks = LogLocator(base=2, numticks=most + 2)
    elif decades < 0.7:
        ticks = MaxNLocator(5, steps=[1, 2, 5, 10])
    else:
        ticks = LogLocator(base=10, subs=splits[0] if splits else (1,), numticks=max(most, 12 if splits else most))
    axis.set_major_locator(ticks)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_format.tick(value, base)))


def _wrapped(label: str, axis: Axis) -> str:
    """Return the label in lines that are no longer than its axis."""
    return textwrap.fill(label, max(16, int(14 * _inches(axis))))


def _inches(axis: Axis) -> float:
    """Return the length of an axis, before the layout has moved its ends a little."""
    axes = axis.axes
    box, figure = axes.get_position(), axes.get_figure(root=True)
    if figure is None:
        return 2.0
    return box.width * figure.get_figwidth() if axis is axes.xaxis else box.height * figure.get_figheight()


def band(axes: Axes, sizes: Sequence[int], ends: Array, color: str) -> None:
    """Draw the intervals of a line of points.

    `ends` are the low and the high ends, shape (2, n); an infinite end runs off the top of the axes.
    """
    roof = 4 * ends[np.isfinite(ends)].max(initial=0)
    low, high = np.clip(ends, None, roof or None)
    axes.fill_between(sizes, low, high, color=color, alpha=0.16, linewidth=0, zorder=2)
    axes.vlines(sizes, low, high, color=color, linewidth=1, alpha=0.8, zorder=3)


def estimates(
    axes: Axes, summary: Summary, quantity: str, color: str, label: str, marker: str = "o"
) -> tuple[list[int], Array]:
    """Draw the estimates of a quantity over batch size with their intervals, and return sizes and medians, each (n,).

    A batch size without an estimate interrupts line and band: nothing is known there.
    """
    known = summary.known(quantity)
    sizes, middles = [cell.batch_size for cell in known], medians(known, quantity)
    every = sorted({cell.batch_size for cell in summary.cells})
    drawn = np.full((3, len(every)), np.nan)
    drawn[:, np.searchsorted(every, sizes)] = [middles, *open_ends(known, quantity)]
    band(axes, every, drawn[1:], color)
    axes.plot(every, drawn[0], f"{marker}-", color=color, label=label, zorder=4)
    hover(axes, sizes, middles)
    return sizes, middles


def ring(axes: Axes, sizes: Sequence[float] | Array, values: Sequence[float] | Array, label: str, color: str) -> None:
    """Circle points that belong together."""
    if len(sizes):
        look: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "markeredgecolor": color}
        axes.plot(list(sizes), list(values), "o", linestyle="none", label=label, zorder=5, **look)


def star(axes: Axes, batch_size: int, value: float, label: str) -> None:
    """Mark the optimum and name its batch size."""
    look: dict[str, Any] = {"color": style.BEST, "markersize": 11, "zorder": 6, "linestyle": "none"}
    axes.plot([batch_size], [value], "*", label=f"{label}: {batch_size}", **look)


def missed(axes: Axes, sizes: Sequence[int], label: str, color: str = style.MUTED) -> None:
    """Mark batch sizes that have no value, along the top edge."""
    if len(sizes):
        look: dict[str, Any] = {
            "markersize": 6,
            "markerfacecolor": style.PAPER,
            "markeredgecolor": color,
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
    """Lay an invisible target over each finite point; on a page it shows the row of that batch size.

    `across` are the horizontal positions, where they are not the batch sizes.
    """
    for size, right, value in zip(sizes, sizes if across is None else across, values, strict=True):
        if np.isfinite(value):
            axes.plot([right], [value], "o", markersize=11, alpha=0, gid=f"{BATCH_SIZE_ID}{int(size)}", zorder=9)


def lines_by_batch_size(
    axes: Axes,
    rows: pd.DataFrame,
    across: str,
    up: str,
    sizes: Sequence[int],
    marker: str | None = None,
    *,
    logarithmic: bool = True,
) -> None:
    """Draw one line for each batch size: the median over seeds, with a shade from the lowest to the highest.

    Args:
        axes: to draw on.
        rows: with the column `batch_size`.
        across: the column of the horizontal axis.
        up: the column of the vertical axis.
        sizes: the batch sizes of the whole figure, sorted; each has its colour.
        marker: at each point; none when None.
        logarithmic: whether the vertical axis is.
    """
    least = float(rows.loc[rows[up] > 0, up].min()) if logarithmic else -np.inf

    sns.lineplot(
        data=rows,
        x=across,
        y=up,
        hue="batch_size",
        palette=batch_size_colors(sizes),
        estimator=partial(_drawable_median, logarithmic=logarithmic),
        errorbar=lambda seeds: (max(min(seeds), least), max(seeds)),
        err_kws={"alpha": 0.2, "linewidth": 0},
        marker=marker,
        markersize=3,
        markeredgewidth=0,
        linewidth=1.1,
        legend=False,
        ax=axes,
    )


def _drawable_median(seeds: pd.Series, *, logarithmic: bool) -> float:
    """Return the median over all seeds; one of zero has no place on a logarithmic axis."""
    median = float(seeds.median())
    return median if median > 0 or not logarithmic else np.nan


def batch_size_colors(sizes: Sequence[int]) -> dict[int, tuple[float, float, float, float]]:
    """Return a colour for each of the sorted batch sizes, dark for small and light for large, even in log2."""
    shades = _batch_size_scale(sizes).to_rgba(np.array(sizes)).tolist()
    return {size: (red, green, blue, alpha) for size, (red, green, blue, alpha) in zip(sizes, shades, strict=True)}


def batch_size_bar(figure: Figure, panels: Sequence[Axes], sizes: Sequence[int]) -> None:
    """Draw the key to `batch_size_colors` at the right of the panels."""
    bar = figure.colorbar(_batch_size_scale(sizes), ax=list(panels), pad=0.015, aspect=32, label="batch size")
    label_batch_sizes(bar.ax.yaxis, sizes, room=2.0)
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


def finished(figure: Figure, origin: str) -> Figure:
    """Add the legend, and at the foot what was measured, where and how often; return the figure."""
    legend(figure)
    width = int(figure.get_figwidth() * CHARACTERS_PER_INCH)
    lines = textwrap.fill(origin.replace("$", r"\$"), width, break_on_hyphens=False)
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=mpl.rcParams["font.size"] - 1.5, color=style.MUTED)
    return figure


def gaps(goal: Goal, scores: Array) -> Array:
    """Return how far scores are from the ideal one: errors in percent, or the losses themselves.

    Scores without an ideal one are returned as they are.
    """
    if goal.kind.ideal is None:
        return scores
    return (100 if goal.kind.is_share else 1) * goal.gap(scores)


def drawable(goal: Goal, gaps: Array) -> Array:
    """Return gaps with NaN for those of perfect scores, which have no place on a logarithmic axis."""
    return gaps if goal.kind.ideal is None else np.where(gaps > 0, gaps, np.nan)


def gap_axis(axes: Axes, goal: Goal, label: str) -> None:
    """Make the vertical axis one of gaps: logarithmic, or linear for scores without an ideal one."""
    if goal.kind.ideal is not None:
        log_axis(axes, label)
        return
    axes.set_ylabel(_wrapped(label, axes.yaxis))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number_format.short(value)))


def score_axis(axes: Axes, goal: Goal) -> None:
    """Make the vertical axis one of best validation scores, drawn by their gaps; accuracies rise upwards."""
    gap_axis(axes, goal, f"best {number_format.validated(goal)}{' (%)' * (goal.kind.is_share)}")
    if goal.kind.is_share:
        axes.invert_yaxis()
        axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:.4g}"))


def gap_label(goal: Goal) -> str:
    """Return the label of an axis of validation gaps."""
    if goal.kind.is_share:
        return f"100 - {goal.name} (%)" if goal.name else "validation error (%)"
    return number_format.validated(goal)
