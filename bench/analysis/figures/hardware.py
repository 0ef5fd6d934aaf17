"""What the machine does at each batch size: throughput, step time, memory, roofline, energy and several devices."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis import style
from bench.analysis.figures import canvas
from bench.analysis.figures.canvas import NothingToDrawError
from bench.analysis.figures.estimates import known, medians, open_ends
from bench.analysis.figures.origin import origin, target_words
from bench.analysis.frames import Frames
from bench.analysis.summary import CellSummary, Summary

LOOP_LOOKS = {
    "scan": {"color": style.BLUE, "marker": "o", "label": "scan: many steps per call"},
    "dispatch": {"color": style.ORANGE, "marker": "s", "label": "dispatch: one step per call"},
}


def own_cells(frames: Frames, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the cells the answer is made from: this precision, data on one device, the whole batch at once."""
    plain = (rows["input"] == "device") & (rows["devices"] == 1) & (rows["accumulation"] == 1)
    return rows[plain & (rows["precision"] == frames.experiment.workload.precision)]


def throughput(frames: Frames, summary: Summary) -> Figure:
    """Examples per second, every round of both loops, with the affine fit and the peak."""
    rounds = _measured(own_cells(frames, frames.rounds), "no rounds were timed")
    figure, (axes,) = canvas.sheet()
    _loops(axes, rounds, "examples_per_second")
    sizes = sorted(rounds["batch_size"].unique())
    if affine := summary.affine_step_time:
        along = np.geomspace(sizes[0], sizes[-1], 200)
        speed = along / (affine.alpha_seconds + affine.beta_seconds * along)
        axes.plot(along, speed, color=style.MUTED, linestyle="--", linewidth=1, label="affine fit")
    if best := summary.throughput_optimal:
        _mark_best(axes, best.batch_size, best.examples_per_second, "fastest")
    canvas.log_axis(axes, "examples per second")
    canvas.log2_axis(axes, sizes)
    canvas.legend(figure)
    return canvas.signed(figure, origin(frames, summary))


def step_time(frames: Frames, summary: Summary) -> Figure:
    """Seconds per optimizer step, with its fixed cost and its cost per example."""
    rounds = _measured(own_cells(frames, frames.rounds), "no rounds were timed")
    figure, (axes,) = canvas.sheet()
    _loops(axes, rounds.assign(milliseconds=rounds["seconds_per_step"] * 1e3), "milliseconds")
    sizes = sorted(rounds["batch_size"].unique())
    if affine := summary.affine_step_time:
        along = np.geomspace(sizes[0], sizes[-1], 200)
        cost = 1e3 * (affine.alpha_seconds + affine.beta_seconds * along)
        axes.plot(along, cost, color=style.MUTED, linestyle="--", linewidth=1, label="affine fit")
    canvas.log_axis(axes, "milliseconds per step")
    canvas.log2_axis(axes, sizes)
    canvas.legend(figure)
    return canvas.signed(figure, origin(frames, summary))


def memory(frames: Frames, summary: Summary) -> Figure:
    """What the compiler asked for and what was used at most, up to where it no longer fits."""
    cells = own_cells(frames, frames.compilations)
    known = _measured(cells[cells[["predicted_bytes", "peak_bytes"]].notna().any(axis=1)], "no memory was recorded")
    figure, (axes,) = canvas.sheet()
    looks = (
        ("predicted_bytes", "predicted by the compiler", style.BLUE),
        ("peak_bytes", "peak in use", style.ORANGE),
    )
    for column, label, color in looks:
        largest = known.groupby("batch_size")[column].max().dropna() / 2**20
        if len(largest):
            axes.plot(largest.index, largest.to_numpy(), "o-", color=color, label=label)
            canvas.hover(axes, list(largest.index), list(largest))
    if limit := frames.machine.machine.device_memory_bytes:
        axes.axhline(limit / 2**20, color=style.MUTED, linestyle="--", linewidth=1, label="memory of the device")
    canvas.missed(axes, sorted(cells[cells["status"] == "out_of_memory"]["batch_size"].unique()), "out of memory")
    canvas.log_axis(axes, "memory (MiB)")
    canvas.log2_axis(axes, sorted(cells["batch_size"].unique()))
    canvas.legend(figure)
    return canvas.signed(figure, origin(frames, summary))


def roofline(frames: Frames, summary: Summary) -> Figure:
    """Arithmetic done per second against arithmetic per byte, under this machine's measured ceilings."""
    points = roofline_points(frames)
    compute = calibrated(frames, "matmul_flops_per_second", frames.experiment.workload.precision)
    copying = calibrated(frames, "copy_bytes_per_second", None)
    if points.empty or compute is None:
        raise NothingToDrawError(
            "no FLOP count, program size and calibrated matrix-multiply rate were recorded together"
        )
    figure, (axes,) = canvas.sheet()
    intensity, rate = points["intensity"].to_numpy(), points["gigaflops"].to_numpy()
    along = np.geomspace(intensity.min() / 3, intensity.max() * 3, 200)
    ceiling = np.full_like(along, compute) if copying is None else np.minimum(compute, along * copying)
    axes.plot(
        along,
        ceiling / 1e9,
        color=style.MUTED,
        linewidth=1.2,
        label="measured ceiling",
    )
    axes.plot(intensity, rate, "-", color=style.BLUE, linewidth=0.8, alpha=0.6)
    axes.plot(intensity, rate, "o", color=style.BLUE, label="each batch size")
    _label_ends(axes, points.index.to_numpy(), intensity, rate)
    axes.set(xscale="log", yscale="log")
    axes.margins(0.08, 0.12)
    canvas.log_axis_across(axes, "training FLOPs per byte of the program")
    canvas.log_axis(axes, "GFLOP per second")
    canvas.hover(axes, list(points.index), list(rate), across=list(intensity))
    canvas.legend(figure)
    return canvas.signed(figure, origin(frames, summary))


def energy(frames: Frames, summary: Summary) -> Figure:
    """Energy per example and energy to the target, where the device reports it."""
    rounds = own_cells(frames, frames.rounds)
    metered = _measured(rounds[rounds["joules"].notna()], "no energy was measured on this machine")
    per_example = metered["joules"] / (metered["steps"] * metered["batch_size"])
    cells = known(summary.cells, "joules_to_target")
    figure, panels = canvas.sheet(2 if cells else 1)
    _loops(panels[0], metered.assign(millijoules=per_example * 1e3), "millijoules")
    canvas.log_axis(panels[0], "millijoules per example")
    for axes in panels[1:]:
        _energy_to_target(axes, summary, cells)
    for axes in panels:
        canvas.log2_axis(
            axes, sorted(metered["batch_size"].unique()), room=1 if canvas.is_narrow() else 1 / len(panels)
        )
    canvas.legend(figure)
    return canvas.signed(figure, origin(frames, summary))


def _energy_to_target(axes: Axes, summary: Summary, cells: list[CellSummary]) -> None:
    sizes, values = [cell.batch_size for cell in cells], medians(cells, "joules_to_target")
    canvas.band(axes, sizes, open_ends(cells, "joules_to_target"), style.GREEN)
    axes.plot(sizes, values, "o-", color=style.GREEN, label="to the target: median, 95% interval", zorder=4)
    canvas.hover(axes, sizes, list(values))
    if best := summary.energy_optimal:
        _mark_best(axes, best.batch_size, best.joules, "least energy")
    canvas.log_axis(axes, f"joules to {target_words(summary)}")


def data_parallel(frames: Frames, summary: Summary) -> Figure:
    """Throughput against the number of devices at each batch size, beside perfect scaling."""
    rounds = frames.rounds
    rounds = rounds[(rounds["accumulation"] == 1) & (rounds["input"] == "device")]
    if rounds["devices"].nunique() < 2:
        raise NothingToDrawError("only one device was used")
    speed = rounds.groupby(["batch_size", "devices", "loop"])["examples_per_second"].median()
    speed = speed.groupby(["batch_size", "devices"]).max().reset_index()
    speed = speed.pivot_table(index="batch_size", columns="devices", values="examples_per_second")
    figure, (axes,) = canvas.sheet()
    counts = speed.columns.to_numpy()
    shared = speed.dropna(thresh=2)
    sizes = [int(size) for size in shared.index]
    for size, color in canvas.batch_size_colors(sizes).items():
        axes.plot(counts, shared.loc[size] / shared.loc[size].iloc[0], "o-", color=color)
    canvas.batch_size_bar(figure, [axes], sizes)
    axes.plot(counts, counts / counts[0], color=style.MUTED, linestyle="--", linewidth=1, label="perfect scaling")
    canvas.log2_axis(axes, list(counts), "devices")
    canvas.log_axis(axes, f"speed-up over {counts[0]} device", base=2)
    canvas.legend(figure)
    virtual = (
        " · these devices are virtual: they share the same cores" if frames.machine.machine.virtual_devices else ""
    )
    return canvas.signed(figure, origin(frames, summary) + virtual)


def _measured(rows: pd.DataFrame, reason: str) -> pd.DataFrame:
    if rows.empty:
        raise NothingToDrawError(reason)
    return rows


def _loops(axes: Axes, rounds: pd.DataFrame, column: str) -> None:
    for loop, look in LOOP_LOOKS.items():
        one = rounds[rounds["loop"] == loop]
        if one.empty:
            continue
        middle = one.groupby("batch_size")[column].median()
        axes.plot(one["batch_size"], one[column], "o", color=look["color"], alpha=0.25, markersize=2.5, zorder=2)
        axes.plot(middle.index, middle.to_numpy(), **look)
        canvas.hover(axes, list(middle.index), list(middle))


def _mark_best(axes: Axes, batch_size: int, value: float, label: str) -> None:
    axes.plot([batch_size], [value], "*", color=style.BEST, markersize=11, zorder=6, label=f"{label}: {batch_size}")


def roofline_points(frames: Frames) -> pd.DataFrame:
    """Indexed by batch size: `intensity` in FLOPs per byte, `gigaflops` per second at the faster loop."""
    built = own_cells(frames, frames.compilations).groupby("batch_size")[["flops_per_example", "predicted_bytes"]].max()
    speed = own_cells(frames, frames.rounds).groupby(["batch_size", "loop"])["examples_per_second"].median()
    built = built.join(speed.groupby("batch_size").max()).dropna()
    built = built[(built > 0).all(axis=1)]
    flops_per_step = built["flops_per_example"] * built.index
    return pd.DataFrame(
        {
            "intensity": flops_per_step / built["predicted_bytes"],
            "gigaflops": built["flops_per_example"] * built["examples_per_second"] / 1e9,
        }
    )


def calibrated(frames: Frames, quantity: str, precision: str | None) -> float | None:
    """The median of a calibration; None where it was not made."""
    rows = frames.calibrations[frames.calibrations["quantity"] == quantity]
    rows = rows[rows["precision"] == precision] if precision else rows
    return float(rows["value"].median()) if len(rows) else None


def _label_ends(axes: Axes, sizes: np.ndarray, across: np.ndarray, up: np.ndarray) -> None:
    for at in sorted({0, int(np.argmax(up)), len(sizes) - 1}):
        spot = (across[at], up[at])
        axes.annotate(str(sizes[at]), spot, (0, -10), textcoords="offset points", ha="center", fontsize="small")
