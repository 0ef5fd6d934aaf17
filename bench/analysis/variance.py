"""How the variance of the gradient falls with the number of examples in it, at the same parameters."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from bench.analysis.answers import Exponent
from bench.analysis.columns import only, values
from bench.analysis.frames import Frames
from bench.analysis.metrics import claim_trials


def gradient_variances(frames: Frames) -> pd.DataFrame:
    """One row for each batch size and part of the batch: `examples`, `variance` of the mean gradient, `noise_trace`.

    Means over seeds. `noise_trace` is what the step to the next smaller part says of tr(Sigma), NaN at the smallest;
    it is free of |G|^2, which `variance` subtracts as the two largest parts estimate it.
    """
    norms = only(frames.gradient_norms, frames.gradient_norms["trial"].isin(claim_trials(frames)["trial"]))
    means = norms.groupby(["batch_size", "examples"], as_index=False)["squared_norm"].mean()
    groups = [_variances(group.sort_values("examples", ascending=False)) for _, group in means.groupby("batch_size")]
    return pd.concat(groups) if groups else means.assign(variance=0.0, noise_trace=0.0)


def _variances(parts: pd.DataFrame) -> pd.DataFrame:
    """Of one batch size, whole batch first."""
    norms, sizes = values(parts, "squared_norm"), values(parts, "examples")
    traces = np.append(np.diff(norms) / np.diff(1 / sizes), np.nan)
    return parts.assign(variance=norms - (norms[0] - traces[0] / sizes[0]), noise_trace=traces)


def exponent(variances: pd.DataFrame) -> Exponent | None:
    """The power of the number of examples that the variance goes with, -1 by the law; None with fewer than 3 points.

    One slope within batch sizes: between them the parameters differ, and tr(Sigma) with them.
    """
    known = only(variances, values(variances, "noise_trace") > 0)
    known = known[known.groupby("batch_size")["batch_size"].transform("size") > 1]
    logarithms = pd.DataFrame({name: np.log(values(known, name)) for name in ("examples", "noise_trace")})
    groups = logarithms.groupby(np.asarray(known["batch_size"]))
    freedom = len(known) - groups.ngroups - 1
    if freedom < 1:
        return None
    where, what = (values(logarithms - groups.transform("mean"), name) for name in ("examples", "noise_trace"))
    slope = float(where @ what / (where @ where))
    residuals = what - slope * where
    reach = float(stats.t.ppf(0.975, freedom) * np.sqrt(residuals @ residuals / freedom / (where @ where)))
    sizes = sorted(set(known["batch_size"].astype(int)))
    return Exponent(value=slope - 1, interval=(slope - 1 - reach, slope - 1 + reach), batch_sizes=sizes)
