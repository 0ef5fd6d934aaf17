"""How fast the machine trains at each batch size, on one device and on several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.frames.schema import batch_sizes, by_batch_size, only, values
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.statistics.intervals import Array
from batchscale.analysis.summary_types import AffineStepTime, ParallelPoint, Summary
from batchscale.analysis.text.captions import VIRTUAL, origin

Key = Callable[[ParallelPoint], int]
Value = Callable[[ParallelPoint], float | None]


class Look(TypedDict):
    """How a loop is drawn: keyword arguments of `Axes.plot`."""

    color: str
    marker: str
    label: str


LOOP_LOOKS: dict[str, Look] = {
    "scan": {"color": style.BLUE, "marker": "o", "label": "scan: many steps per call"},
    "dispatch": {"color": style.ORANGE, "marker": "s", "label": "dispatch: one step per call"},
}


def throughput(sweep: Sweep, summary: Summary) -> Figure:
    """Draw examples per second, every round of both loops, with the affine fit and the peak."""
    figure, (axes,) = drawing.sheet()
    rounds = _draw_timed(axes, sweep, "examples_per_second")
    if fit := summary.affine_step_time:
        along = _along(rounds)
        axes.plot(along, along / _step_seconds(fit, along), **drawing.FITTED, label="affine fit")
    if best := summary.throughput_optimal:
        drawing.star(axes, best.batch_size, best.examples_per_second, "fastest")
    drawing.log_axis(axes, "examples per second")
    return drawing.finished(figure, origin(sweep.frames, summary))


def step_time(sweep: Sweep, summary: Summary) -> Figure:
    """Draw milliseconds per optimizer step, with the fit of a fixed cost and a cost per example."""
    figure, (axes,) = drawing.sheet()
    rounds = _draw_timed(axes, sweep, "seconds_per_step", scale=1e3)
    if fit := summary.affine_step_time:
        along = _along(rounds)
        axes.plot(along, 1e3 * _step_seconds(fit, along), **drawing.FITTED, label="affine fit")
    drawing.log_axis(axes, "milliseconds per step")
    return drawing.finished(figure, origin(sweep.frames, summary))


def _draw_timed(axes: Axes, sweep: Sweep, column: str, scale: float = 1.0) -> pd.DataFrame:
    """Draw the rounds of whole batches, and hollow the medians of batches in microbatches; return the former.

    Raises:
        NothingToDrawError: when no whole batch was timed.
    """
    rounds, split = sweep.rounds, sweep.rounds_in_microbatches
    if rounds.empty:
        raise NothingToDrawError("no rounds were timed")
    draw_loops(axes, rounds.assign(**{column: scale * rounds[column]}), column, imported=bool(sweep.frames.imported))
    for loop, look in LOOP_LOOKS.items():
        sizes, middles = by_batch_size(only(split, split["loop"] == loop), column)
        if sizes:
            hollow: dict[str, Any] = {"markerfacecolor": style.PAPER, "linestyle": "none"}
            hollow |= {"color": look["color"], "marker": look["marker"], "label": f"{loop}, in microbatches"}
            axes.plot(sizes, scale * middles, **hollow)
            drawing.hover(axes, sizes, scale * middles)
    drawing.log2_axis(axes, [*batch_sizes(rounds), *batch_sizes(split)])
    return rounds


def draw_loops(axes: Axes, rounds: pd.DataFrame, column: str, *, imported: bool) -> None:
    """Draw every round as a dot and the medians as a line, loop by loop.

    `imported` rounds come from a table, which does not say which loop was timed.
    """
    for loop, look in LOOP_LOOKS.items():
        one = only(rounds, rounds["loop"] == loop)
        sizes, middles = by_batch_size(one, column)
        if sizes:
            dots = {"color": look["color"], "alpha": 0.25, "markersize": 2.5, "zorder": 2}
            axes.plot(values(one, "batch_size"), values(one, column), "o", **dots)
            label = "as in the table" if imported else look["label"]
            axes.plot(sizes, middles, color=look["color"], marker=look["marker"], label=label)
            drawing.hover(axes, sizes, middles)


def _along(rounds: pd.DataFrame) -> Array:
    sizes = batch_sizes(rounds)
    return np.geomspace(sizes[0], sizes[-1], 200)


def _step_seconds(fit: AffineStepTime, sizes: Array) -> Array:
    return fit.alpha_seconds + fit.beta_seconds * sizes


def data_parallel(sweep: Sweep, summary: Summary) -> Figure:
    """Draw the speed-up over one device: of the same batch divided among devices, and of one batch per device."""
    points = summary.data_parallel
    if not any(one.strong_efficiency or one.weak_efficiency for one in points):
        raise NothingToDrawError("only one device was used, or the same steps were not timed on one device")
    figure, panels = drawing.sheet(2)
    sizes = sorted(
        {one.batch_size for one in points if one.strong_efficiency}
        | {one.batch_size // one.devices for one in points if one.weak_efficiency}
    )
    _speed_up(panels[0], points, sizes, lambda one: one.batch_size, lambda one: one.strong_efficiency)
    _speed_up(panels[1], points, sizes, lambda one: one.batch_size // one.devices, lambda one: one.weak_efficiency)
    panels[0].set_title("same batch, divided")
    panels[1].set_title("one batch per device")
    drawing.batch_size_bar(figure, panels, sizes)
    virtual = f" · {VIRTUAL}" if sweep.frames.machine.machine.virtual_devices else ""
    return drawing.finished(figure, origin(sweep.frames, summary) + virtual)


def _speed_up(axes: Axes, points: list[ParallelPoint], sizes: list[int], key: Key, efficiency: Value) -> None:
    """Draw one line for each batch size that one device trains."""
    counts = [1, *sorted({one.devices for one in points})]
    for size, color in drawing.batch_size_colors(sizes).items():
        found = {one.devices: one.devices * value for one in points if key(one) == size and (value := efficiency(one))}
        if found:
            axes.plot([1, *found], [1.0, *found.values()], "o-", color=color)
    axes.plot(counts, counts, **drawing.GUIDE, label="perfect scaling")
    drawing.log2_axis(axes, counts, "devices")
    drawing.log_axis(axes, "speed-up over one device", base=2)
