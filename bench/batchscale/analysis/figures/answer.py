"""The figures that the answer is read from: time to the target, and the best accuracy within each budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from batchscale.analysis import number_format
from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError, medians, open_ends
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_types import AccuracyOptimal, BatchSizeSummary, Optimum, Summary
from batchscale.analysis.text.answer import target
from batchscale.analysis.text.captions import origin

AVERAGED = "best_ema_accuracy"


def time_to_target(sweep: Sweep, summary: Summary) -> Figure:
    """Draw seconds to the target with intervals, the optimum, the batch sizes tied with it, and the fitted B*."""
    cells = summary.known("time_to_target")
    if not cells:
        raise NothingToDrawError(summary.time_optimal_reason or "no batch size reached the target")
    figure, (axes,) = drawing.sheet()
    sizes, values = [cell.batch_size for cell in cells], medians(cells, "time_to_target")
    _draw_joined_fits(axes, summary, sizes)
    drawing.band(axes, sizes, open_ends(cells, "time_to_target"), style.BLUE)
    axes.plot(sizes, values, "o-", color=style.BLUE, label="median, 95% interval", zorder=4)
    if best := summary.time_optimal:
        _ring_tied(axes, best, dict(zip(sizes, values, strict=True)))
        drawing.star(axes, best.batch_size, best.seconds, "fastest")
    never = [cell.batch_size for cell in summary.cells if cell.status in ("not_reached", "diverged")]
    drawing.log_axis(axes, f"seconds to {target(summary)}")
    drawing.missed(axes, never, "not reached")
    drawing.log2_axis(axes, [*sizes, *never])
    drawing.hover(axes, sizes, list(values))
    return drawing.finished(figure, origin(sweep.frames, summary))


def best_accuracy(sweep: Sweep, summary: Summary) -> Figure:
    """Draw the best validation accuracy within the epoch budget and within the step budget, ties marked.

    The axis is the error on a logarithmic scale that runs downwards: on a linear one the best batch sizes would look
    alike.
    """
    budgets = (
        ("best_accuracy", summary.accuracy_optimal, style.BLUE, "o", 0.97),
        ("best_accuracy_by_steps", summary.accuracy_optimal_by_steps, style.ORANGE, "s", 1.03),
    )
    if not any(summary.known(quantity) for quantity, *_ in budgets):
        raise NothingToDrawError(summary.accuracy_optimal_reason or "no accuracies were recorded")
    if not any(_below_one(summary, quantity) for quantity, *_ in budgets):
        raise NothingToDrawError("every batch size classified all validation examples correctly")
    figure, (axes,) = drawing.sheet()
    for quantity, optimum, color, marker, shift in budgets:
        if optimum and (cells := _below_one(summary, quantity)):
            _draw_accuracies(axes, cells, quantity, optimum, color, marker, shift)
    if (best := summary.accuracy_optimal) and (cells := _below_one(summary, AVERAGED)):
        _draw_averaged(axes, cells, f"within {best.budget}, averaged parameters")
    _limit_errors(axes, summary)
    drawing.log_axis(axes, "best validation accuracy (%)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:.4g}"))
    drawing.log2_axis(axes, [cell.batch_size for cell in summary.cells])
    return drawing.finished(figure, origin(sweep.frames, summary))


def _below_one(summary: Summary, quantity: str) -> list[BatchSizeSummary]:
    """Return the cells with an error above 0, which alone have a place on a logarithmic axis of errors."""
    return [cell for cell in summary.known(quantity) if getattr(cell, quantity).median < 1]


def _draw_accuracies(
    axes: Axes,
    cells: Sequence[BatchSizeSummary],
    quantity: str,
    optimum: AccuracyOptimal,
    color: str,
    marker: str,
    shift: float,
) -> None:
    sizes = [cell.batch_size for cell in cells]
    errors = 100 * (1 - medians(cells, quantity))
    shifted = shift * np.array(sizes)
    low, high = np.clip(100 * (1 - open_ends(cells, quantity)), 0.001, 100)
    axes.plot(shifted, errors, f"{marker}-", color=color, label=f"within {optimum.budget}", zorder=4)
    axes.vlines(shifted, low, high, color=color, linewidth=1, alpha=0.8, zorder=3)
    tied = [at for at, size in enumerate(sizes) if size in {optimum.batch_size, *optimum.tied}]
    drawing.ring(axes, shifted[tied], errors[tied], "best, and tied with it", color)
    drawing.hover(axes, sizes, list(errors), across=list(shifted))


def _draw_averaged(axes: Axes, cells: Sequence[BatchSizeSummary], label: str) -> None:
    """Draw the accuracy of averaged parameters, where an average was kept."""
    sizes, errors = [cell.batch_size for cell in cells], 100 * (1 - medians(cells, AVERAGED))
    low, high = np.clip(100 * (1 - open_ends(cells, AVERAGED)), 0.001, 100)
    axes.plot(sizes, errors, "D--", color=style.SKY, markersize=3, linewidth=1, label=label, zorder=4)
    axes.vlines(sizes, low, high, color=style.SKY, linewidth=1, alpha=0.8, zorder=3)
    drawing.hover(axes, sizes, errors)


def _limit_errors(axes: Axes, summary: Summary) -> None:
    """Let the axis end at the largest error and at half the least: an interval up to 100% would reach to infinity."""
    quantities = ("best_accuracy", "best_accuracy_by_steps", AVERAGED)
    seen = np.concatenate([medians(summary.known(quantity), quantity) for quantity in quantities])
    errors = 100 * (1 - seen[seen < 1])
    if len(errors):
        axes.set_ylim(min(errors.max() * 1.3, 110), errors.min() / 2)


def _ring_tied(axes: Axes, best: Optimum, values: dict[int, float]) -> None:
    tied = [size for size in best.tied if size in values and size != best.batch_size]
    drawing.ring(axes, tied, [values[size] for size in tied], "tied with the fastest", style.BEST)


def _draw_joined_fits(axes: Axes, summary: Summary, sizes: list[int]) -> None:
    steps, step_time = summary.critical_batch_size, summary.affine_step_time
    if steps is None or step_time is None:
        return
    along = np.geomspace(min(sizes), max(sizes), 200)
    seconds = steps.steps_min * (1 + steps.value / along)
    seconds *= step_time.alpha_seconds + step_time.beta_seconds * along
    at = summary.time_optimal.fitted_batch_size if summary.time_optimal else None
    label = "both fits multiplied" + (f": B* = {number_format.number(at, 2)}" if at else "")
    axes.plot(along, seconds, **drawing.FITTED, label=label)
