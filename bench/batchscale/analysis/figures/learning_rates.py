"""Learning rates: the best one at each batch size, and the whole map of what each rate led to."""

from __future__ import annotations

from typing import Any

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
from batchscale.analysis.frames.schema import aggregated, batch_sizes, by_batch_size, values
from batchscale.analysis.metrics.trials import search_seeds, searched_points
from batchscale.analysis.statistics.intervals import Array
from batchscale.analysis.summary_types import BatchSizeSummary, Summary
from batchscale.analysis.text.provenance import origin, target_words
from batchscale.config.plan import effective_rate
from batchscale.config.vocabulary import Point

LABELLED_CELLS = 150


def best_learning_rate(frames: Frames, summary: Summary) -> Figure:
    """The chosen rate against batch size within the rates tried, beside the square-root and linear rules."""
    cells = [cell for cell in summary.cells if cell.best_learning_rate is not None]
    if len(cells) < 2:
        raise NothingToDrawError("learning rates were not tuned at two or more batch sizes")
    figure, (axes,) = drawing.sheet()
    sizes = np.array([cell.batch_size for cell in cells])
    rates = np.array([_chosen(cell) for cell in cells])
    _draw_tried(axes, frames, rates)
    _draw_rules(axes, sizes, rates)
    axes.plot(sizes, rates, "o-", color=style.BLUE, label="fewest epochs to the target")
    edges = np.array([bool(cell.at_grid_edge) for cell in cells])
    drawing.ring(axes, sizes[edges], rates[edges], "at the edge of those tried", style.BEST)
    drawing.log_axis(axes, _rate_words(frames))
    drawing.log2_axis(axes, sizes.tolist())
    drawing.hover(axes, sizes.tolist(), rates)
    return drawing.finished(figure, origin(frames, summary, search_seeds(frames)))


def rate_map(frames: Frames, summary: Summary) -> Figure:
    """Epochs to the target for each batch size and rate; missed and diverged trials are named, not coloured.

    Where options were searched beside the rate, each cell has those that are best for it.
    """
    wanted = {"epochs": ("epochs", "min"), "diverged": ("diverged", "min")}
    cells = aggregated(searched_points(frames), ["batch_size", "rate"], **wanted)
    epochs, rates = values(cells, "epochs"), values(cells, "rate")
    reached = epochs[np.isfinite(epochs)]
    if not len(reached) or len(np.unique(rates)) < 2:
        raise NothingToDrawError("no grid of learning rates reached the target")
    figure, (axes,) = drawing.sheet(height_factor=1.15)
    shades = ScalarMappable(LogNorm(reached.min(), max(reached.max(), 1.01 * reached.min())), f"{style.SEQUENCE}_r")
    boxes = _boxes(values(cells, "batch_size"), rates, frames.experiment.learning_rate.factor)
    faces = [shades.to_rgba(np.array(need)) if np.isfinite(need) else style.GRID for need in epochs]
    axes.add_collection(PatchCollection(boxes, facecolors=faces, edgecolors=style.PAPER, linewidths=0.8))
    _label(axes, cells, shades)
    axes.set(yscale="log", ylim=(rates.min() / 2, rates.max() * 2))
    axes.grid(visible=False)
    drawing.log_axis(axes, _rate_words(frames))
    drawing.log2_axis(axes, batch_sizes(cells), room=0.82)
    bar = figure.colorbar(shades, ax=axes, pad=0.01, aspect=30, label=f"epochs to {target_words(summary)}")
    drawing.plain_ticks(bar.ax.yaxis)
    return drawing.finished(
        figure, f"{origin(frames, summary, search_seeds(frames))} · grey: - not reached, x diverged"
    )


def _chosen(cell: BatchSizeSummary) -> float:
    return effective_rate(Point(cell.best_learning_rate or np.nan, tuple(cell.best_options.items())))


def _rate_words(frames: Frames) -> str:
    return "learning rate / (1 - momentum)" if "momentum" in frames.experiment.search else "learning rate"


def _draw_tried(axes: Axes, frames: Frames, rates: Array) -> None:
    """The rates tried, which also set how far the axis goes."""
    sizes, low = by_batch_size(searched_points(frames), "rate", np.min)
    _, high = by_batch_size(searched_points(frames), "rate", np.max)
    axes.vlines(sizes, low, high, color=style.GRID, linewidth=5, label="rates tried")
    axes.set_ylim(min([*low, *rates]) / 1.5, max([*high, *rates]) * 1.5)


def _draw_rules(axes: Axes, sizes: Array, rates: Array) -> None:
    middle = len(sizes) // 2
    for exponent, dashes, label in ((0.5, "--", "square-root rule"), (1.0, ":", "linear rule")):
        rule = rates[middle] * (sizes / sizes[middle]) ** exponent
        axes.plot(sizes, rule, dashes, color=style.MUTED, linewidth=1, label=label)


def _boxes(sizes: Array, rates: Array, factor: float) -> list[Rectangle]:
    """A rectangle around each (batch size, rate), half a grid step to every side on logarithmic axes."""
    different = np.unique(sizes)
    across = np.sqrt((different[1:] / different[:-1]).min(initial=2.0))
    up = np.sqrt(factor)
    return [
        Rectangle((size / across, rate / up), size * (across - 1 / across), rate * (up - 1 / up))
        for size, rate in zip(sizes, rates, strict=True)
    ]


def _label(axes: Axes, cells: pd.DataFrame, shades: ScalarMappable) -> None:
    middle = np.sqrt(np.prod(np.array(shades.get_clim(), dtype=np.float64)))
    crowded = len(cells) > LABELLED_CELLS or drawing.is_narrow()
    columns = (values(cells, name) for name in ("batch_size", "rate", "epochs", "diverged"))
    for size, rate, epochs, diverged in zip(*columns, strict=True):
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6}
        if not np.isfinite(epochs):
            axes.text(size, rate, "x" if diverged > 0.5 else "-", color=style.MUTED, **look)
        elif not crowded:
            axes.text(
                size, rate, number_format.number(epochs, 2), color="#ffffff" if epochs > middle else "#000000", **look
            )
