"""What training costs besides time: memory, the share of the machine's arithmetic, energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis import style
from bench.analysis.columns import only, values
from bench.analysis.figures import canvas
from bench.analysis.figures.canvas import NothingToDrawError
from bench.analysis.figures.hardware import draw_loops, whole_batches
from bench.analysis.figures.origin import origin, target_words
from bench.analysis.figures.series import batch_sizes, by_batch_size, known, medians, open_ends
from bench.analysis.frames import Frames
from bench.analysis.statistics import Array
from bench.analysis.summary import CellSummary, Summary

MEMORY = (
    ("predicted_bytes", "predicted by the compiler", style.BLUE),
    ("peak_bytes", "peak in use", style.ORANGE),
)
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Roofline:
    """Points (n,) in order of batch size; `compute` in FLOP/s and `copying` in bytes/s are the measured ceilings."""

    sizes: list[int]
    flops_per_byte: Array
    flops_per_second: Array
    compute: float
    copying: float | None


def memory(frames: Frames, summary: Summary) -> Figure:
    """What the compiler asked for and what was used at most, up to where it no longer fits."""
    cells = whole_batches(frames, frames.compilations)
    needs = {label: (by_batch_size(cells, column, np.max), color) for column, label, color in MEMORY}
    if not any(sizes for (sizes, _), _ in needs.values()):
        raise NothingToDrawError("no memory was recorded")
    figure, (axes,) = canvas.sheet()
    for label, ((sizes, need), color) in needs.items():
        if sizes:
            axes.plot(sizes, need / MEBIBYTE, "o-", color=color, label=label)
            canvas.hover(axes, sizes, need / MEBIBYTE)
    if limit := frames.machine.machine.device_memory_bytes:
        axes.axhline(limit / MEBIBYTE, **canvas.GUIDE, label="memory of the device")
    full = batch_sizes(only(cells, cells["status"] == "out_of_memory"))
    canvas.missed(axes, full, "out of memory")
    canvas.log_axis(axes, "memory (MiB)")
    canvas.log2_axis(axes, batch_sizes(cells))
    return canvas.finished(figure, origin(frames, summary))


def roofline(frames: Frames, summary: Summary) -> Figure:
    """Arithmetic done per second against arithmetic per byte, under this machine's measured ceilings."""
    points = roofline_points(frames)
    if points is None:
        raise NothingToDrawError("FLOPs, program size and the machine's matrix-multiply rate were not all recorded")
    figure, (axes,) = canvas.sheet()
    along = np.geomspace(points.flops_per_byte.min() / 3, points.flops_per_byte.max() * 3, 200)
    ceiling = np.minimum(points.compute, along * (points.copying or np.inf))
    axes.plot(along, ceiling / 1e9, color=style.MUTED, linewidth=1.2, label="measured ceiling")
    rate = points.flops_per_second / 1e9
    axes.plot(points.flops_per_byte, rate, "o-", color=style.BLUE, linewidth=0.8, label="each batch size")
    _label_ends(axes, points.sizes, points.flops_per_byte, rate)
    axes.set(xscale="log", yscale="log")
    axes.margins(0.08, 0.12)
    canvas.log_axis_across(axes, "training FLOPs per byte of the program")
    canvas.log_axis(axes, "GFLOP per second")
    canvas.hover(axes, points.sizes, rate, across=points.flops_per_byte)
    return canvas.finished(figure, origin(frames, summary))


def energy(frames: Frames, summary: Summary) -> Figure:
    """Energy per example and energy to the target, where the device reports it."""
    rounds = whole_batches(frames, frames.rounds)
    rounds = only(rounds, rounds["joules"].notna())
    if rounds.empty:
        raise NothingToDrawError("no energy was measured on this machine")
    per_example = values(rounds, "joules") / (values(rounds, "steps") * values(rounds, "batch_size"))
    cells = known(summary.cells, "joules_to_target")
    figure, panels = canvas.sheet(2 if cells else 1)
    rounds = rounds.assign(millijoules=1e3 * per_example)
    draw_loops(panels[0], rounds, "millijoules", imported=frames.imported is not None)
    canvas.log_axis(panels[0], "millijoules per example")
    for axes in panels[1:]:
        _energy_to_target(axes, summary, cells)
    for axes in panels:
        canvas.log2_axis(axes, batch_sizes(rounds), room=1 if canvas.is_narrow() else 1 / len(panels))
    return canvas.finished(figure, origin(frames, summary))


def roofline_points(frames: Frames) -> Roofline | None:
    """The points and ceilings of the roofline; None where one of them was not measured."""
    compute = calibrated(frames, "matmul_flops_per_second", frames.experiment.workload.precision)
    compiled, timed = (whole_batches(frames, rows) for rows in (frames.compilations, frames.rounds))
    found = [
        dict(zip(*by_batch_size(rows, column, np.max), strict=True))
        for rows, column in (
            (compiled, "flops_per_example"),
            (compiled, "predicted_bytes"),
            (timed, "examples_per_second"),
        )
    ]
    sizes = sorted(set.intersection(*(set(one) for one in found)))
    flops, needed, speed = (np.array([one[size] for size in sizes]) for one in found)
    if compute is None or not sizes or flops.min() <= 0 or needed.min() <= 0:
        return None
    copying = calibrated(frames, "copy_bytes_per_second")
    return Roofline(sizes, flops * np.array(sizes) / needed, flops * speed, compute, copying)


def calibrated(frames: Frames, quantity: str, precision: str | None = None) -> float | None:
    """The median of a calibration; None where it was not made."""
    rows = only(frames.calibrations, frames.calibrations["quantity"] == quantity)
    rows = only(rows, rows["precision"] == precision) if precision else rows
    return float(np.median(values(rows, "value"))) if len(rows) else None


def _energy_to_target(axes: Axes, summary: Summary, cells: Sequence[CellSummary]) -> None:
    sizes, joules = [cell.batch_size for cell in cells], medians(cells, "joules_to_target")
    canvas.band(axes, sizes, open_ends(cells, "joules_to_target"), style.GREEN)
    axes.plot(sizes, joules, "o-", color=style.GREEN, label="to the target: median, 95% interval", zorder=4)
    canvas.hover(axes, sizes, joules)
    if best := summary.energy_optimal:
        canvas.star(axes, best.batch_size, best.joules, "least energy")
    canvas.log_axis(axes, f"joules to {target_words(summary)}")


def _label_ends(axes: Axes, sizes: Sequence[int], across: Array, up: Array) -> None:
    for at in sorted({0, int(np.argmax(up)), len(sizes) - 1}):
        spot = (across[at], up[at])
        axes.annotate(str(sizes[at]), spot, (0, -10), textcoords="offset points", ha="center", fontsize="small")
