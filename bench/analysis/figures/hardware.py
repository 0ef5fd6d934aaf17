"""How fast the machine trains at each batch size, on one device and on several."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis import metrics, style
from bench.analysis.columns import only, values
from bench.analysis.figures import canvas
from bench.analysis.figures.canvas import NothingToDrawError
from bench.analysis.figures.origin import origin
from bench.analysis.figures.series import batch_sizes, by_batch_size
from bench.analysis.frames import Frames
from bench.analysis.statistics import Array
from bench.analysis.summary import AffineStepTime, Summary


class Look(TypedDict):
    """How a loop is drawn."""

    color: str
    marker: str
    label: str


LOOP_LOOKS: dict[str, Look] = {
    "scan": {"color": style.BLUE, "marker": "o", "label": "scan: many steps per call"},
    "dispatch": {"color": style.ORANGE, "marker": "s", "label": "dispatch: one step per call"},
}


def whole_batches(frames: Frames, rows: pd.DataFrame) -> pd.DataFrame:
    """The rounds or compilations the answer is made from, the whole batch in one piece."""
    comparable = metrics.comparable(frames, rows)
    return only(comparable, comparable["accumulation"] == 1)


def throughput(frames: Frames, summary: Summary) -> Figure:
    """Examples per second, every round of both loops, with the affine fit and the peak."""
    rounds = timed(frames)
    figure, (axes,) = canvas.sheet()
    draw_loops(axes, rounds, "examples_per_second", imported=frames.imported is not None)
    if fit := summary.affine_step_time:
        along = np.geomspace(*_ends(rounds), 200)
        axes.plot(along, along / _step_seconds(fit, along), **canvas.FITTED, label="affine fit")
    if best := summary.throughput_optimal:
        canvas.star(axes, best.batch_size, best.examples_per_second, "fastest")
    canvas.log_axis(axes, "examples per second")
    canvas.log2_axis(axes, batch_sizes(rounds))
    return canvas.finished(figure, origin(frames, summary))


def step_time(frames: Frames, summary: Summary) -> Figure:
    """Milliseconds per optimizer step, with its fixed cost and its cost per example."""
    rounds = timed(frames)
    figure, (axes,) = canvas.sheet()
    rounds = rounds.assign(milliseconds=1e3 * values(rounds, "seconds_per_step"))
    draw_loops(axes, rounds, "milliseconds", imported=frames.imported is not None)
    if fit := summary.affine_step_time:
        along = np.geomspace(*_ends(rounds), 200)
        axes.plot(along, 1e3 * _step_seconds(fit, along), **canvas.FITTED, label="affine fit")
    canvas.log_axis(axes, "milliseconds per step")
    canvas.log2_axis(axes, batch_sizes(rounds))
    return canvas.finished(figure, origin(frames, summary))


def data_parallel(frames: Frames, summary: Summary) -> Figure:
    """Speed-up over one device at each batch size, beside perfect scaling."""
    speeds = _speeds_by_devices(frames)
    counts = sorted({devices for of_size in speeds.values() for devices in of_size})
    if len(counts) < 2:
        raise NothingToDrawError("only one device was used")
    figure, (axes,) = canvas.sheet()
    sizes = sorted(size for size, of_size in speeds.items() if len(of_size) > 1)
    for size, color in canvas.batch_size_colors(sizes).items():
        devices = sorted(speeds[size])
        relative = [speeds[size][count] * devices[0] / speeds[size][devices[0]] for count in devices]
        axes.plot(devices, relative, "o-", color=color)
    axes.plot(counts, counts, **canvas.GUIDE, label="perfect scaling")
    canvas.batch_size_bar(figure, [axes], sizes)
    canvas.log2_axis(axes, counts, "devices")
    canvas.log_axis(axes, "speed-up over one device", base=2)
    shared = " · virtual devices share the same cores" if frames.machine.machine.virtual_devices else ""
    return canvas.finished(figure, origin(frames, summary) + shared)


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
            canvas.hover(axes, sizes, middles)


def _ends(rounds: pd.DataFrame) -> tuple[int, int]:
    sizes = batch_sizes(rounds)
    return sizes[0], sizes[-1]


def _step_seconds(fit: AffineStepTime, sizes: Array) -> Array:
    return fit.alpha_seconds + fit.beta_seconds * sizes


def _speeds_by_devices(frames: Frames) -> dict[int, dict[int, float]]:
    """By batch size and number of devices, the examples per second of the faster loop."""
    rounds = frames.rounds
    plain = (rounds["input"] == "device") & (rounds["accumulation"] == 1)
    rounds = only(rounds, plain & (rounds["precision"] == frames.experiment.workload.precision))
    speeds: dict[int, dict[int, float]] = {}
    for devices in np.unique(values(rounds, "devices")).astype(int).tolist():
        for loop in LOOP_LOOKS:
            one = only(rounds, (rounds["devices"] == devices) & (rounds["loop"] == loop))
            for size, speed in zip(*by_batch_size(one, "examples_per_second"), strict=True):
                of_size = speeds.setdefault(size, {})
                of_size[devices] = max(speed, of_size.get(devices, 0.0))
    return speeds
