"""The gradient noise scale beside the critical batch size it should foretell, and the law that it rests on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from batchscale.analysis import number_format
from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import aggregated, batch_sizes, by_batch_size, only, values
from batchscale.analysis.metrics.scaling import gradient_variances
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.metrics.trials import claim_trials
from batchscale.analysis.summary_types import Summary
from batchscale.analysis.text.provenance import origin


def gradient_noise_scale(frames: Frames, summary: Summary) -> Figure:
    """tr(Sigma) / |G|^2 over training: both averaged over seeds before the division, as its estimator asks."""
    means = _means_over_seeds(frames)
    if means.empty:
        raise NothingToDrawError(summary.gradient_noise_reason or "no stretch of training was measured on every seed")
    figure, (axes,) = drawing.sheet()
    sizes = batch_sizes(means)
    for size, color in drawing.batch_size_colors(sizes).items():
        one = only(means, means["batch_size"] == size)
        axes.plot(values(one, "epochs"), values(one, "scale"), "o-", color=color, markersize=3, linewidth=1)
    if critical := summary.critical_batch_size:
        low, high = (np.nan if end is None else end for end in critical.interval)
        if np.isfinite([low, high]).all():
            axes.axhspan(low, high, color=style.BEST, alpha=0.12, linewidth=0)
        label = f"critical batch size {number_format.number(critical.value)}, 95% interval"
        axes.axhline(critical.value, color=style.BEST, linestyle="--", linewidth=1, label=label)
    drawing.log_axis(axes, "gradient noise scale (examples)")
    drawing.log_axis_across(axes, "epochs trained")
    drawing.batch_size_bar(figure, [axes], sizes)
    return drawing.finished(figure, origin(frames, summary))


def gradient_variance(frames: Frames, summary: Summary) -> Figure:
    """The variance of the mean gradient over a batch, half of it, a quarter, beside one over the number of examples."""
    found = gradient_variances(Sweep.of(frames))
    found = only(found, (values(found, "variance") > 0) & np.isfinite(values(found, "variance")))
    if found.empty:
        raise NothingToDrawError(summary.gradient_noise_reason or "no batch was cut into parts with usable gradients")
    figure, (axes,) = drawing.sheet()
    sizes = batch_sizes(found)
    for size, color in drawing.batch_size_colors(sizes).items():
        one = only(found, found["batch_size"] == size)
        axes.plot(values(one, "examples"), values(one, "variance"), "o-", color=color, markersize=3, linewidth=1)
    ends = np.array([found["examples"].min(), found["examples"].max()], dtype=np.float64)
    trace = np.exp(np.mean(np.log(values(found, "variance") * values(found, "examples"))))
    axes.plot(ends, trace / ends, **drawing.GUIDE, label="one over the number of examples")
    drawing.log_axis(axes, "variance of the gradient")
    drawing.log2_axis(axes, found["examples"].tolist(), "examples in the gradient")
    drawing.batch_size_bar(figure, [axes], sizes)
    return drawing.finished(figure, origin(frames, summary))


def _means_over_seeds(frames: Frames) -> pd.DataFrame:
    """One row per batch size and stretch of training that every seed went through: `epochs` and `scale`."""
    noise = only(frames.noise, frames.noise["trial"].isin(claim_trials(frames)["trial"]))
    noise = noise.assign(stretch=noise.groupby("trial").cumcount())
    wanted = {name: (name, "mean") for name in ("epochs", "noise_trace", "gradient_squared")}
    means = aggregated(noise, ["batch_size", "stretch"], **wanted, seeds=("trial", "nunique"))
    everyone = dict(zip(*by_batch_size(means, "seeds", np.max), strict=True))
    complete = values(means, "seeds") == [everyone[int(size)] for size in values(means, "batch_size")]
    means = only(means, complete & (means["gradient_squared"] > 0) & (means["noise_trace"] > 0))
    return means.assign(scale=values(means, "noise_trace") / values(means, "gradient_squared"))
