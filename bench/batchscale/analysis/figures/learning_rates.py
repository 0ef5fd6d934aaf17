"""Learning rates and other optimizer options: the best at each batch size, and what every one tried led to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from batchscale.analysis import number_format
from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import aggregated, batch_sizes, by_batch_size, only, values
from batchscale.analysis.metrics.observations import at_best
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_types import BatchSizeSummary, Summary
from batchscale.analysis.text.answer import target
from batchscale.analysis.text.captions import origin, search_seeds
from batchscale.config.plan import effective_rate
from batchscale.config.vocabulary import Point
from batchscale.decisions.rate_choice import Choice
from batchscale.statistics.intervals import Array

LABEL_INCHES = 0.28
"""A box of the map of rates that is narrower than this holds no number."""


def best_learning_rate(sweep: Sweep, summary: Summary) -> Figure:
    """Draw the rates of the claims within the rates tried, the surface's ridge with its band, and two rules."""
    cells = [cell for cell in summary.cells if cell.best_learning_rate is not None and cell.claims_on != "fixed"]
    if len(cells) < 2:
        raise NothingToDrawError("learning rates were not tuned at two or more batch sizes")
    figure, (axes,) = drawing.sheet()
    sizes = np.array([cell.batch_size for cell in cells])
    rates = np.array([_best_effective_rate(cell) for cell in cells])
    _draw_tried(axes, sweep.searched_points, rates)
    _draw_rules(axes, sizes, rates)
    choices = {cell.batch_size: sweep.claims[cell.batch_size].choice for cell in cells}
    on_surface = {size: one for size, one in choices.items() if one and one.ridge}
    _draw_ridge(axes, on_surface)
    axes.plot(sizes, rates, "o-", color=style.BLUE, zorder=4, label="rate that the claims rest on")
    _draw_others(axes, on_surface, dict(zip(sizes.tolist(), rates.tolist(), strict=True)))
    edges = np.array([bool(cell.at_grid_edge) for cell in cells])
    drawing.ring(axes, sizes[edges], rates[edges], "at the edge of the rates tried", style.BEST)
    drawing.log_axis(axes, _rate_words(sweep.frames))
    drawing.log2_axis(axes, sizes.tolist())
    drawing.hover(axes, sizes.tolist(), rates)
    return drawing.finished(figure, origin(sweep.frames, summary, search_seeds(sweep)))


def rate_map(sweep: Sweep, summary: Summary) -> Figure:
    """Draw the epochs, or the training that is counted instead, to the target; trials that missed it are grey.

    Where other options were searched too, each box has the options that are best for its batch size and rate.
    """
    wanted = {"needed": ("needed", "min"), "diverged": ("diverged", "min")}
    tried = aggregated(sweep.searched_points, ["batch_size", "rate"], **wanted)
    needs, rates = values(tried, "needed"), values(tried, "rate")
    reached = needs[np.isfinite(needs)]
    if not len(reached) or len(np.unique(rates)) < 2:
        raise NothingToDrawError("no grid of learning rates reached the target")
    figure, (axes,) = drawing.sheet(height_factor=1.15)
    shades = ScalarMappable(LogNorm(reached.min(), max(reached.max(), 1.01 * reached.min())), f"{style.SEQUENCE}_r")
    boxes = _boxes(values(tried, "batch_size"), rates, sweep.frames.experiment.learning_rate.factor)
    faces = [shades.to_rgba(np.array(need)) if np.isfinite(need) else style.GRID for need in needs]
    axes.add_collection(PatchCollection(boxes, facecolors=faces, edgecolors=style.PAPER, linewidths=0.8))
    _label(axes, tried, shades)
    axes.set(yscale="log", ylim=(rates.min() / 2, rates.max() * 2))
    axes.grid(visible=False)
    drawing.log_axis(axes, _rate_words(sweep.frames))
    drawing.log2_axis(axes, batch_sizes(tried))
    bar = figure.colorbar(shades, ax=axes, pad=0.01, aspect=30, label=f"{sweep.amounts.shown} to {target(summary)}")
    drawing.plain_ticks(bar.ax.yaxis)
    return drawing.finished(
        figure,
        f"{origin(sweep.frames, summary, search_seeds(sweep))} · grey: target not reached (x: diverged)",
    )


def _best_effective_rate(cell: BatchSizeSummary) -> float:
    return effective_rate(Point(cell.best_learning_rate or np.nan, tuple(cell.best_options.items())))


def _rate_words(frames: Frames) -> str:
    return "learning rate / (1 - momentum)" if "momentum" in frames.experiment.search else "learning rate"


def _draw_tried(axes: Axes, points: pd.DataFrame, rates: Array) -> None:
    """Draw the range of rates tried, which also sets the limits of the axis."""
    sizes, low = by_batch_size(points, "rate", np.min)
    _, high = by_batch_size(points, "rate", np.max)
    axes.vlines(sizes, low, high, color=style.GRID, linewidth=5, label="rates tried")
    axes.set_ylim(min([*low, *rates]) / 1.5, max([*high, *rates]) * 1.5)


def _draw_rules(axes: Axes, sizes: Array, rates: Array) -> None:
    middle = len(sizes) // 2
    for exponent, dashes, label in ((0.5, "--", "square-root rule"), (1.0, ":", "linear rule")):
        rule = rates[middle] * (sizes / sizes[middle]) ** exponent
        axes.plot(sizes, rule, dashes, color=style.MUTED, linewidth=1, label=label)


def _draw_ridge(axes: Axes, choices: Mapping[int, Choice]) -> None:
    """Draw the best rates by the surface with their 95% band, each in the options that were chosen with it."""
    if len(choices) < 2:
        return
    ridges = [[_effective(rate, one.for_target) for rate in one.ridge or ()] for one in choices.values()]
    low, middle, high = np.array(ridges, dtype=np.float64).T
    axes.fill_between(list(choices), low, high, color=style.GREEN, alpha=0.16, linewidth=0, zorder=2)
    axes.plot(list(choices), middle, **drawing.FITTED, zorder=3, label="best by the surface, 95% band")
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, low.min() / 1.2), max(top, high.max() * 1.2))


def _draw_others(axes: Axes, choices: Mapping[int, Choice], rates: Mapping[int, float]) -> None:
    """Mark chosen rates that are not those that the claims rest on, and rates that the neighbours gave."""
    chosen = {size: effective_rate(one.for_target) for size, one in choices.items()}
    other = [size for size, rate in chosen.items() if not np.isclose(rate, rates[size], rtol=1e-4)]
    look: dict[str, Any] = {"linestyle": "none", "zorder": 5}
    if other:
        axes.plot(other, [chosen[size] for size in other], "x", color=style.BLUE, label="chosen on the surface", **look)
    given = [size for size, one in choices.items() if one.neighbours]
    if given:
        label = "rate by the neighbours"
        axes.plot(given, [rates[at] for at in given], "s", color=style.ORANGE, markersize=4, label=label, **look)


def _effective(rate: float, point: Point) -> float:
    return effective_rate(Point(rate, point.options))


def _boxes(sizes: Array, rates: Array, factor: float) -> list[Rectangle]:
    """Return a rectangle around each (batch size, rate), half a grid step to every side on logarithmic axes."""
    across, up = np.sqrt(_least_ratio(sizes)), np.sqrt(factor)
    return [
        Rectangle((size / across, rate / up), size * (across - 1 / across), rate * (up - 1 / up))
        for size, rate in zip(sizes, rates, strict=True)
    ]


def _least_ratio(sizes: Array) -> float:
    """Return the least ratio of neighbouring batch sizes, at most 2."""
    different = np.unique(sizes)
    return float((different[1:] / different[:-1]).min(initial=2.0))


def _label(axes: Axes, tried: pd.DataFrame, shades: ScalarMappable) -> None:
    """Write the needs into the boxes where there is room, and mark those that missed the target."""
    middle = np.sqrt(np.prod(np.array(shades.get_clim(), dtype=np.float64)))
    sizes = values(tried, "batch_size")
    boxes_across = np.log(sizes.max() / sizes.min()) / np.log(_least_ratio(sizes)) + 1
    crowded = mpl.rcParams["figure.figsize"][0] * 0.8 / boxes_across < LABEL_INCHES
    columns = (values(tried, name) for name in ("rate", "needed", "diverged"))
    for size, rate, need, diverged in zip(sizes, *columns, strict=True):
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6}
        if not np.isfinite(need):
            axes.text(size, rate, "x" if diverged > 0.5 else "", color=style.MUTED, **look)
        elif not crowded:
            axes.text(
                size, rate, number_format.number(need, 2), color="#ffffff" if need > middle else "#000000", **look
            )


def searched_options(sweep: Sweep, summary: Summary) -> Figure:
    """Draw the epochs to the target with each value of an option, all else at its best; a panel for each option."""
    options, points = sweep.frames.experiment.searched, sweep.searched_points
    if not options:
        raise NothingToDrawError("no optimizer options were searched in addition to the learning rate")
    if not np.isfinite(values(points, "needed")).any():
        raise NothingToDrawError("no searched run reached the target")
    figure, panels = drawing.sheet(len(options))
    found = [at_best(points, option) for option in options]
    shades = iter(mpl.colormaps[style.SEQUENCE](np.linspace(0.15, 0.85, sum(len(_tried(best)) for best in found))))
    for axes, option, best in zip(panels, options, found, strict=True):
        _draw_values(axes, best, option, [next(shades) for _ in _tried(best)])
        axes.set_title(number_format.option(option) if len(options) > 1 else "", loc="left")
        drawing.log_axis(axes, f"{sweep.amounts.shown} to {target(summary)}")
        drawing.log2_axis(axes, batch_sizes(points))
    return drawing.finished(figure, origin(sweep.frames, summary, search_seeds(sweep)))


def _tried(best: pd.DataFrame) -> list[float]:
    return np.unique(values(best, "value")).tolist()


def _draw_values(axes: Axes, best: pd.DataFrame, option: str, shades: Sequence[Array]) -> None:
    """Draw a line for each value, broken where no run with it reached the target."""
    for value, shade in zip(_tried(best), shades, strict=True):
        sizes, needs = by_batch_size(only(best, best["value"] == value), "needed")
        label = " ".join(number_format.options({option: value}))
        axes.plot(sizes, np.where(np.isfinite(needs), needs, np.nan), "o-", color=tuple(shade), label=label)
    edges = only(best, best["at_edge"] & np.isfinite(values(best, "needed")))
    at = edges["batch_size"].tolist()
    drawing.ring(axes, at, values(edges, "needed"), "best rate at the edge of the rates tried", style.BEST)
