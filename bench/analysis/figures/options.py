"""Optimizer options swept beside the learning rate: what each of their values costs at every batch size."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis import style, words
from bench.analysis.columns import only, values
from bench.analysis.figures import canvas
from bench.analysis.figures.canvas import NothingToDrawError
from bench.analysis.figures.origin import origin, target_words
from bench.analysis.figures.rates import searched_points
from bench.analysis.figures.series import by_batch_size
from bench.analysis.frames import Frames
from bench.analysis.summary import Summary


def swept_options(frames: Frames, summary: Summary) -> Figure:
    """Epochs to the target with each value of an option, all else as is best with it; a panel for each option."""
    sweep = frames.experiment.sweep
    points = searched_points(frames)
    if not sweep:
        raise NothingToDrawError("no optimizer options were swept beside the learning rate")
    if not np.isfinite(values(points, "epochs")).any():
        raise NothingToDrawError("no searched run reached the target")
    figure, panels = canvas.sheet(len(sweep))
    sizes = sorted({int(size) for size in points["batch_size"]})
    for axes, option in zip(panels, sorted(sweep), strict=True):
        _draw(axes, at_best(points, option), option)
        canvas.log_axis(axes, f"epochs to {target_words(summary)}")
        canvas.log2_axis(axes, sizes, room=1 / len(sweep))
    return canvas.finished(figure, origin(frames, summary))


def at_best(points: pd.DataFrame, option: str) -> pd.DataFrame:
    """One row per batch size and `value` of an option: the point with it that has the fewest median `epochs`.

    It is `at_edge` where its rate is the lowest or the highest that was tried with its options.
    """
    rates = points.groupby(["batch_size", "options"])["learning_rate"]
    at_edge = (points["learning_rate"] == rates.transform("min")) | (points["learning_rate"] == rates.transform("max"))
    value = [dict(options).get(option, np.nan) for options in points["options"]]
    best = points.assign(value=value, at_edge=at_edge).sort_values("epochs", kind="stable")
    return best.drop_duplicates(["batch_size", "value"]).sort_values(["value", "batch_size"])


def _draw(axes: Axes, best: pd.DataFrame, option: str) -> None:
    """A line for each value, broken where no run with it reached the target."""
    tried = np.unique(values(best, "value"))
    shades = mpl.colormaps[style.SEQUENCE](np.linspace(0.15, 0.85, len(tried)))
    for value, color in zip(tried.tolist(), shades, strict=True):
        sizes, epochs = by_batch_size(only(best, best["value"] == value), "epochs")
        label = " ".join(words.options({option: value}))
        axes.plot(sizes, np.where(np.isfinite(epochs), epochs, np.nan), "o-", color=color, label=label)
    edges = only(best, best["at_edge"] & np.isfinite(values(best, "epochs")))
    at = edges["batch_size"].tolist()
    canvas.ring(axes, at, values(edges, "epochs"), "best rate at the edge of those tried", style.BEST)
