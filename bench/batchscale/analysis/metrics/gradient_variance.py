"""How the variance of the gradient falls with the number of examples in it, at the same parameters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import only, values
from batchscale.analysis.metrics.claim_trials import claim_trials
from batchscale.analysis.statistics.intervals import Array
from batchscale.analysis.summary_types import Exponent


def gradient_variances(frames: Frames) -> pd.DataFrame:
    """One row for each batch size and part of the batch: `examples`, `variance` of the mean gradient, `noise_trace`.

    Means over seeds. `noise_trace` is what the step to the next smaller part says of tr(Sigma), NaN at the smallest;
    it is free of |G|^2, which `variance` subtracts as the two largest parts estimate it.
    """
    norms = only(frames.gradient_norms, frames.gradient_norms["trial"].isin(claim_trials(frames)["trial"]))
    records = []
    for batch_size, of_size in norms.groupby("batch_size"):
        examples, norms_of_size = values(of_size, "examples"), values(of_size, "squared_norm")
        sizes = np.unique(examples)[::-1]
        squared = np.array([norms_of_size[examples == size].mean() for size in sizes])
        traces = np.append(np.diff(squared) / np.diff(1 / sizes), np.nan)
        variances = squared - (squared[0] - traces[0] / sizes[0])
        columns = {"examples": sizes, "variance": variances, "noise_trace": traces}
        records.append(pd.DataFrame({"batch_size": batch_size, **columns}))
    if not records:
        return pd.DataFrame(columns=["batch_size", "examples", "variance", "noise_trace"], dtype="float64")
    return pd.concat(records, ignore_index=True)


def exponent(variances: pd.DataFrame) -> Exponent | None:
    """The power of the number of examples that the variance goes with, -1 by the law; None with too few to judge.

    One slope within batch sizes: between them the parameters differ, and tr(Sigma) with them.
    """
    lines = list(_logarithms(variances))
    where, what = (
        np.concatenate([np.empty(0), *(line[axis] - line[axis].mean() for line in lines)]) for axis in (0, 1)
    )
    freedom = len(where) - len(lines) - 1
    if freedom < 1:
        return None
    slope = float(where @ what / (where @ where))
    residuals = what - slope * where
    reach = float(stats.t.ppf(0.975, freedom) * np.sqrt(residuals @ residuals / freedom / (where @ where)))
    sizes = sorted({int(size) for size in values(variances, "batch_size")})
    return Exponent(value=slope - 1, interval=(slope - 1 - reach, slope - 1 + reach), batch_sizes=sizes)


def _logarithms(variances: pd.DataFrame) -> Iterator[tuple[Array, Array]]:
    """Logarithms of examples and of tr(Sigma) of each batch size that has two of them."""
    known = only(variances, values(variances, "noise_trace") > 0)
    for _, of_size in known.groupby("batch_size"):
        if len(of_size) > 1:
            yield np.log(values(of_size, "examples")), np.log(values(of_size, "noise_trace"))
