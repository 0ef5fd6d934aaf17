"""What training costs besides time: memory, the share of the machine's arithmetic, energy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis import style
from bench.analysis.columns import only, values
from bench.analysis.figures import canvas
from bench.analysis.figures.canvas import NothingToDrawError
from bench.analysis.figures.hardware import draw_loops, whole_batches
from bench.analysis.figures.origin import origin, target_words
from bench.analysis.figures.remarks import LIMITS
from bench.analysis.figures.series import batch_sizes, by_batch_size, known, medians, open_ends
from bench.analysis.frames import Frames
from bench.analysis.statistics import Array
from bench.analysis.summary import CellSummary, Limit, Summary

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
    largest = summary.max_batch_size
    if limit := frames.machine.machine.device_memory_bytes:
        axes.axhline(limit / MEBIBYTE, **canvas.GUIDE, label="memory of the device")
    elif largest:
        axes.axhline(largest.memory_bytes / MEBIBYTE, **canvas.GUIDE, label="memory that was free")
    if largest and largest.predicted_bytes:
        canvas.star(axes, largest.batch_size, largest.predicted_bytes / MEBIBYTE, "largest that fits")
    full = batch_sizes(only(cells, cells["status"] == "out_of_memory"))
    canvas.missed(axes, full, "out of memory")
    canvas.log_axis(axes, "memory (MiB)")
    canvas.log2_axis(axes, [*batch_sizes(cells), *([largest.batch_size] if largest else [])])
    return canvas.finished(figure, origin(frames, summary))


def roofline(frames: Frames, summary: Summary) -> Figure:
    """Arithmetic done per second against arithmetic per byte moved, under this machine's measured ceilings."""
    cells, top = roofline_cells(summary), summary.ceilings
    if not cells or top is None or top.matmul_flops_per_second is None:
        raise NothingToDrawError("FLOPs, bytes moved and the machine's matrix-multiply rate were not all recorded")
    across, up = (_field(cells, name) for name in ("flops_per_byte", "achieved_flops_per_second"))
    figure, (axes,) = canvas.sheet()
    slope = top.copy_bytes_per_second or np.inf
    along = np.geomspace(across.min() / 3, 3 * max(across.max(), top.matmul_flops_per_second / slope), 200)
    ceiling = np.minimum(top.matmul_flops_per_second, along * slope)
    axes.plot(along, ceiling / GIGA, color=style.MUTED, linewidth=1.2, label="measured ceiling")
    axes.plot(across, up / GIGA, color=style.BLUE, linewidth=0.8)
    _mark_limits(axes, cells, across, up / GIGA)
    axes.set(xscale="log", yscale="log")
    axes.margins(0.08, 0.12)
    canvas.log_axis_across(axes, "training FLOPs per byte read or written")
    canvas.log_axis(axes, "GFLOP per second")
    canvas.hover(axes, [cell.batch_size for cell in cells], up / GIGA, across=across)
    return canvas.finished(figure, origin(frames, summary))


def roofline_cells(summary: Summary) -> list[CellSummary]:
    """The batch sizes that the roofline shows: those whose share of the peak and bytes moved are known."""
    return [cell for cell in summary.cells if cell.fraction_of_peak and cell.flops_per_byte]


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


def _energy_to_target(axes: Axes, summary: Summary, cells: Sequence[CellSummary]) -> None:
    sizes, joules = [cell.batch_size for cell in cells], medians(cells, "joules_to_target")
    canvas.band(axes, sizes, open_ends(cells, "joules_to_target"), style.GREEN)
    axes.plot(sizes, joules, "o-", color=style.GREEN, label="to the target: median, 95% interval", zorder=4)
    canvas.hover(axes, sizes, joules)
    if best := summary.energy_optimal:
        canvas.star(axes, best.batch_size, best.joules, "least energy")
    canvas.log_axis(axes, f"joules to {target_words(summary)}")


def _mark_limits(axes: Axes, cells: Sequence[CellSummary], across: Array, up: Array) -> None:
    """Each batch size in the colour of the limit that binds it; the ends and the highest are named."""
    for limit, color in LIMIT_COLORS.items():
        which = [at for at, cell in enumerate(cells) if cell.limited_by == limit]
        if which:
            label = f"bound by {LIMITS[limit]}" if limit else "bound by no single limit"
            axes.plot(across[which], up[which], "o", color=color, label=label)
    for at in sorted({0, int(np.argmax(up)), len(cells) - 1}):
        spot = (across[at], up[at])
        axes.annotate(
            str(cells[at].batch_size), spot, (0, -10), textcoords="offset points", ha="center", fontsize="small"
        )


def _field(cells: Sequence[CellSummary], name: str) -> Array:
    return np.array([getattr(cell, name) for cell in cells], dtype=np.float64)
