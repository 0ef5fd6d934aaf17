"""Learning rates: the best one at each batch size, and the whole map of what each rate led to."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.analysis import style, words
from bench.analysis.figures import canvas
from bench.analysis.figures.canvas import NothingToDrawError
from bench.analysis.figures.origin import origin, target_words
from bench.analysis.frames import Frames
from bench.analysis.summary import Summary

LABELLED_CELLS = 150


def best_learning_rate(frames: Frames, summary: Summary) -> Figure:
    """The chosen rate against batch size within the rates tried, beside the square-root and linear rules."""
    cells = [cell for cell in summary.cells if cell.best_learning_rate is not None]
    if len(cells) < 2:
        raise NothingToDrawError("learning rates were not tuned at two or more batch sizes")
    figure, (axes,) = canvas.sheet()
    sizes = np.array([cell.batch_size for cell in cells])
    rates = np.array([cell.best_learning_rate for cell in cells], dtype=float)
    tried = _tuned(frames).groupby("batch_size")["learning_rate"].agg(["min", "max"])
    axes.vlines(tried.index, tried["min"], tried["max"], color=style.GRID, linewidth=5, label="rates tried")
    middle = len(sizes) // 2
    for exponent, dashes, label in ((0.5, "--", "square-root rule"), (1.0, ":", "linear rule")):
        rule = rates[middle] * (sizes / sizes[middle]) ** exponent
        axes.plot(sizes, rule, dashes, color=style.MUTED, linewidth=1, label=label)
    axes.plot(sizes, rates, "o-", color=style.BLUE, label="fewest epochs to the target")
    edges = np.array([bool(cell.at_grid_edge) for cell in cells])
    canvas.ring(axes, sizes[edges], rates[edges], "at the edge of those tried", style.BEST)
    axes.set_ylim(min(tried["min"].min(), rates.min()) / 1.5, max(tried["max"].max(), rates.max()) * 1.5)
    canvas.log_axis(axes, "learning rate")
    canvas.log2_axis(axes, list(sizes))
    canvas.hover(axes, list(sizes), list(rates))
    canvas.legend(figure)
    return canvas.signed(figure, origin(frames, summary))


def rate_map(frames: Frames, summary: Summary) -> Figure:
    """Epochs to the target for each batch size and rate; missed and diverged trials are named, not coloured."""
    trials = _tuned(frames)
    cells = trials.groupby(["batch_size", "learning_rate"]).agg(
        epochs=("epochs_to_target", "median"), diverged=("status", lambda seen: (seen == "diverged").mean() > 0.5)
    )
    reached = cells[np.isfinite(cells["epochs"])]
    if cells.index.get_level_values("learning_rate").nunique() < 2 or reached.empty:
        raise NothingToDrawError("no grid of learning rates reached the target")
    figure, (axes,) = canvas.sheet(height_factor=1.15)
    boxes = _boxes(cells.index.to_frame(index=False), frames.experiment.learning_rate.factor)
    scale = LogNorm(reached["epochs"].min(), max(reached["epochs"].max(), reached["epochs"].min() * 1.01))
    colors = mpl.colormaps[style.SEQUENCE + "_r"]
    shown = np.isfinite(cells["epochs"].to_numpy())
    faces = [colors(scale(epochs)) if seen else style.GRID for epochs, seen in zip(cells["epochs"], shown, strict=True)]
    axes.add_collection(PatchCollection(boxes, facecolors=faces, edgecolors=style.PAPER, linewidths=0.8))
    _label(axes, cells, scale)
    axes.set_yscale("log")
    rates = cells.index.get_level_values("learning_rate")
    axes.set_ylim(rates.min() / 2, rates.max() * 2)
    canvas.log_axis(axes, "learning rate")
    canvas.log2_axis(axes, list(cells.index.get_level_values("batch_size")), room=0.82)
    axes.grid(visible=False)
    bar = figure.colorbar(mpl.cm.ScalarMappable(scale, colors), ax=axes, pad=0.01, aspect=30)
    bar.set_label(f"epochs to {target_words(summary)}")
    canvas.plain_ticks(bar.ax.yaxis)
    return canvas.signed(figure, origin(frames, summary) + " · grey: - not reached, x diverged")


def _tuned(frames: Frames) -> pd.DataFrame:
    return frames.trials[frames.trials["phase"] == "search"]


def _boxes(cells: pd.DataFrame, factor: float) -> list[Rectangle]:
    """A rectangle around each (batch size, rate), half a grid step to every side on logarithmic axes."""
    sizes = np.sort(cells["batch_size"].unique())
    across = np.sqrt((sizes[1:] / sizes[:-1]).min()) if len(sizes) > 1 else np.sqrt(2)
    up = np.sqrt(factor)
    return [
        Rectangle((size / across, rate / up), size * (across - 1 / across), rate * (up - 1 / up))
        for size, rate in cells[["batch_size", "learning_rate"]].itertuples(index=False)
    ]


def _label(axes: Axes, cells: pd.DataFrame, scale: LogNorm) -> None:
    small = len(cells) > LABELLED_CELLS or canvas.is_narrow()
    for (size, rate), epochs, diverged in cells.itertuples():
        if np.isfinite(epochs):
            text, color = words.number(epochs, 2), "#000000" if scale(epochs) < 0.5 else "#ffffff"
        else:
            text, color = "x" if diverged else "-", "#3a3f45"
        if not (small and np.isfinite(epochs)):
            axes.text(size, rate, text, ha="center", va="center", fontsize=6, color=color)
