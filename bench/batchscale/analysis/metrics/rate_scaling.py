"""How needs and rates move with the batch size: fits in a reader's units, regimes, rate exponents, gradient noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from batchscale.analysis.frames.schema import one_before, only, values
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.statistics.curve_fit import Knee
from batchscale.analysis.statistics.intervals import DRAWS, SEED, Array, interval
from batchscale.analysis.summary_types import (
    AffineStepTime,
    CriticalBatchSize,
    Exponent,
    GradientNoise,
    LearningRates,
    Regime,
    Rule,
)
from batchscale.config.plan import effective_rate

OVERHEAD = 0.2
"""Up to this share more examples, scaling is perfect (Zhang et al., 2024); up to this share more steps, saturated."""

WHY_NO_RATES = "fewer than three batch sizes have a best rate inside their grid"


def critical_batch_size(fit: Knee) -> CriticalBatchSize:
    """The hyperbola's knee and what follows from it."""
    return CriticalBatchSize(
        value=fit.knee,
        interval=fit.interval,
        fit_error=fit.fit_error,
        steps_min=fit.scale / fit.knee,
        examples_min=fit.scale,
        overhead_20_batch_size=0.2 * fit.knee,
        overhead_50_batch_size=0.5 * fit.knee,
        batch_sizes=fit.batch_sizes,
        outliers=fit.outliers,
    )


def affine_step_time(fit: Knee) -> AffineStepTime:
    """The fixed and the growing cost of a step."""
    return AffineStepTime(
        alpha_seconds=fit.scale,
        beta_seconds=fit.scale / fit.knee,
        knee_batch_size=fit.knee,
        interval=fit.interval,
        fit_error=fit.fit_error,
        batch_sizes=fit.batch_sizes,
        outliers=fit.outliers,
    )


def regimes(sweep: Sweep) -> list[Regime | None]:
    """The regime of each cell, by the fit; where there is none, by the least examples up to its batch size."""
    fit = sweep.examples_fit.knee
    medians = np.where(np.isfinite(sweep.examples.medians), sweep.examples.medians, np.nan)
    least = np.fmin.accumulate(np.where(sweep.below_useful_range, np.nan, medians))
    found: list[Regime | None] = []
    for at, size in enumerate(sweep.sizes.tolist()):
        if np.isnan(medians[at]):
            found.append(None)
        elif sweep.below_useful_range[at]:
            found.append("below_useful_range")
        else:
            overhead = size / fit.knee if fit else float(np.expm1(medians[at] - least[at]))
            found.append(_regime(overhead, fitted=fit is not None))
    return found


def _regime(overhead: float, *, fitted: bool) -> Regime:
    if overhead <= OVERHEAD:
        return "perfect_scaling"
    # Steps above their minimum are the inverse of examples above theirs: (S/S_min - 1)(E/E_min - 1) = 1.
    return "saturated" if fitted and overhead >= 1 / OVERHEAD else "diminishing_returns"


def learning_rates(sweep: Sweep) -> LearningRates | None:
    """Exponents of the best rate for the target; None where fewer than three batch sizes have one inside the grid."""
    chosen = {size: claim.choice for size, claim in sweep.claims.items() if claim.choice}
    reached = dict(zip(sweep.sizes.tolist(), np.isfinite(sweep.examples.medians), strict=True))
    edges = [size for size, choice in chosen.items() if choice.is_at_edge(choice.for_target)]
    inside = {size: choice for size, choice in chosen.items() if choice.is_inside and reached.get(size, False)}
    rates = {size: effective_rate(choice.for_target) for size, choice in inside.items()}
    if len(rates) < 3:
        return None
    width = np.log(sweep.frames.experiment.learning_rate.factor)
    overall = _exponent(rates, width)
    fit = sweep.examples_fit.knee
    knee = fit.knee if fit else np.nan
    return LearningRates(
        overall=overall,
        below_critical=_exponent({size: rate for size, rate in rates.items() if size <= knee}, width),
        above_critical=_exponent({size: rate for size, rate in rates.items() if size > knee}, width),
        rule=_rule(overall),
        at_grid_edge=sorted(edges),
        effective="momentum" in sweep.frames.experiment.search,
    )


def _exponent(rates: dict[int, float], grid_width: float) -> Exponent | None:
    """Slope of log rate on log batch size; the spread is never below what the grid's rounding causes."""
    if len(rates) < 3:
        return None
    sizes = sorted(rates)
    where = np.log(sizes) - np.mean(np.log(sizes))
    values = np.log([rates[size] for size in sizes])
    slope = float(where @ values / (where @ where))
    residuals = values - values.mean() - slope * where
    freedom = len(sizes) - 2
    variance = max(float(residuals @ residuals) / freedom, grid_width**2 / 12)
    reach = float(stats.t.ppf(0.975, freedom) * np.sqrt(variance / (where @ where)))
    return Exponent(value=slope, interval=(slope - reach, slope + reach), batch_sizes=sizes)


def _rule(exponent: Exponent | None) -> Rule:
    """The scaling rules that the interval of the exponent allows."""
    if exponent is None:
        return "undecided"
    low, high = exponent.interval
    allowed = tuple(power for power in (0.0, 0.5, 1.0) if low is not None and high is not None and low <= power <= high)
    names: dict[tuple[float, ...], Rule] = {
        (0.0,): "none",
        (0.5,): "sqrt",
        (1.0,): "linear",
        (0.5, 1.0): "sqrt or linear",
        (): "neither",
    }
    return names.get(allowed, "undecided")


def gradient_noise(sweep: Sweep) -> GradientNoise | None:
    """B_simple over the trials that claims rest on, with an interval from resampling the trials."""
    noise = _claimed(sweep).dropna(subset=["gradient_squared", "noise_trace"])
    if not len(noise):
        return None
    traces, squares = _over_training(noise, "noise_trace"), _over_training(noise, "gradient_squared")
    value = _ratio(traces.mean(), squares.mean())
    if value is None:
        return None
    picks = np.random.default_rng([SEED, 11]).integers(0, len(traces), (DRAWS, len(traces)))
    below = squares[picks].mean(axis=1)
    draws = np.where(below > 0, traces[picks].mean(axis=1) / np.where(below > 0, below, 1.0), np.inf)
    fit = sweep.examples_fit.knee
    return GradientNoise(
        value=value,
        interval=interval(draws) if len(traces) > 1 else (None, None),
        start=_stretch(noise.drop_duplicates("trial", keep="first")),
        end=_stretch(noise.drop_duplicates("trial", keep="last")),
        trials=len(traces),
        ratio_to_critical=value / fit.knee if fit else None,
        batch_sizes=sorted(set(noise["batch_size"].tolist())),
    )


def why_no_gradient_noise(sweep: Sweep) -> str:
    """What kept it from being known."""
    if not sweep.frames.experiment.evaluation.noise or sweep.frames.imported:
        return "it was not measured"
    if sweep.claims and not len(_claimed(sweep)):
        return "no training run has estimates of it, which take batches of several microbatches"
    return "no training run holds usable estimates of it"


def _claimed(sweep: Sweep) -> pd.DataFrame:
    rested_on = [claim.for_target["trial"] for claim in sweep.claims.values()]
    trials = pd.concat(rested_on) if rested_on else pd.Series(dtype="int64")
    noise = sweep.frames.noise
    return only(noise, noise["trial"].isin(trials))


def _over_training(noise: pd.DataFrame, column: str) -> Array:
    """The mean of each trial (trials,), every stretch counting for the examples it covers."""
    covered = values(noise, "examples") - one_before(noise, "examples")
    which, _ = pd.factorize(noise["trial"])
    return np.bincount(which, covered * values(noise, column)) / np.bincount(which, covered)


def _stretch(noise: pd.DataFrame) -> float | None:
    return _ratio(values(noise, "noise_trace").mean(), values(noise, "gradient_squared").mean())


def _ratio(trace: float, squared: float) -> float | None:
    """tr(Sigma) / |G|^2; None where the estimate of |G|^2 is not positive, as noise can make it."""
    return float(trace / squared) if squared > 0 and trace > 0 else None
