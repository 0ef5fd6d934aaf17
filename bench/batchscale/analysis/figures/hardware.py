"""What the machine does at each batch size: speed on one device and on several, memory, arithmetic, energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.frames.schema import batch_sizes, by_batch_size, only, values
from batchscale.analysis.metrics.hardware import roofline_cells
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_types import AffineStepTime, BatchSizeSummary, Limit, ParallelPoint, Summary
from batchscale.analysis.text.answer import target
from batchscale.analysis.text.captions import LIMITS, VIRTUAL, origin
from batchscale.statistics.intervals import Array

Key = Callable[[ParallelPoint], int]
Value = Callable[[ParallelPoint], float | None]


class LoopStyle(TypedDict):
    """How a loop is drawn: keyword arguments of `Axes.plot`."""

    color: str
    marker: str
    label: str


LOOP_STYLES: dict[str, LoopStyle] = {
    "scan": {"color": style.BLUE, "marker": "o", "label": "scan: many steps per call"},
    "dispatch": {"color": style.ORANGE, "marker": "s", "label": "dispatch: one step per call"},
    "graph": {"color": style.GREEN, "marker": "^", "label": "graph: many steps in one CUDA graph"},
}
MEMORY = (
    ("predicted_bytes", "predicted by the compiler", style.BLUE),
    ("peak_bytes", "peak in use", style.ORANGE),
)
MEBIBYTE = 1 << 20
GIGA = 1e9
LIMIT_COLORS: dict[Limit | None, str] = {
    "arithmetic": style.ORANGE,
    "copying": style.GREEN,
    "fixed_cost": style.PURPLE,
    None: style.BLUE,
}


def throughput(sweep: Sweep, summary: Summary) -> Figure:
    """Draw examples per second, every round of each loop, with the affine fit and the peak."""
    figure, (axes,) = drawing.sheet()
    rounds = _draw_timed(axes, sweep, "examples_per_second")
    if fit := summary.affine_step_time:
        along = _along(rounds)
        axes.plot(along, along / _step_seconds(fit, along), **drawing.FITTED, label="affine fit")
    if best := summary.throughput_optimal:
        drawing.star(axes, best.batch_size, best.examples_per_second, "fastest")
    drawing.log_axis(axes, f"{summary.example}s per second")
    drawing.add_tokens_per_second(axes, summary)
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
    if sweep.frames.timed_in == "epochs":
        raise NothingToDrawError("epochs were timed, and the examples in an epoch were not given")
    draw_loops(axes, rounds.assign(**{column: scale * rounds[column]}), column, imported=bool(sweep.frames.imported))
    for loop, loop_style in LOOP_STYLES.items():
        sizes, middles = by_batch_size(only(split, split["loop"] == loop), column)
        if sizes:
            hollow: dict[str, Any] = {"markerfacecolor": style.PAPER, "linestyle": "none"}
            hollow |= {
                "color": loop_style["color"],
                "marker": loop_style["marker"],
                "label": f"{loop}, in microbatches",
            }
            axes.plot(sizes, scale * middles, **hollow)
            drawing.hover(axes, sizes, scale * middles)
    drawing.log2_axis(axes, [*batch_sizes(rounds), *batch_sizes(split)])
    return rounds


def draw_loops(axes: Axes, rounds: pd.DataFrame, column: str, *, imported: bool) -> None:
    """Draw every round as a dot and the medians as a line, loop by loop.

    `imported` rounds come from a table, which does not name the loop that was timed.
    """
    for loop, loop_style in LOOP_STYLES.items():
        one = only(rounds, rounds["loop"] == loop)
        sizes, middles = by_batch_size(one, column)
        if sizes:
            dots = {"color": loop_style["color"], "alpha": 0.25, "markersize": 2.5, "zorder": 2}
            axes.plot(values(one, "batch_size"), values(one, column), "o", **dots)
            label = "as in the table" if imported else loop_style["label"]
            axes.plot(sizes, middles, color=loop_style["color"], marker=loop_style["marker"], label=label)
            drawing.hover(axes, sizes, middles)


def _along(rounds: pd.DataFrame) -> Array:
    sizes = batch_sizes(rounds)
    return np.geomspace(sizes[0], sizes[-1], 200)


def _step_seconds(fit: AffineStepTime, sizes: Array) -> Array:
    return fit.alpha_seconds + fit.beta_seconds * sizes


def memory(sweep: Sweep, summary: Summary) -> Figure:
    """Draw the memory that the compiler predicts and the peak in use, up to where a batch no longer fits."""
    cells = sweep.whole_compilations
    needs = {label: (by_batch_size(cells, column, np.max), color) for column, label, color in MEMORY}
    if not any(sizes for (sizes, _), _ in needs.values()):
        raise NothingToDrawError("no memory was recorded")
    figure, (axes,) = drawing.sheet()
    for label, ((sizes, need), color) in needs.items():
        if sizes:
            axes.plot(sizes, need / MEBIBYTE, "o-", color=color, label=label)
            drawing.hover(axes, sizes, need / MEBIBYTE)
    largest = summary.max_batch_size
    if limit := sweep.frames.machine.machine.device_memory_bytes:
        axes.axhline(limit / MEBIBYTE, **drawing.GUIDE, label="memory of the device")
    elif largest:
        axes.axhline(largest.memory_bytes / MEBIBYTE, **drawing.GUIDE, label="free memory")
    if largest and largest.predicted_bytes:
        drawing.star(axes, largest.batch_size, largest.predicted_bytes / MEBIBYTE, "largest that fits")
    full = batch_sizes(only(cells, cells["status"] == "out_of_memory"))
    drawing.missed(axes, full, "out of memory")
    drawing.log_axis(axes, "memory (MiB)")
    drawing.log2_axis(axes, [*batch_sizes(cells), *([largest.batch_size] if largest else [])])
    return drawing.finished(figure, origin(sweep.frames, summary))


def roofline(sweep: Sweep, summary: Summary) -> Figure:
    """Draw FLOPs per second against FLOPs per byte moved, under the measured ceilings of this machine."""
    cells, top = roofline_cells(summary), summary.ceilings
    if not cells or top is None or top.matmul_flops_per_second is None:
        raise NothingToDrawError("FLOPs, bytes moved or the matrix-multiply rate of the machine were not recorded")
    across, up = (_field(cells, name) for name in ("flops_per_byte", "achieved_flops_per_second"))
    figure, (axes,) = drawing.sheet()
    slope = top.copy_bytes_per_second or np.inf
    along = np.geomspace(across.min() / 3, 3 * max(across.max(), top.matmul_flops_per_second / slope), 200)
    ceiling = np.minimum(top.matmul_flops_per_second, along * slope)
    axes.plot(along, ceiling / GIGA, color=style.MUTED, linewidth=1.2, label="measured limit of the machine")
    axes.plot(across, up / GIGA, color=style.BLUE, linewidth=0.8)
    _mark_limits(axes, cells, across, up / GIGA)
    axes.set(xscale="log", yscale="log")
    axes.margins(0.08, 0.12)
    drawing.log_axis_across(axes, "training FLOPs per byte read or written")
    drawing.log_axis(axes, "GFLOP per second")
    drawing.hover(axes, [cell.batch_size for cell in cells], up / GIGA, across=across)
    return drawing.finished(figure, origin(sweep.frames, summary))


def energy(sweep: Sweep, summary: Summary) -> Figure:
    """Draw energy per example, or per epoch where these were timed, and energy to the target, where it is reported."""
    rounds = only(sweep.rounds, sweep.rounds["joules"].notna())
    if rounds.empty:
        raise NothingToDrawError("no energy was measured on this machine")
    by_epoch = sweep.frames.timed_in == "epochs"
    timed = values(rounds, "epochs") if by_epoch else values(rounds, "steps") * values(rounds, "batch_size")
    figure, panels = drawing.sheet(2 if summary.known("joules_to_target") else 1)
    rounds = rounds.assign(energy=(1.0 if by_epoch else 1e3) * values(rounds, "joules") / timed)
    draw_loops(panels[0], rounds, "energy", imported=bool(sweep.frames.imported))
    drawing.log_axis(panels[0], "joules per epoch" if by_epoch else "millijoules per example")
    for axes in panels[1:]:
        _energy_to_target(axes, summary)
    for axes in panels:
        drawing.log2_axis(axes, batch_sizes(rounds))
    return drawing.finished(figure, origin(sweep.frames, summary))


def _energy_to_target(axes: Axes, summary: Summary) -> None:
    drawing.estimates(axes, summary, "joules_to_target", style.GREEN, "to the target: estimate, 95% interval")
    if best := summary.energy_optimal:
        drawing.star(axes, best.batch_size, best.joules, "least energy")
    drawing.log_axis(axes, f"joules to {target(summary)}")


def _mark_limits(axes: Axes, cells: Sequence[BatchSizeSummary], across: Array, up: Array) -> None:
    """Draw each batch size in the colour of the limit that binds it; name the ends and the highest."""
    for limit, color in LIMIT_COLORS.items():
        which = [at for at, cell in enumerate(cells) if cell.limited_by == limit]
        if which:
            label = f"limited by {LIMITS[limit]}" if limit else "no single limit"
            axes.plot(across[which], up[which], "o", color=color, label=label)
    for at in sorted({0, int(np.argmax(up)), len(cells) - 1}):
        spot = (across[at], up[at])
        axes.annotate(
            str(cells[at].batch_size), spot, (0, -10), textcoords="offset points", ha="center", fontsize="small"
        )


def _field(cells: Sequence[BatchSizeSummary], name: str) -> Array:
    return np.array([getattr(cell, name) for cell in cells], dtype=np.float64)


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
