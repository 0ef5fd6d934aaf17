"""Figures of a plan: memory and least step times over batch size, for all described devices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.records.plan_file import Plan, TargetPlan

MARKERS = "osD^vP"
GIBIBYTE = 1 << 30
UNITS = {"microseconds": 1e-6, "milliseconds": 1e-3}


def memory_and_bounds(plan: Plan) -> Figure:
    """Draw memory against what JAX's allocator has, and the least and the likely time of a step."""
    shown = [target for target in plan.targets if any(step.memory_bytes for step in target.steps)]
    if not shown:
        raise NothingToDrawError("no program was compiled")
    figure, (memory, times) = drawing.sheet(2)
    unit = _unit(shown)
    for at, target in enumerate(shown):
        _memory(memory, target, at)
        _times(times, target, at, UNITS[unit])
    memory.plot([], [], ":", color=style.MUTED, label="what JAX's allocator has")
    sizes = sorted({step.batch_size for target in shown for step in target.steps})
    drawing.log_axis(memory, "predicted memory (GiB)")
    drawing.log_axis(times, f"{unit} of a step")
    for axes in (memory, times):
        drawing.log2_axis(axes, sizes)
    origin = f"{plan.title}, {plan.precision}. Compiled by JAX {plan.jax} for devices that were not there."
    return drawing.finished(figure, f"{origin} Lines on the right are bounds; shades are estimates.")


def least_times(plan: Plan) -> Figure:
    """Draw the least and the likely time to the goal."""
    shown = [target for target in plan.targets if target.least_times]
    if not shown:
        raise NothingToDrawError("no steps to a goal were given")
    figure, (axes,) = drawing.sheet()
    sizes: set[int] = set()
    for at, target in enumerate(shown):
        of = [time.batch_size for time in target.least_times]
        sizes |= set(of)
        _line_and_range(
            axes,
            of,
            [time.least_seconds for time in target.least_times],
            [time.likely_seconds for time in target.least_times],
            at,
            target.title,
        )
    drawing.log_axis(axes, f"seconds to {plan.goal}")
    drawing.log2_axis(axes, sorted(sizes))
    return drawing.finished(
        figure, f"{plan.title}. Steps from {plan.steps_from}. Lines are bounds; shades are estimates."
    )


def _memory(axes: Axes, target: TargetPlan, at: int) -> None:
    steps = [step for step in target.steps if step.memory_bytes]
    values = [(step.memory_bytes or 0) / GIBIBYTE for step in steps]
    axes.plot([step.batch_size for step in steps], values, f"{_marker(at)}-", color=_color(at), label=target.title)
    axes.axhline(target.pool_bytes / GIBIBYTE, color=_color(at), linestyle=":", linewidth=1)


def _unit(targets: Sequence[TargetPlan]) -> str:
    """Return the unit in which most bounds are numbers of a few digits."""
    bounds = [step.bound_seconds for target in targets for step in target.steps if step.bound_seconds]
    return "milliseconds" if bounds and np.median(bounds) >= UNITS["milliseconds"] else "microseconds"


def _times(axes: Axes, target: TargetPlan, at: int, unit: float) -> None:
    steps = [step for step in target.steps if step.likely_seconds and step.bound_seconds]
    sizes = [step.batch_size for step in steps]
    least = [(step.bound_seconds or np.nan) / unit for step in steps]
    likely = [step.likely_seconds or (np.nan, np.nan) for step in steps]
    ranges = [(low / unit, high / unit) for low, high in likely]
    _line_and_range(axes, sizes, least, ranges, at, target.title)
    drawing.hover(axes, sizes, least)


def _line_and_range(
    axes: Axes, sizes: Sequence[int], least: Sequence[float], likely: Sequence[tuple[float, float]], at: int, label: str
) -> None:
    axes.plot(list(sizes), list(least), f"{_marker(at)}-", color=_color(at), label=label, zorder=4)
    low, high = np.array(likely, dtype=np.float64).T.reshape(2, -1)
    # Outlined, since the ranges of several devices cover each other.
    color = _color(at)
    axes.fill_between(list(sizes), low, high, facecolor=(color, 0.14), edgecolor=(color, 0.7), linewidth=0.8, zorder=2)


def _marker(at: int) -> str:
    return MARKERS[at % len(MARKERS)]


def _color(at: int) -> str:
    return style.SERIES[at % len(style.SERIES)]
