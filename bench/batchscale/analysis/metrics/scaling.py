"""How training scales with the batch size: fitted knees, regimes, exponents of rates, gradient noise and variance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from batchscale.analysis.frames.schema import one_before, only, values
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_parts import Exponent, LearningRates, Ranged, RateShape, Rule, Shape
from batchscale.analysis.summary_types import (
    AffineStepTime,
    CriticalBatchSize,
    GradientNoise,
    Regime,
)
from batchscale.config.plan import effective_rate
from batchscale.statistics.curve_fit import fit_slope, fit_slopes_of_parabola
from batchscale.statistics.estimate import Interval
from batchscale.statistics.intervals import DRAWS, SEED, Array, interval

OVERHEAD = 0.2
"""Scaling is perfect if at most this fraction of additional examples is needed (Zhang et al., 2024). It is saturated if
at most this fraction of additional steps is needed."""

FEWEST_TO_TURN = 5
"""Batch sizes that a test of turning needs: three parameters of a parabola, and two more."""
NEAR_ZERO = 0.25
"""Rates do not depend on the batch size if the whole interval of the exponent is nearer to 0 than to a square root."""
MOST_LOG = 700.0


def critical_batch_size(sweep: Sweep) -> CriticalBatchSize | None:
    """Return the knee of the examples to the target; None where no curve could be fitted."""
    fit = sweep.examples_fit.knee
    if fit is None:
        return None
    return CriticalBatchSize(
        value=fit.knee,
        interval=fit.interval,
        fit_error=fit.fit_error,
        steps_min=fit.scale / fit.knee,
        examples_min=fit.scale,
        batch_sizes=fit.batch_sizes,
        outliers=fit.outliers,
    )


def affine_step_time(sweep: Sweep) -> AffineStepTime | None:
    """Return the fixed and the growing cost of a step; None where no curve could be fitted."""
    fit = sweep.step_seconds_fit.knee
    if fit is None:
        return None
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
    """Return the regime of each batch size, or None for those that did not reach the target, or without steps.

    The regime follows from the fitted curve. Without a fit, it follows from the fewest examples that any batch size up
    to this one needed; a batch size alone has no regime.
    """
    fit = sweep.examples_fit.knee
    medians = np.where(np.isfinite(sweep.training.medians), sweep.training.medians, np.nan)
    if sweep.amounts.why_no("steps") or np.isfinite(medians).sum() < 2:
        return [None] * len(sweep.sizes)
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
    # On the hyperbola (S/S_min - 1)(E/E_min - 1) = 1, so the overhead in steps is the inverse of that in examples.
    return "saturated" if fitted and overhead >= 1 / OVERHEAD else "diminishing_returns"


def learning_rates(sweep: Sweep) -> LearningRates | None:
    """Fit the power of the batch size that the best rate for the target is proportional to.

    None where fewer than three batch sizes that reached the target have a best rate inside their grid. Without a target
    the best rate is that of the best score, at every batch size.
    """
    chosen = {size: claim.choice for size, claim in sweep.claims.items() if claim.choice}
    reached = dict(zip(sweep.sizes.tolist(), np.isfinite(sweep.training.medians), strict=True))
    untimed = _without_target(sweep)
    edges = [size for size, choice in chosen.items() if choice.is_at_edge(choice.for_target)]
    inside = {size: choice for size, choice in chosen.items() if choice.is_inside and (untimed or reached.get(size))}
    rates = {size: effective_rate(choice.for_target) for size, choice in inside.items()}
    if len(rates) < 3:
        return None
    width = np.log(sweep.frames.experiment.learning_rate.factor)
    overall = _exponent(rates, width)
    return LearningRates(
        overall=overall,
        rule=_rule(overall),
        shape=_shape(rates, width),
        at_grid_edge=sorted(edges),
        effective="momentum" in sweep.frames.experiment.search,
        by_neighbours=sorted(size for size, choice in chosen.items() if choice.neighbours),
    )


def why_no_learning_rates(sweep: Sweep) -> str:
    """Return the reason why no power of the batch size is fitted to the best rates."""
    counted = "" if _without_target(sweep) else " that reached the target"
    return f"fewer than three batch sizes{counted} have a best rate inside their grid"


def _without_target(sweep: Sweep) -> bool:
    return sweep.frames.has_scores and sweep.frames.goal is None


def _exponent(rates: dict[int, float], grid_width: float) -> Exponent | None:
    """Fit log rate on log batch size; the spread is at least the one that rounding to the grid of rates causes."""
    if len(rates) < 3:
        return None
    sizes = sorted(rates)
    logarithms = np.log(np.array(sizes, dtype=np.float64))
    where = logarithms - logarithms.mean()
    slope, interval = fit_slope(where, np.log([rates[size] for size in sizes]), len(sizes) - 2, grid_width**2 / 12)
    return Exponent(value=slope, interval=interval, batch_sizes=sizes)


def _shape(rates: dict[int, float], grid_width: float) -> RateShape | None:
    """Judge by the slopes at both ends of a parabola whether the rate turns; None where nothing is left to judge by."""
    if len(rates) < FEWEST_TO_TURN:
        return None
    sizes = sorted(rates)
    logarithms = np.log(np.array(sizes, dtype=np.float64))
    first, last, turn = fit_slopes_of_parabola(
        logarithms - logarithms.mean(), np.log([rates[size] for size in sizes]), grid_width**2 / 12
    )
    signs = _sign(first[1]), _sign(last[1])
    names: dict[tuple[int, int], Shape] = {
        (1, -1): "rises then falls",
        (-1, 1): "falls then rises",
        (1, 1): "rises",
        (-1, -1): "falls",
    }
    at = float(np.exp(min(turn + logarithms.mean(), MOST_LOG)))
    return RateShape(
        shape=names.get(signs, "undecided"),
        first_slope=Ranged(value=first[0], interval=first[1]),
        last_slope=Ranged(value=last[0], interval=last[1]),
        turning_point=at if sizes[0] < at < sizes[-1] else None,
    )


def _sign(ends: Interval) -> int:
    """Return 1 for an interval above 0, -1 for one below 0, and 0 for one that holds 0."""
    low, high = ends
    return int(low is not None and low > 0) - int(high is not None and high < 0)


def _rule(exponent: Exponent | None) -> Rule:
    """Return the scaling rules that the interval of the exponent allows."""
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
    rule = names.get(allowed, "undecided")
    far = max(abs(low or 0.0), abs(high or 0.0)) > NEAR_ZERO
    return "undecided" if rule == "none" and far else rule


def gradient_noise(sweep: Sweep) -> GradientNoise | None:
    """Estimate B_simple = tr(Sigma) / |G|^2 over the trials that claims rest on; resampling them gives the interval."""
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
    """Return the reason why the gradient noise scale is not known."""
    if not sweep.frames.experiment.evaluation.noise or sweep.frames.imported:
        return "it was not measured"
    if sweep.claims and not len(_claimed(sweep)):
        return "no training run has estimates of it, which take batches of several microbatches"
    return "no training run holds usable estimates of it"


def _claimed(sweep: Sweep) -> pd.DataFrame:
    noise = sweep.frames.noise
    return only(noise, noise["trial"].isin(sweep.claim_trials["trial"]))


def _over_training(noise: pd.DataFrame, column: str) -> Array:
    """Return the mean of each trial (trials,), every stretch of training weighted by the examples that it covers."""
    covered = values(noise, "examples") - one_before(noise, "examples")
    which, _ = pd.factorize(noise["trial"])
    return np.bincount(which, covered * values(noise, column)) / np.bincount(which, covered)


def _stretch(noise: pd.DataFrame) -> float | None:
    return _ratio(values(noise, "noise_trace").mean(), values(noise, "gradient_squared").mean())


def _ratio(trace: float, squared: float) -> float | None:
    """Return tr(Sigma) / |G|^2; None where noise made an estimate negative."""
    return float(trace / squared) if squared > 0 and trace > 0 else None


def gradient_variances(sweep: Sweep) -> pd.DataFrame:
    """Return how the variance of the gradient falls with the number of examples in it, at the same parameters.

    One row for each batch size and part of the batch, means over seeds, with the columns

    - `batch_size`, and `examples` in the part;
    - `variance` of the mean gradient over the part: its squared norm minus |G|^2, which is estimated from the two
      largest parts;
    - `noise_trace`: tr(Sigma), estimated from the squared norms of this part and of the next smaller one; NaN at the
      smallest part.
    """
    norms = sweep.frames.gradient_norms
    norms = only(norms, norms["trial"].isin(sweep.claim_trials["trial"]))
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
    """Fit the power of the number of examples that the variance of the gradient is proportional to; the law is -1.

    None with too few parts to judge. One slope is fitted to all batch sizes, with a separate level for each. Levels
    differ because tr(Sigma) depends on the parameters, which differ between batch sizes.
    """
    lines = list(_logarithms(variances))
    where, what = (
        np.concatenate([np.empty(0), *(line[axis] - line[axis].mean() for line in lines)]) for axis in (0, 1)
    )
    freedom = len(where) - len(lines) - 1
    if freedom < 1:
        return None
    # tr(Sigma) is the variance times the number of examples, so its power is one more than that of the variance.
    slope, ends = fit_slope(where, what, freedom)
    low, high = (None if end is None else end - 1 for end in ends)
    sizes = sorted({int(size) for size in values(variances, "batch_size")})
    return Exponent(value=slope - 1, interval=(low, high), batch_sizes=sizes)


def _logarithms(variances: pd.DataFrame) -> Iterator[tuple[Array, Array]]:
    """Yield logarithms of examples and of tr(Sigma) for each batch size that has at least two of them."""
    known = only(variances, values(variances, "noise_trace") > 0)
    for _, of_size in known.groupby("batch_size"):
        if len(of_size) > 1:
            yield np.log(values(of_size, "examples")), np.log(values(of_size, "noise_trace"))
