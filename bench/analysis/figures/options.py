"""Optimizer options searched beside the learning rate: what each of their values costs at every batch size."""

from __future__ import annotations

from collections.abc import Sequence

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
from bench.analysis.figures.rates import search_seeds, searched_points
from bench.analysis.figures.series import batch_sizes, by_batch_size
from bench.analysis.frames import Frames
from bench.analysis.statistics import Array
from bench.analysis.summary import Summary


def searched_options(frames: Frames, summary: Summary) -> Figure:
    """Epochs to the target with each value of an option, all else as is best with it; a panel for each option."""
    options, points = frames.experiment.searched, searched_points(frames)
    if not options:
        raise NothingToDrawError("no optimizer options were searched beside the learning rate")
    if not np.isfinite(values(points, "epochs")).any():
        raise NothingToDrawError("no searched run reached the target")
    figure, panels = canvas.sheet(len(options))
    found = [at_best(points, option) for option in options]
    shades = iter(mpl.colormaps[style.SEQUENCE](np.linspace(0.15, 0.85, sum(len(_tried(best)) for best in found))))
    for axes, option, best in zip(panels, options, found, strict=True):
        _draw(axes, best, option, [next(shades) for _ in _tried(best)])
        axes.set_title(words.option(option) if len(options) > 1 else "", loc="left")
        canvas.log_axis(axes, f"epochs to {target_words(summary)}")
        canvas.log2_axis(axes, batch_sizes(points), room=1 if canvas.is_narrow() else 1 / len(options))
    return canvas.finished(figure, origin(frames, summary, search_seeds(frames)))


def at_best(points: pd.DataFrame, option: str) -> pd.DataFrame:
    """One row per batch size and `value` of an option: the point with it that has the fewest median `epochs`.

    It is `at_edge` where its rate is the lowest or the highest of several that were tried with its options.
    """
    grids = points.groupby(["batch_size", "options"])["rate"]
    low, high = (np.asarray(grids.transform(end), dtype=np.float64) for end in ("min", "max"))
    rates = values(points, "rate")
    at_edge = (low < high) & ((rates == low) | (rates == high))
    value = [dict(options)[option] for options in points["options"]]
    best = points.assign(value=value, at_edge=at_edge).sort_values("epochs", kind="stable")
    return best.drop_duplicates(["batch_size", "value"]).sort_values(["value", "batch_size"])


def _tried(best: pd.DataFrame) -> list[float]:
    return np.unique(values(best, "value")).tolist()


def _draw(axes: Axes, best: pd.DataFrame, option: str, shades: Sequence[Array]) -> None:
    """A line for each value, broken where no run with it reached the target."""
    for value, shade in zip(_tried(best), shades, strict=True):
        sizes, epochs = by_batch_size(only(best, best["value"] == value), "epochs")
        label = " ".join(words.options({option: value}))
        axes.plot(sizes, np.where(np.isfinite(epochs), epochs, np.nan), "o-", color=tuple(shade), label=label)
    edges = only(best, best["at_edge"] & np.isfinite(values(best, "epochs")))
    at = edges["batch_size"].tolist()
    canvas.ring(axes, at, values(edges, "epochs"), "best rate at the edge of those tried", style.BEST)
