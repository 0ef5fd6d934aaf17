"""NEW MODULE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import only, values
from batchscale.analysis.metrics.series import aggregated
from batchscale.analysis.statistics.intervals import Array
from batchscale.config.plan import effective_rate
from batchscale.config.vocabulary import Point

SAME_ROW = 1e-4


def searched_points(frames: Frames) -> pd.DataFrame:
    """One row per batch size, rate and options: median `epochs`, infinite where missed, and the `diverged` share.

    `rate` is the effective one, the same number for the grids of all options.
    """
    trials = searched_trials(frames)
    points = zip(values(trials, "learning_rate").tolist(), trials["options"], strict=True)
    rates = together([effective_rate(Point(rate, options)) for rate, options in points])
    trials = trials.assign(rate=rates, diverged=trials["status"] == "diverged")
    wanted = {"epochs": ("epochs_to_target", "median"), "diverged": ("diverged", "mean")}
    return aggregated(trials, ["batch_size", "rate", "options"], **wanted)


def searched_trials(frames: Frames) -> pd.DataFrame:
    """The search trials that were run; one that failed says nothing of its rate."""
    return only(frames.trials, (frames.trials["phase"] == "search") & (frames.trials["status"] != "failed"))


def search_seeds(frames: Frames) -> str:
    """Which runs rates are chosen by."""
    count = len(np.unique(values(searched_trials(frames), "seed")))
    return f"medians of {count} search seeds" if count > 1 else f"{count} search seed"


def together(rates: Sequence[float]) -> Array:
    """Rates that differ by rounding alone, which a file's six digits and 1 - momentum do, as the lowest of them."""
    different, places = np.unique(rates, return_inverse=True)
    starts = np.diff(np.log(different), prepend=-np.inf) > SAME_ROW
    return different[starts][np.cumsum(starts) - 1][places]


def at_best(points: pd.DataFrame, option: str) -> pd.DataFrame:
    """One row per batch size and `value` of an option: the point with it that has the fewest median `epochs`.

    It is `at_edge` where its rate is the lowest or the highest of several that were tried with its options.
    """
    grids = points.groupby(["batch_size", "options"])["rate"]
    low, high = (np.asarray(grids.transform(end), dtype=np.float64) for end in ("min", "max"))
    rates = values(points, "rate")
    at_edge = (low < high) & ((rates == low) | (rates == high))
    value = [dict(options)[option] for options in points["options"]]
    best = points.assign(value=value, at_edge=at_edge).sort_values("epochs", kind="stable")
    return best.drop_duplicates(["batch_size", "value"]).sort_values(["value", "batch_size"])
