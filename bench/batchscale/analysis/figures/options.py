"""Optimizer options searched beside the learning rate: what each of their values costs at every batch size."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchscale.analysis import number_format
from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import batch_sizes, by_batch_size, only, values
from batchscale.analysis.metrics.trials import at_best, search_seeds, searched_points
from batchscale.analysis.statistics.intervals import Array
from batchscale.analysis.summary_types import Summary
from batchscale.analysis.text.provenance import origin, target_words


def searched_options(frames: Frames, summary: Summary) -> Figure:
    """Epochs to the target with each value of an option, all else as is best with it; a panel for each option."""
    options, points = frames.experiment.searched, searched_points(frames)
    if not options:
        raise NothingToDrawError("no optimizer options were searched beside the learning rate")
    if not np.isfinite(values(points, "epochs")).any():
        raise NothingToDrawError("no searched run reached the target")
    figure, panels = drawing.sheet(len(options))
    found = [at_best(points, option) for option in options]
    shades = iter(mpl.colormaps[style.SEQUENCE](np.linspace(0.15, 0.85, sum(len(_tried(best)) for best in found))))
    for axes, option, best in zip(panels, options, found, strict=True):
        _draw(axes, best, option, [next(shades) for _ in _tried(best)])
        axes.set_title(number_format.option(option) if len(options) > 1 else "", loc="left")
        drawing.log_axis(axes, f"epochs to {target_words(summary)}")
        drawing.log2_axis(axes, batch_sizes(points), room=1 if drawing.is_narrow() else 1 / len(options))
    return drawing.finished(figure, origin(frames, summary, search_seeds(frames)))


def _tried(best: pd.DataFrame) -> list[float]:
    return np.unique(values(best, "value")).tolist()


def _draw(axes: Axes, best: pd.DataFrame, option: str, shades: Sequence[Array]) -> None:
    """A line for each value, broken where no run with it reached the target."""
    for value, shade in zip(_tried(best), shades, strict=True):
        sizes, epochs = by_batch_size(only(best, best["value"] == value), "epochs")
        label = " ".join(number_format.options({option: value}))
        axes.plot(sizes, np.where(np.isfinite(epochs), epochs, np.nan), "o-", color=tuple(shade), label=label)
    edges = only(best, best["at_edge"] & np.isfinite(values(best, "epochs")))
    at = edges["batch_size"].tolist()
    drawing.ring(axes, at, values(edges, "epochs"), "best rate at the edge of those tried", style.BEST)
