"""What training needs at each batch size: steps, epochs, the frontier between them, learning curves, gradient noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchscale.analysis import number_format
from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError, medians
from batchscale.analysis.frames.schema import aggregated, batch_sizes, by_batch_size, only, values
from batchscale.analysis.metrics.known_losses import known_losses
from batchscale.analysis.metrics.scaling import gradient_variances
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_types import CriticalBatchSize, Summary
from batchscale.analysis.text.answer import target
from batchscale.analysis.text.captions import origin
from batchscale.statistics.intervals import Array

ToTarget = Literal["steps_to_target", "epochs_to_target"]

STRETCHES_PER_OCTAVE = 2
"""Stretches of training, in each doubling of the epochs, over which estimates of the gradient noise are averaged."""


def steps_to_target(sweep: Sweep, summary: Summary) -> Figure:
    """Draw optimizer steps to the target on log2-log2, with perfect scaling from the smallest batch and the fit."""
    figure, axes, sizes = _to_target(sweep, summary, "steps_to_target")
    cells = summary.known("steps_to_target")
    along = np.geomspace(sizes[0], sizes[-1], 100)
    perfect = medians(cells, "steps_to_target")[0] * cells[0].batch_size / along
    axes.plot(along, perfect, **drawing.GUIDE, label="perfect scaling")
    _draw_fit(axes, summary, along, lambda fit, size: fit.steps_min * (1 + fit.value / size))
    drawing.log_axis(axes, f"steps to {target(summary)}", base=2)
    return drawing.finished(figure, origin(sweep.frames, summary))


def epochs_to_target(sweep: Sweep, summary: Summary) -> Figure:
    """Draw epochs to the target with the fitted hyperbola."""
    figure, axes, sizes = _to_target(sweep, summary, "epochs_to_target")
    along, epoch = np.geomspace(sizes[0], sizes[-1], 100), sweep.amounts.per("epochs")
    _draw_fit(axes, summary, along, lambda fit, size: fit.examples_min * (1 + size / fit.value) / epoch)
    drawing.log_axis(axes, f"epochs to {target(summary)}")
    return drawing.finished(figure, origin(sweep.frames, summary))


def frontier(sweep: Sweep, summary: Summary) -> Figure:
    """Draw steps against examples to the target: how much compute a shorter training takes."""
    cells = summary.known("steps_to_target")
    if len(cells) < 2:
        raise NothingToDrawError(summary.steps_reason or "fewer than two batch sizes reached the target")
    sizes = [cell.batch_size for cell in cells]
    steps = medians(cells, "steps_to_target")
    examples = np.round(steps * np.array(sizes), 3)  # equal where they differ by rounding alone
    figure, (axes,) = drawing.sheet()
    if fit := summary.critical_batch_size:
        along = np.geomspace(sizes[0], sizes[-1], 200)
        curve = fit.steps_min * (1 + fit.value / along)
        axes.plot(curve, curve * along, **drawing.FITTED, label="fitted hyperbola")
    axes.plot(steps, examples, "o", color=style.BLUE, label="each batch size")
    _label_points(axes, sizes, steps, examples)
    axes.set(xscale="log", yscale="log")
    axes.margins(0.1)
    drawing.log_axis_across(axes, f"steps to {target(summary)} (serial time)")
    drawing.log_axis(axes, f"{summary.example}s until then (compute)")
    drawing.hover(axes, sizes, examples, across=steps)
    return drawing.finished(figure, origin(sweep.frames, summary))


def learning_curves(sweep: Sweep, summary: Summary) -> Figure:
    """Draw the validation gap during training at each batch size's best rate, over epochs and over seconds."""
    curves = _claimed_curves(sweep, summary)
    panels = [unit for unit in ("epochs", "seconds") if np.isfinite(values(curves, unit)).any()]
    figure, axes_list = drawing.sheet(len(panels))
    sizes, goal, drawn = batch_sizes(curves), sweep.goal, values(only(curves, curves["gap"] > 0), "gap")
    for axes, column in zip(axes_list, panels, strict=True):
        own = curves.dropna(subset=[column])
        drawing.lines_by_batch_size(axes, own, column, "gap", sizes, logarithmic=goal.kind.ideal is not None)
        if sweep.frames.goal is not None:
            target_gap = float(drawing.gaps(goal, np.array(goal.threshold)))
            axes.axhline(target_gap, color=style.BEST, linestyle="--", linewidth=1, label="target")
        drawing.known_lines(axes, drawing.near_known(known_losses(sweep.frames), drawn))
        drawing.log_axis_across(axes, "epochs" if column == "epochs" else "seconds of training")
        drawing.gap_axis(axes, goal, drawing.gap_label(goal))
    drawing.batch_size_bar(figure, axes_list, sizes)
    return drawing.finished(figure, origin(sweep.frames, summary))


def _to_target(sweep: Sweep, summary: Summary, quantity: ToTarget) -> tuple[Figure, Axes, list[int]]:
    """Draw every seed and the estimates with intervals, misses marked; return the batch sizes with the target."""
    if not summary.known(quantity):
        trained = any(cell.seeds for cell in summary.cells)
        unknown = summary.steps_reason if quantity == "steps_to_target" else summary.epochs_reason
        missed = unknown or "no batch size reached the target"
        raise NothingToDrawError(missed if trained else "no training runs were made")
    figure, (axes,) = drawing.sheet()
    trials = only(sweep.claim_trials, np.isfinite(values(sweep.claim_trials, quantity)))
    dots: dict[str, Any] = {"color": style.BLUE, "markersize": 2.5, "alpha": 0.35, "zorder": 2}
    axes.plot(
        values(trials, "batch_size"), values(trials, quantity), "o", label="each seed, first at the target", **dots
    )
    sizes, _ = drawing.estimates(axes, summary, quantity, style.BLUE, "estimate, 95% interval")
    missed = [cell.batch_size for cell in summary.cells if cell.seeds_reached < cell.seeds]
    drawing.missed(axes, missed, "missed by some or all seeds")
    trained = [cell.batch_size for cell in summary.cells if cell.seeds]
    drawing.log2_axis(axes, trained or sizes)
    return figure, axes, sizes


def _draw_fit(axes: Axes, summary: Summary, along: Array, curve: Callable[[CriticalBatchSize, Array], Array]) -> None:
    if fit := summary.critical_batch_size:
        label = f"fit: critical batch size {number_format.number(fit.value, 2)}"
        axes.plot(along, curve(fit, along), **drawing.FITTED, label=label)


def _label_points(axes: Axes, sizes: Sequence[int], across: Array, up: Array) -> None:
    halo: dict[str, Any] = {"facecolor": style.PAPER, "edgecolor": "none", "pad": 0.4, "alpha": 0.8}
    for size, right, high in zip(sizes, across, up, strict=True):
        axes.annotate(str(size), (right, high), (5, 4), textcoords="offset points", fontsize="small", bbox=halo)


def _claimed_curves(sweep: Sweep, summary: Summary) -> pd.DataFrame:
    """Return the curves that claims rest on, as far as all seeds went, with the columns `gap` and `seconds`."""
    frames = sweep.frames
    curves = only(frames.curves, frames.curves["trial"].isin(sweep.claim_trials["trial"]))
    unit = sweep.amounts.counted_in
    if curves.empty or unit == "budgets" or not frames.has_scores:
        raise NothingToDrawError("no learning curves were recorded")
    ended = aggregated(curves, ["batch_size", "trial"], last=(unit, "max"))
    together = dict(zip(*by_batch_size(ended, "last", np.min), strict=True))
    sizes = values(curves, "batch_size").astype(int).tolist()
    limits, pace = np.array([(together[size], sweep.pace_of.get(size, np.nan)) for size in sizes]).T
    if summary.epochs_reason and np.isnan(pace).all():
        raise NothingToDrawError(f"{summary.epochs_reason}, and no batch size with curves was timed")
    trained, gap = values(curves, unit), drawing.gaps(sweep.goal, values(curves, "score"))
    known = np.isfinite(gap) if sweep.goal.kind.ideal is None else gap >= 0
    curves = only(curves.assign(gap=gap, seconds=trained * pace), (trained <= limits) & (trained > 0) & known)
    medians = values(aggregated(curves, ["batch_size", unit], median=("gap", "median")), "median")
    if not np.isfinite(drawing.drawable(sweep.goal, medians)).any():
        raise NothingToDrawError(f"every evaluation reached the ideal {number_format.metric(sweep.goal)} in the median")
    return curves


def gradient_noise_scale(sweep: Sweep, summary: Summary) -> Figure:
    """Draw tr(Sigma) / |G|^2 over training, each averaged over seeds before the division (McCandlish et al., 2018)."""
    means = _means_over_seeds(sweep)
    if means.empty:
        raise NothingToDrawError(summary.gradient_noise_reason or "no stretch of training was measured on every seed")
    figure, (axes,) = drawing.sheet()
    sizes = batch_sizes(means)
    drawing.lines_by_batch_size(axes, means, "epochs", "scale", sizes, marker="o")
    if critical := summary.critical_batch_size:
        low, high = (np.nan if end is None else end for end in critical.interval)
        if np.isfinite([low, high]).all():
            axes.axhspan(low, high, color=style.BEST, alpha=0.12, linewidth=0)
        label = f"critical batch size {number_format.number(critical.value)}, 95% interval"
        axes.axhline(critical.value, color=style.BEST, linestyle="--", linewidth=1, label=label)
    drawing.log_axis(axes, f"gradient noise scale ({summary.example}s)")
    drawing.log_axis_across(axes, "epochs trained")
    drawing.batch_size_bar(figure, [axes], sizes)
    return drawing.finished(figure, origin(sweep.frames, summary))


def _means_over_seeds(sweep: Sweep) -> pd.DataFrame:
    """Return one row per batch size and stretch of training that every seed went through: `epochs` and `scale`.

    Evaluations that are close on the axis are one stretch, because the estimate of a single one is mostly noise.
    """
    noise = only(sweep.frames.noise, sweep.frames.noise["trial"].isin(sweep.claim_trials["trial"]))
    noise = noise.assign(evaluation=noise.groupby("trial").cumcount())
    wanted = {name: (name, "mean") for name in ("epochs", "noise_trace", "gradient_squared")}
    means = aggregated(noise, ["batch_size", "evaluation"], **wanted, seeds=("trial", "nunique"))
    everyone = dict(zip(*by_batch_size(means, "seeds", np.max), strict=True))
    complete = values(means, "seeds") == [everyone[int(size)] for size in values(means, "batch_size")]
    means = only(means, complete)
    means = means.assign(stretch=np.floor(STRETCHES_PER_OCTAVE * np.log2(values(means, "epochs"))))
    means = aggregated(means, ["batch_size", "stretch"], **wanted)
    means = only(means, (means["gradient_squared"] > 0) & (means["noise_trace"] > 0))
    return means.assign(scale=values(means, "noise_trace") / values(means, "gradient_squared"))


def gradient_variance(sweep: Sweep, summary: Summary) -> Figure:
    """Draw the variance of the mean gradient over a batch, half of it, a quarter, with the law one over the number."""
    found = gradient_variances(sweep)
    found = only(found, (values(found, "variance") > 0) & np.isfinite(values(found, "variance")))
    if found.empty:
        raise NothingToDrawError(summary.gradient_noise_reason or "no batch was divided into parts to compare")
    figure, (axes,) = drawing.sheet()
    sizes = batch_sizes(found)
    drawing.lines_by_batch_size(axes, found, "examples", "variance", sizes, marker="o")
    ends = np.array([found["examples"].min(), found["examples"].max()], dtype=np.float64)
    trace = np.exp(np.mean(np.log(values(found, "variance") * values(found, "examples"))))
    axes.plot(ends, trace / ends, **drawing.GUIDE, label="one over the number of examples")
    drawing.log_axis(axes, "variance of the gradient")
    drawing.log2_axis(axes, found["examples"].tolist(), "examples in the gradient")
    drawing.batch_size_bar(figure, [axes], sizes)
    return drawing.finished(figure, origin(sweep.frames, summary))
