"""The figures that the answer is read from: time to the target, and the best score within each budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from batchscale.analysis import number_format
from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError, medians, open_ends
from batchscale.analysis.metrics.known_losses import known_losses
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_types import BatchSizeSummary, Optimum, ScoreOptimal, Summary
from batchscale.analysis.text.answer import target
from batchscale.analysis.text.captions import origin
from batchscale.config.goal import Goal

AVERAGED = "best_averaged_score"
TIMES_DRAWN = 5
"""Times of the grid that have a line."""
LIMITS_OF_SHARES, LIMITS, WITHOUT_IDEAL = (0.001, 100), (1e-6, 1e6), (-1e12, 1e12)
"""Least and largest gap that is drawn: in percent for shares."""


def time_to_target(sweep: Sweep, summary: Summary) -> Figure:
    """Draw seconds to the target with intervals, the optimum, the batch sizes tied with it, and the fitted B*."""
    if not summary.known("time_to_target"):
        raise NothingToDrawError(summary.time_optimal_reason or "no batch size reached the target")
    figure, (axes,) = drawing.sheet()
    sizes, values = drawing.estimates(axes, summary, "time_to_target", style.BLUE, "estimate, 95% interval")
    _draw_joined_fits(axes, summary, sizes)
    if best := summary.time_optimal:
        _ring_tied(axes, best, dict(zip(sizes, values, strict=True)))
        drawing.star(axes, best.batch_size, best.seconds, "fastest")
    never = [cell.batch_size for cell in summary.cells if cell.status in ("not_reached", "diverged")]
    tied = {size for size in never if best and size in best.tied}
    drawing.log_axis(axes, f"seconds to {target(summary)}")
    drawing.missed(axes, [size for size in never if size not in tied], "not reached")
    drawing.missed(axes, sorted(tied), "not reached by the typical run, but tied", style.BEST)
    drawing.log2_axis(axes, [*sizes, *never])
    return drawing.finished(figure, origin(sweep.frames, summary))


def best_score(sweep: Sweep, summary: Summary) -> Figure:
    """Draw the best validation score within the epoch budget and within the step budget, ties marked.

    The axis is the gap to the ideal score on a logarithmic scale: on a linear one the best batch sizes would look
    alike. It is labelled with accuracies and runs downwards if the score is an accuracy. Scores without an ideal one
    have a linear axis.
    """
    goal = sweep.goal
    budgets = (
        ("best_score", summary.score_optimal, style.BLUE, "o", 0.97),
        ("best_score_by_steps", summary.score_optimal_by_steps, style.ORANGE, "s", 1.03),
    )
    if not any(summary.known(quantity) for quantity, *_ in budgets):
        raise NothingToDrawError(summary.score_optimal_reason or "no scores were recorded")
    if not any(_with_gap(goal, summary, quantity) for quantity, *_ in budgets):
        raise NothingToDrawError(f"every batch size reached the ideal {number_format.metric(goal)}")
    figure, (axes,) = drawing.sheet()
    for quantity, optimum, color, marker, shift in budgets:
        if optimum and (cells := _with_gap(goal, summary, quantity)):
            _draw_scores(axes, goal, cells, quantity, optimum, (color, marker, shift))
    if (best := summary.score_optimal) and (cells := _with_gap(goal, summary, AVERAGED)):
        _draw_averaged(axes, goal, cells, f"within {best.budget}, averaged parameters")
    known = known_losses(sweep.frames)
    _limit_gaps(axes, goal, summary, known)
    drawing.gap_axis(axes, goal, f"best {number_format.validated(goal)}{' (%)' * (goal.kind.is_share)}")
    if goal.kind.is_share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:.4g}"))
    drawing.log2_axis(axes, [cell.batch_size for cell in summary.cells])
    return drawing.finished(figure, origin(sweep.frames, summary))


def time_budgets(sweep: Sweep, summary: Summary) -> Figure:
    """Draw the score against the batch size for several times of training, and the best batch size against the time."""
    budgets, goal = summary.time_budgets, sweep.goal
    if len(budgets) < 2:
        raise NothingToDrawError("no learning curves with timed rounds show the score within a time")
    figure, (left, right) = drawing.sheet(2)
    sizes = sorted({size for one in budgets for size in one.scores})
    chosen = [budgets[at] for at in np.unique(np.linspace(0, len(budgets) - 1, TIMES_DRAWN).round().astype(int))]
    shades = mpl.colormaps[style.SEQUENCE](np.linspace(0.15, 0.85, len(chosen)))
    for one, shade in zip(chosen, shades, strict=True):
        gaps = drawing.gaps(goal, np.array(list(one.scores.values())))
        label = f"within {number_format.seconds(one.seconds)}"
        left.plot(list(one.scores), drawing.drawable(goal, gaps), "o-", color=tuple(shade), label=label)
    drawing.score_axis(left, goal)
    drawing.log2_axis(left, sizes)
    tied = [(one.seconds, size) for one in budgets for size in one.tied if size != one.batch_size]
    seconds, best = [one.seconds for one in budgets], [one.batch_size for one in budgets]
    right.plot(seconds, best, "o", color=style.BEST, zorder=4, label="best batch size")
    right.plot([at for at, _ in tied], [size for _, size in tied], "o", color=style.MUTED, markersize=2.5, label="tied")
    drawing.log_axis_across(right, "seconds of training")
    drawing.log2_axis_up(right, sizes)
    return drawing.finished(figure, origin(sweep.frames, summary))


def _with_gap(goal: Goal, summary: Summary, quantity: str) -> list[BatchSizeSummary]:
    """Return the cells whose gap has a place on the axis."""
    cells = summary.known(quantity)
    places = np.isfinite(drawing.drawable(goal, drawing.gaps(goal, medians(cells, quantity))))
    return [cell for cell, is_drawable in zip(cells, places.tolist(), strict=True) if is_drawable]


def _draw_scores(
    axes: Axes,
    goal: Goal,
    cells: Sequence[BatchSizeSummary],
    quantity: str,
    optimum: ScoreOptimal,
    style_of: tuple[str, str, float],
) -> None:
    color, marker, shift = style_of
    sizes = [cell.batch_size for cell in cells]
    gaps = drawing.gaps(goal, medians(cells, quantity))
    shifted = shift * np.array(sizes)
    low, high = _clipped(goal, open_ends(cells, quantity))
    axes.plot(shifted, gaps, f"{marker}-", color=color, label=f"within {optimum.budget}", zorder=4)
    axes.vlines(shifted, low, high, color=color, linewidth=1, alpha=0.8, zorder=3)
    tied = [at for at, size in enumerate(sizes) if size in {optimum.batch_size, *optimum.tied}]
    drawing.ring(axes, shifted[tied], gaps[tied], "best, and tied with it", color)
    drawing.hover(axes, sizes, list(gaps), across=list(shifted))


def _clipped(goal: Goal, scores: np.ndarray) -> np.ndarray:
    """Return gaps that the axis can hold."""
    limits = WITHOUT_IDEAL if goal.kind.ideal is None else LIMITS_OF_SHARES if goal.kind.is_share else LIMITS
    return np.clip(drawing.gaps(goal, scores), *limits)


def _draw_averaged(axes: Axes, goal: Goal, cells: Sequence[BatchSizeSummary], label: str) -> None:
    """Draw the score of averaged parameters, where an average was kept."""
    sizes, gaps = [cell.batch_size for cell in cells], drawing.gaps(goal, medians(cells, AVERAGED))
    low, high = _clipped(goal, open_ends(cells, AVERAGED))
    axes.plot(sizes, gaps, "D--", color=style.SKY, markersize=3, linewidth=1, label=label, zorder=4)
    axes.vlines(sizes, low, high, color=style.SKY, linewidth=1, alpha=0.8, zorder=3)
    drawing.hover(axes, sizes, gaps)


def _limit_gaps(axes: Axes, goal: Goal, summary: Summary, known: Mapping[str, float]) -> None:
    """Let the axis end near the largest and the least gap: an interval up to 100% would reach to infinity.

    Known losses near the gaps are drawn too.
    """
    quantities = ("best_score", "best_score_by_steps", AVERAGED)
    seen = np.concatenate([medians(summary.known(quantity), quantity) for quantity in quantities])
    gaps = drawing.gaps(goal, seen)
    gaps = gaps[np.isfinite(drawing.drawable(goal, gaps))]
    if not len(gaps):
        return
    if goal.kind.ideal is None:
        room = 0.5 * (gaps.max() - gaps.min()) or 0.05 * abs(gaps.max()) or 1.0
        axes.set_ylim(gaps.min() - room, gaps.max() + room)
        return
    if goal.kind.is_share:
        axes.set_ylim(min(gaps.max() * 1.3, 110), gaps.min() / 2)
    else:
        near = drawing.near_known(known, gaps)
        drawing.known_lines(axes, near)
        ends = [*gaps, *near.values()]
        axes.set_ylim(min(ends) / 1.05, max(ends) * 1.05)


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
