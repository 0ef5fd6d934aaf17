"""Figures with several results next to each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from batchscale.analysis.compare.compare import Quantity, Ratio
from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.summary_types import Summary
from batchscale.analysis.text.answer import target
from batchscale.analysis.text.captions import convergence_source, seeds
from batchscale.config.goal import Goal

MARKERS = "osD^vP"
RATIO_LABELS: dict[Quantity, str] = {
    "examples_per_second": "examples per second",
    "time_to_target": "time to the target",
    "joules_to_target": "energy to the target",
}


def throughputs(labels: Sequence[str], summaries: Sequence[Summary]) -> Figure:
    """Draw the examples per second of every result."""
    figure, (axes,) = drawing.sheet()
    sizes: set[int] = set()
    for at, (label, summary) in enumerate(zip(labels, summaries, strict=True)):
        cells = [cell for cell in summary.cells if cell.examples_per_second]
        batch_sizes = [cell.batch_size for cell in cells]
        speeds = [cell.examples_per_second or np.nan for cell in cells]
        sizes |= set(batch_sizes)
        axes.plot(batch_sizes, speeds, f"{_marker(at)}-", color=_color(at), label=label)
        drawing.hover(axes, batch_sizes, speeds)
    if not sizes:
        raise NothingToDrawError("no rounds were timed")
    drawing.log_axis(axes, f"{summaries[0].example}s per second")
    drawing.log2_axis(axes, sorted(sizes))
    return drawing.finished(figure, _workload(summaries))


def times(labels: Sequence[str], summaries: Sequence[Summary]) -> Figure:
    """Draw the seconds to the target of every result, each optimum marked."""
    figure, (axes,) = drawing.sheet()
    sizes: set[int] = set()
    for at, (label, summary) in enumerate(zip(labels, summaries, strict=True)):
        if not summary.known("time_to_target"):
            continue
        sizes |= {*drawing.estimates(axes, summary, "time_to_target", _color(at), label, _marker(at))[0]}
        if best := summary.time_optimal:
            drawing.ring(axes, [best.batch_size], [best.seconds], "fastest of its line", style.BEST)
    if not sizes:
        raise NothingToDrawError("no batch size reached the target")
    drawing.log_axis(axes, f"seconds to {target(summaries[0])}")
    drawing.log2_axis(axes, sorted(sizes))
    return drawing.finished(figure, _workload(summaries))


def time_budgets(labels: Sequence[str], summaries: Sequence[Summary]) -> Figure:
    """Draw the best score of every result against the time of training."""
    figure, (axes,) = drawing.sheet()
    drawn: list[Goal] = []
    for at, (label, summary) in enumerate(zip(labels, summaries, strict=True)):
        goal = summary.goal or summary.scored
        if goal is None or len(summary.time_budgets) < 2:
            continue
        seconds = [one.seconds for one in summary.time_budgets]
        gaps = drawing.gaps(goal, np.array([one.score for one in summary.time_budgets]))
        axes.plot(seconds, drawing.drawable(goal, gaps), f"{_marker(at)}-", color=_color(at), label=label)
        drawn.append(goal)
    if not drawn:
        raise NothingToDrawError("no learning curves with timed rounds show the score within a time")
    drawing.score_axis(axes, drawn[0])
    drawing.log_axis_across(axes, "seconds of training")
    return drawing.finished(figure, _workload(summaries))


def ratios(first: str, against: Sequence[tuple[str, Sequence[Ratio]]], quantity: Quantity) -> Figure:
    """Draw a quantity of every other result over that of the `first`, with intervals, about 1."""
    figure, (axes,) = drawing.sheet()
    sizes: set[int] = set()
    for at, (label, found) in enumerate(against, start=1):
        one = [ratio for ratio in found if ratio.quantity == quantity and ratio.value is not None]
        batch_sizes = np.array([ratio.batch_size for ratio in one])
        values = np.array([ratio.value for ratio in one], dtype=np.float64)
        low, high = np.array([ratio.interval for ratio in one], dtype=np.float64).reshape(-1, 2).T
        shifted = batch_sizes * 2 ** (0.08 * (at - 1))
        axes.vlines(shifted, low, high, color=_color(at), linewidth=1, alpha=0.8)
        axes.plot(shifted, values, f"{_marker(at)}-", color=_color(at), label=label)
        drawing.hover(axes, list(batch_sizes), list(values), across=list(shifted))
        sizes |= set(batch_sizes.tolist())
    if not sizes:
        raise NothingToDrawError(f"no batch size has the {RATIO_LABELS[quantity]} of two results")
    axes.axhline(1, color=style.MUTED, linewidth=1, linestyle="--", label=f"{first} = 1")
    drawing.log_axis(axes, f"ratio of {RATIO_LABELS[quantity]}")
    drawing.log2_axis(axes, sorted(sizes))
    return drawing.finished(figure, "simultaneous 95% intervals for all batch sizes")


def _workload(summaries: Sequence[Summary]) -> str:
    workload = summaries[0].workload
    sources = dict.fromkeys(f"{one.machine}: {convergence_source(one)}" for one in summaries)
    counts = dict.fromkeys(map(seeds, summaries))
    return " · ".join([f"{workload.model} on {workload.dataset}, {workload.optimizer}", *counts, *sources])


def _color(at: int) -> str:
    return style.SERIES[at % len(style.SERIES)]


def _marker(at: int) -> str:
    return MARKERS[at % len(MARKERS)]
