"""What the optimizer needs at each batch size: steps, epochs, the frontier between them, and the curves themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis import style, words
from bench.analysis.figures import canvas
from bench.analysis.figures.canvas import NothingToDrawError
from bench.analysis.figures.estimates import known, medians, open_ends
from bench.analysis.figures.origin import claim_trials, origin, target_words
from bench.analysis.frames import Frames
from bench.analysis.summary import CriticalBatchSize, Summary

ToTarget = Literal["steps_to_target", "epochs_to_target"]
Along = np.ndarray


def steps_to_target(frames: Frames, summary: Summary) -> Figure:
    """Optimizer steps to the target on log2-log2, with perfect scaling from the smallest batch and the fit."""
    figure, axes, sizes = _to_target(frames, summary, "steps_to_target")
    cells = known(summary.cells, "steps_to_target")
    along = np.geomspace(sizes[0], sizes[-1], 100)
    perfect = medians(cells, "steps_to_target")[0] * cells[0].batch_size / along
    axes.plot(along, perfect, "--", color=style.MUTED, linewidth=1, label="perfect scaling")
    _draw_fit(axes, summary, along, lambda fit, size: fit.steps_min * (1 + fit.value / size))
    canvas.log_axis(axes, f"steps to {target_words(summary)}", base=2)
    canvas.legend(figure)
    return canvas.signed(figure, origin(frames, summary))


def epochs_to_target(frames: Frames, summary: Summary) -> Figure:
    """Epochs to the target with the fitted hyperbola."""
    figure, axes, sizes = _to_target(frames, summary, "epochs_to_target")
    along = np.geomspace(sizes[0], sizes[-1], 100)
    _draw_fit(axes, summary, along, lambda fit, size: fit.examples_min * (1 + size / fit.value) / frames.epoch)
    canvas.log_axis(axes, f"epochs to {target_words(summary)}")
    canvas.legend(figure)
    return canvas.signed(figure, origin(frames, summary))


def frontier(frames: Frames, summary: Summary) -> Figure:
    """Steps against examples to the target: what more compute buys in serial time, batch size by batch size."""
    cells = known(summary.cells, "steps_to_target")
    if len(cells) < 2:
        raise NothingToDrawError("fewer than two batch sizes reached the target")
    sizes = np.array([cell.batch_size for cell in cells])
    steps = medians(cells, "steps_to_target")
    figure, (axes,) = canvas.sheet()
    if fit := summary.critical_batch_size:
        along = np.geomspace(sizes[0], sizes[-1], 200)
        curve = fit.steps_min * (1 + fit.value / along)
        axes.plot(curve, curve * along, "--", color=style.GREEN, linewidth=1, label="fitted hyperbola")
    axes.plot(steps, steps * sizes, "o", color=style.BLUE, label="each batch size")
    _label_points(axes, sizes, steps, steps * sizes)
    axes.set(xscale="log", yscale="log")
    axes.margins(0.1)
    canvas.log_axis_across(axes, f"steps to {target_words(summary)} (serial time)")
    canvas.log_axis(axes, "examples until then (compute)")
    canvas.hover(axes, list(sizes), list(steps * sizes), across=list(steps))
    canvas.legend(figure)
    return canvas.signed(figure, origin(frames, summary))


def learning_curves(frames: Frames, summary: Summary) -> Figure:
    """Validation error while training, at each batch size's chosen rate, over epochs and over seconds."""
    curves = _claimed_curves(frames, summary)
    panels = ["epochs", "seconds"] if curves["seconds"].notna().any() else ["epochs"]
    figure, axes_list = canvas.sheet(len(panels))
    sizes = sorted(int(size) for size in curves["batch_size"].unique())
    for axes, column in zip(axes_list, panels, strict=True):
        _draw_curves(axes, curves.dropna(subset=[column]), column, sizes)
        if frames.target_accuracy is not None:
            missing = 100 * (1 - frames.target_accuracy)
            axes.axhline(missing, color=style.BEST, linestyle="--", linewidth=1, label="target")
        canvas.log_axis_across(axes, "epochs" if column == "epochs" else "seconds of training")
        canvas.log_axis(axes, "validation error (%)")
    canvas.batch_size_bar(figure, axes_list, sizes)
    canvas.legend(figure)
    return canvas.signed(figure, origin(frames, summary))


def _to_target(frames: Frames, summary: Summary, quantity: ToTarget) -> tuple[Figure, Axes, list[int]]:
    """Every seed and the medians with intervals, misses marked; returns the batch sizes that were trained."""
    cells = known(summary.cells, quantity)
    if not cells:
        trained = any(cell.seeds for cell in summary.cells)
        raise NothingToDrawError("no batch size reached the target" if trained else "no training runs were made")
    figure, (axes,) = canvas.sheet()
    trials = claim_trials(frames)
    trials = trials[np.isfinite(trials[quantity])]
    look = {"color": style.BLUE, "markersize": 2.5, "alpha": 0.35, "zorder": 2}
    axes.plot(trials["batch_size"], trials[quantity], "o", label="each seed", **look)
    sizes, values = [cell.batch_size for cell in cells], medians(cells, quantity)
    canvas.band(axes, sizes, open_ends(cells, quantity), style.BLUE)
    axes.plot(sizes, values, "o-", color=style.BLUE, label="median, 95% interval", zorder=4)
    canvas.hover(axes, sizes, list(values))
    short = [cell.batch_size for cell in summary.cells if cell.seeds_reached < cell.seeds]
    canvas.missed(axes, short, "some or all seeds missed")
    trained = [cell.batch_size for cell in summary.cells if cell.seeds]
    canvas.log2_axis(axes, trained or sizes)
    return figure, axes, sizes


def _draw_fit(axes: Axes, summary: Summary, along: Along, curve: Callable[[CriticalBatchSize, Along], Along]) -> None:
    if fit := summary.critical_batch_size:
        label = f"fit: critical batch size {words.number(fit.value, 2)}"
        axes.plot(along, curve(fit, along), color=style.GREEN, linewidth=1, label=label)


def _label_points(axes: Axes, sizes: np.ndarray, across: np.ndarray, up: np.ndarray) -> None:
    halo = {"facecolor": style.PAPER, "edgecolor": "none", "pad": 0.4, "alpha": 0.8}
    for size, right, high in zip(sizes, across, up, strict=True):
        axes.annotate(str(size), (right, high), (5, 4), textcoords="offset points", fontsize="small", bbox=halo)


def _claimed_curves(frames: Frames, summary: Summary) -> pd.DataFrame:
    """Curves of the claim trials, each batch size as far as all its seeds went, with `error` and `seconds`."""
    curves = frames.curves[frames.curves["trial"].isin(claim_trials(frames)["trial"])]
    if curves.empty or not curves["epochs"].notna().any():
        raise NothingToDrawError("no learning curves were recorded")
    last = curves.groupby(["batch_size", "trial"])["examples"].max().groupby("batch_size").min()
    curves = curves[(curves["examples"] <= curves["batch_size"].map(last)) & (curves["examples"] > 0)]
    speeds = {cell.batch_size: cell.examples_per_second for cell in summary.cells}
    seconds = curves["examples"] / curves["batch_size"].map(speeds).astype("float64")
    return curves[curves["accuracy"] < 1].assign(error=100 * (1 - curves["accuracy"]), seconds=seconds)


def _draw_curves(axes: Axes, curves: pd.DataFrame, column: str, sizes: Sequence[int]) -> None:
    """The median over seeds, and a shade over their whole span."""
    over_seeds = curves.groupby(["batch_size", column])["error"].agg(["median", "min", "max"]).reset_index()
    for size, color in canvas.batch_size_colors(sizes).items():
        one = over_seeds[over_seeds["batch_size"] == size]
        axes.fill_between(one[column], one["min"], one["max"], color=color, alpha=0.2, linewidth=0)
        axes.plot(one[column], one["median"], color=color, linewidth=1.1)
