"""What the optimizer needs at each batch size: steps, epochs, the frontier between them, and the curves themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchscale.analysis import number_format
from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError, medians, open_ends
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import aggregated, batch_sizes, by_batch_size, only, values
from batchscale.analysis.metrics.trials import claim_trials
from batchscale.analysis.statistics.intervals import Array
from batchscale.analysis.summary_types import CriticalBatchSize, Summary
from batchscale.analysis.text.provenance import origin, target_words

ToTarget = Literal["steps_to_target", "epochs_to_target"]


def steps_to_target(frames: Frames, summary: Summary) -> Figure:
    """Optimizer steps to the target on log2-log2, with perfect scaling from the smallest batch and the fit."""
    figure, axes, sizes = _to_target(frames, summary, "steps_to_target")
    cells = summary.known("steps_to_target")
    along = np.geomspace(sizes[0], sizes[-1], 100)
    perfect = medians(cells, "steps_to_target")[0] * cells[0].batch_size / along
    axes.plot(along, perfect, **drawing.GUIDE, label="perfect scaling")
    _draw_fit(axes, summary, along, lambda fit, size: fit.steps_min * (1 + fit.value / size))
    drawing.log_axis(axes, f"steps to {target_words(summary)}", base=2)
    return drawing.finished(figure, origin(frames, summary))


def epochs_to_target(frames: Frames, summary: Summary) -> Figure:
    """Epochs to the target with the fitted hyperbola."""
    figure, axes, sizes = _to_target(frames, summary, "epochs_to_target")
    along = np.geomspace(sizes[0], sizes[-1], 100)
    _draw_fit(axes, summary, along, lambda fit, size: fit.examples_min * (1 + size / fit.value) / frames.epoch)
    drawing.log_axis(axes, f"epochs to {target_words(summary)}")
    return drawing.finished(figure, origin(frames, summary))


def frontier(frames: Frames, summary: Summary) -> Figure:
    """Steps against examples to the target: what more compute buys in serial time, batch size by batch size."""
    cells = summary.known("steps_to_target")
    if len(cells) < 2:
        raise NothingToDrawError("fewer than two batch sizes reached the target")
    sizes = [cell.batch_size for cell in cells]
    steps = medians(cells, "steps_to_target")
    examples = np.round(steps * np.array(sizes), 3)  # equal where only rounding tells them apart
    figure, (axes,) = drawing.sheet()
    if fit := summary.critical_batch_size:
        along = np.geomspace(sizes[0], sizes[-1], 200)
        curve = fit.steps_min * (1 + fit.value / along)
        axes.plot(curve, curve * along, **drawing.FITTED, label="fitted hyperbola")
    axes.plot(steps, examples, "o", color=style.BLUE, label="each batch size")
    _label_points(axes, sizes, steps, examples)
    axes.set(xscale="log", yscale="log")
    axes.margins(0.1)
    drawing.log_axis_across(axes, f"steps to {target_words(summary)} (serial time)")
    drawing.log_axis(axes, "examples until then (compute)")
    drawing.hover(axes, sizes, examples, across=steps)
    return drawing.finished(figure, origin(frames, summary))


def learning_curves(frames: Frames, summary: Summary) -> Figure:
    """Validation error while training, at each batch size's chosen rate, over epochs and over seconds."""
    curves = _claimed_curves(frames, summary)
    panels = ["epochs", "seconds"] if np.isfinite(values(curves, "seconds")).any() else ["epochs"]
    figure, axes_list = drawing.sheet(len(panels))
    sizes = batch_sizes(curves)
    for axes, column in zip(axes_list, panels, strict=True):
        _draw_curves(axes, curves.dropna(subset=[column]), column, sizes)
        if frames.target_accuracy is not None:
            missing = 100 * (1 - frames.target_accuracy)
            axes.axhline(missing, color=style.BEST, linestyle="--", linewidth=1, label="target")
        drawing.log_axis_across(axes, "epochs" if column == "epochs" else "seconds of training")
        drawing.log_axis(axes, "validation error (%)")
    drawing.batch_size_bar(figure, axes_list, sizes)
    return drawing.finished(figure, origin(frames, summary))


def _to_target(frames: Frames, summary: Summary, quantity: ToTarget) -> tuple[Figure, Axes, list[int]]:
    """Every seed and the medians with intervals, misses marked; returns the batch sizes that were trained."""
    cells = summary.known(quantity)
    if not cells:
        trained = any(cell.seeds for cell in summary.cells)
        raise NothingToDrawError("no batch size reached the target" if trained else "no training runs were made")
    figure, (axes,) = drawing.sheet()
    trials = claim_trials(frames)
    trials = only(trials, np.isfinite(values(trials, quantity)))
    dots: dict[str, Any] = {"color": style.BLUE, "markersize": 2.5, "alpha": 0.35, "zorder": 2}
    axes.plot(values(trials, "batch_size"), values(trials, quantity), "o", label="each seed", **dots)
    sizes, middles = [cell.batch_size for cell in cells], medians(cells, quantity)
    drawing.band(axes, sizes, open_ends(cells, quantity), style.BLUE)
    axes.plot(sizes, middles, "o-", color=style.BLUE, label="median, 95% interval", zorder=4)
    drawing.hover(axes, sizes, middles)
    short = [cell.batch_size for cell in summary.cells if cell.seeds_reached < cell.seeds]
    drawing.missed(axes, short, "some or all seeds missed")
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


def _claimed_curves(frames: Frames, summary: Summary) -> pd.DataFrame:
    """Curves of the claim trials, each batch size as far as all its seeds went, with `error` and `seconds`."""
    curves = only(frames.curves, frames.curves["trial"].isin(claim_trials(frames)["trial"]))
    if curves.empty or np.isnan(frames.epoch) or frames.imported:
        raise NothingToDrawError("no learning curves were recorded")
    ended = aggregated(curves, ["batch_size", "trial"], last=("examples", "max"))
    together = dict(zip(*by_batch_size(ended, "last", np.min), strict=True))
    speeds = {cell.batch_size: cell.examples_per_second or np.nan for cell in summary.cells}
    limits, per_second = (
        np.array([of_size[size] for size in values(curves, "batch_size")]) for of_size in (together, speeds)
    )
    examples, error = values(curves, "examples"), 100 * (1 - values(curves, "accuracy"))
    curves = curves.assign(error=error, seconds=examples / per_second)
    return only(curves, (examples <= limits) & (examples > 0) & (error > 0))


def _draw_curves(axes: Axes, curves: pd.DataFrame, column: str, sizes: Sequence[int]) -> None:
    """The median over seeds, and a shade over their whole span."""
    reduced = {"middle": ("error", "median"), "low": ("error", "min"), "high": ("error", "max")}
    over_seeds = aggregated(curves, ["batch_size", column], **reduced)
    for size, color in drawing.batch_size_colors(sizes).items():
        one = only(over_seeds, over_seeds["batch_size"] == size)
        along = values(one, column)
        axes.fill_between(along, values(one, "low"), values(one, "high"), color=color, alpha=0.2, linewidth=0)
        axes.plot(along, values(one, "middle"), color=color, linewidth=1.1)
