"""How fast the machine trains at each batch size."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import batch_sizes, by_batch_size, only, values
from batchscale.analysis.metrics.speeds import in_microbatches, whole_batches
from batchscale.analysis.statistics.intervals import Array
from batchscale.analysis.summary_types import AffineStepTime, Summary
from batchscale.analysis.text.provenance import origin


class Look(TypedDict):
    """How a loop is drawn."""

    color: str
    marker: str
    label: str


LOOP_LOOKS: dict[str, Look] = {
    "scan": {"color": style.BLUE, "marker": "o", "label": "scan: many steps per call"},
    "dispatch": {"color": style.ORANGE, "marker": "s", "label": "dispatch: one step per call"},
}


def throughput(frames: Frames, summary: Summary) -> Figure:
    """Examples per second, every round of both loops, with the affine fit and the peak."""
    rounds = timed(frames)
    figure, (axes,) = drawing.sheet()
    draw_loops(axes, rounds, "examples_per_second", imported=frames.imported is not None)
    beyond = _draw_beyond_memory(axes, frames, "examples_per_second")
    if fit := summary.affine_step_time:
        along = np.geomspace(*_ends(rounds), 200)
        axes.plot(along, along / _step_seconds(fit, along), **drawing.FITTED, label="affine fit")
    if best := summary.throughput_optimal:
        drawing.star(axes, best.batch_size, best.examples_per_second, "fastest")
    drawing.log_axis(axes, "examples per second")
    drawing.log2_axis(axes, [*batch_sizes(rounds), *beyond])
    return drawing.finished(figure, origin(frames, summary))


def step_time(frames: Frames, summary: Summary) -> Figure:
    """Milliseconds per optimizer step, with its fixed cost and its cost per example."""
    rounds = timed(frames)
    figure, (axes,) = drawing.sheet()
    rounds = rounds.assign(milliseconds=1e3 * values(rounds, "seconds_per_step"))
    draw_loops(axes, rounds, "milliseconds", imported=frames.imported is not None)
    beyond = _draw_beyond_memory(axes, frames, "seconds_per_step", 1e3)
    if fit := summary.affine_step_time:
        along = np.geomspace(*_ends(rounds), 200)
        axes.plot(along, 1e3 * _step_seconds(fit, along), **drawing.FITTED, label="affine fit")
    drawing.log_axis(axes, "milliseconds per step")
    drawing.log2_axis(axes, [*batch_sizes(rounds), *beyond])
    return drawing.finished(figure, origin(frames, summary))


def timed(frames: Frames) -> pd.DataFrame:
    """The rounds to draw.

    Raises:
        NothingToDrawError: when there are none.
    """
    rounds = whole_batches(frames, frames.rounds)
    if rounds.empty:
        raise NothingToDrawError("no rounds were timed")
    return rounds


def draw_loops(axes: Axes, rounds: pd.DataFrame, column: str, *, imported: bool) -> None:
    """Every round as a dot and the median as a line, loop by loop; imported tables do not tell the loop."""
    for loop, look in LOOP_LOOKS.items():
        one = only(rounds, rounds["loop"] == loop)
        sizes, middles = by_batch_size(one, column)
        if sizes:
            dots = {"color": look["color"], "alpha": 0.25, "markersize": 2.5, "zorder": 2}
            axes.plot(values(one, "batch_size"), values(one, column), "o", **dots)
            label = "as in the table" if imported else look["label"]
            axes.plot(sizes, middles, color=look["color"], marker=look["marker"], label=label)
            drawing.hover(axes, sizes, middles)


def _draw_beyond_memory(axes: Axes, frames: Frames, column: str, scale: float = 1.0) -> list[int]:
    """Medians of batches in microbatches, hollow, loop by loop; their batch sizes."""
    beyond = in_microbatches(frames)
    for loop, look in LOOP_LOOKS.items():
        sizes, middles = by_batch_size(only(beyond, beyond["loop"] == loop), column)
        if sizes:
            hollow: dict[str, Any] = {
                "markerfacecolor": style.PAPER,
                "linestyle": "none",
                "label": f"{loop}, in microbatches",
            }
            axes.plot(sizes, scale * middles, color=look["color"], marker=look["marker"], **hollow)
            drawing.hover(axes, sizes, scale * middles)
    return batch_sizes(beyond)


def _ends(rounds: pd.DataFrame) -> tuple[int, int]:
    sizes = batch_sizes(rounds)
    return sizes[0], sizes[-1]


def _step_seconds(fit: AffineStepTime, sizes: Array) -> Array:
    return fit.alpha_seconds + fit.beta_seconds * sizes
